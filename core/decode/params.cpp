// check_params: the one gate between what a client wrote and what an algorithm reads.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/check.h"
#include "decode/param_values.h"

namespace pydllm::decode {
namespace {

std::string number_text(double value) {
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, result.ptr);
}

std::string value_text(const ParamValue& value) {
  struct {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return number_text(v); }
    std::string operator()(const std::string& v) const { return quoted(v); }
  } text;
  return std::visit(text, value);
}

std::string joined(std::span<const std::string_view> words) {
  std::string list;
  for (const std::string_view word : words) list += format(list.empty() ? "" : ", ", word);
  return list;
}

std::string known_params(const Algorithm& algorithm, AttentionKind model) {
  std::vector<std::string_view> names;
  for (const ParamSpec& spec : algorithm.params) {
    if (spec.attention.contains(model)) names.push_back(spec.name);
  }
  return joined(names);
}

std::string range_text(const ParamSpec& spec) {
  // std::to_string keeps 1000000 from becoming 1e+06.
  const auto bound = [&](double v) {
    return spec.type == ParamType::kInt ? std::to_string(static_cast<int64_t>(v)) : number_text(v);
  };
  return format("[", bound(spec.minimum), ", ", bound(spec.maximum), "]");
}

std::string expected_text(const ParamSpec& spec) {
  switch (spec.type) {
    case ParamType::kBool:
      return "true or false";
    case ParamType::kInt:
      return format("an integer in ", range_text(spec));
    case ParamType::kFloat:
      return format("a number in ", range_text(spec));
    case ParamType::kChoice:
      return format("one of ", joined(spec.choices));
  }
  throw InternalError(format("parameter ", spec.name, ": unknown type"));
}

std::optional<double> as_number(const ParamValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* real = std::get_if<double>(&value)) return *real;
  return std::nullopt;
}

// The value in the type of the table, or nothing when it does not fit.
std::optional<ParamValue> converted(const ParamSpec& spec, const ParamValue& value) {
  if (spec.type == ParamType::kBool) {
    return std::holds_alternative<bool>(value) ? std::optional(value) : std::nullopt;
  }
  if (spec.type == ParamType::kChoice) {
    const auto* word = std::get_if<std::string>(&value);
    if (word == nullptr || std::ranges::find(spec.choices, *word) == spec.choices.end()) return std::nullopt;
    return value;
  }
  const std::optional<double> number = as_number(value);
  // Written so that NaN fails; ranges of integers are far inside what a double holds exactly.
  if (!number || !(*number >= spec.minimum && *number <= spec.maximum)) return std::nullopt;
  if (spec.type == ParamType::kFloat) return ParamValue(*number);
  if (*number != std::trunc(*number)) return std::nullopt;
  return ParamValue(static_cast<int64_t>(*number));
}

const ParamSpec* find_spec(const Algorithm& algorithm, std::string_view name) {
  for (const ParamSpec& spec : algorithm.params) {
    if (spec.name == name || (!spec.alias.empty() && spec.alias == name)) return &spec;
  }
  return nullptr;
}

const ParamSpec& spec_for(const Algorithm& algorithm, AttentionKind model, std::string_view name) {
  const ParamSpec* spec = find_spec(algorithm, name);
  if (spec != nullptr && spec->attention.contains(model)) return *spec;
  const std::string known = known_params(algorithm, model);
  if (spec != nullptr) {
    const bool full = model == AttentionKind::kFull;
    throw Unsupported(param_field(name),
                      format(name, ": algorithm ", algorithm.name, " has it for models with ",
                             full ? "block-causal" : "full", " attention only, got it for one with ",
                             full ? "full" : "block-causal", " attention (where it has ", known, ")"));
  }
  if (is_typed_param(name)) {
    throw Unsupported(param_field(name),
                      format(name, ": algorithm ", algorithm.name, " has no such parameter (it has ", known, ")"));
  }
  throw InvalidRequest(param_field(name),
                       format(quoted(name), ": expected a parameter of ", algorithm.name, " (", known, ")"));
}

}  // namespace

ParamMap check_params(const Algorithm& algorithm, AttentionKind model, const ParamMap& given) {
  ParamMap checked;
  for (const auto& [name, value] : given) {
    const ParamSpec& spec = spec_for(algorithm, model, name);
    const bool repeated = std::ranges::any_of(checked, [&](const auto& entry) { return entry.first == spec.name; });
    if (repeated)
      throw InvalidRequest(param_field(name), format(name, ": expected one value, got ", spec.name, " twice"));
    std::optional<ParamValue> fitting = converted(spec, value);
    if (!fitting) {
      throw InvalidRequest(param_field(name),
                           format(name, ": expected ", expected_text(spec), ", got ", value_text(value)));
    }
    checked.emplace_back(spec.name, std::move(*fitting));
  }
  return checked;
}

}  // namespace pydllm::decode
