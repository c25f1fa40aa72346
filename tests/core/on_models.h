// Every registered algorithm on every kind of model that it runs on.
#pragma once

#include <algorithm>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "decode/algorithm.h"

namespace pydllm::decode {

struct OnModel {
  const Algorithm* algorithm;
  AttentionKind attention;  // of the model

  bool block_causal() const { return attention == AttentionKind::kBlockCausal; }
  bool has_param(std::string_view name) const {
    return std::ranges::any_of(algorithm->params, [&](const ParamSpec& spec) {
      return spec.name == name && spec.attention.contains(attention);
    });
  }
  // For test names: that of the algorithm, with the kind behind it where it is not its first one.
  std::string name() const {
    const bool second = block_causal() && runs_on(*algorithm, AttentionKind::kFull);
    return std::string(algorithm->name) + (second ? "_block_causal" : "");
  }
};

inline void PrintTo(const OnModel& on, std::ostream* out) {
  *out << on.name();
}

// The first kind of model that it runs on.
inline AttentionKind first_attention(const Algorithm& algorithm) {
  return runs_on(algorithm, AttentionKind::kFull) ? AttentionKind::kFull : AttentionKind::kBlockCausal;
}

inline std::vector<OnModel> algorithms_on_models() {
  std::vector<OnModel> out;
  for (const Algorithm* algorithm : algorithms()) {
    for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kBlockCausal}) {
      if (runs_on(*algorithm, kind)) out.push_back({algorithm, kind});
    }
  }
  return out;
}

}  // namespace pydllm::decode
