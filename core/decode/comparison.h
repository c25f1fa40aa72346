// How the entropy rules compare with their threshold, as a parameter. Private to decode.
#pragma once

#include <string_view>

#include "base/check.h"
#include "decode/algorithm.h"
#include "select/select.h"

namespace pydllm::decode {

inline constexpr std::string_view kComparisonChoices[] = {"le", "lt"};
inline constexpr ParamSpec kComparisonParam = {
    .name = "comparison",
    .alias = "",
    .type = ParamType::kChoice,
    .default_value = "le",
    .choices = kComparisonChoices,
    .help = "le: entropy <= threshold passes (LLaDA); lt: entropy < threshold (Dream)"};

inline select::Comparison parse_comparison(std::string_view name) {
  if (name == "le") return select::Comparison::kAtMost;
  if (name == "lt") return select::Comparison::kBelow;
  throw InternalError(format("comparison: unknown choice ", name));
}

}  // namespace pydllm::decode
