#include "decode/param_values.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/check.h"

namespace pydllm::decode {
namespace {

// The fields of DiffusionParams that are parameters of algorithms; everything else travels in `extra`.
constexpr std::string_view kTypedParams[] = {
    "block_length", "max_steps_per_block", "confidence_threshold", "entropy_threshold",
    "cache",        "allow_edits",         "edit_threshold",       "cache_refresh_interval"};
constexpr size_t kLongestQuote = 64;

template <class Number>
Number parse_default(const ParamSpec& spec) {
  Number value{};
  const char* end = spec.default_value.data() + spec.default_value.size();
  const auto [stopped, error] = std::from_chars(spec.default_value.data(), end, value);
  check(error == std::errc{} && stopped == end, "parameter ", spec.name, ": default '", spec.default_value,
        "' depends on the request");
  return value;
}

const ParamValue* value_in(const ParamMap* params, std::string_view name) {
  if (params == nullptr) return nullptr;
  const auto found =
      std::ranges::find(*params, name, [](const auto& entry) -> std::string_view { return entry.first; });
  return found == params->end() ? nullptr : &found->second;
}

void append_printable(std::string& out, char c) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 0x20 && byte < 0x7f && c != '\\' && c != '\'') {
    out += c;
  } else {
    out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
  }
}

}  // namespace

bool is_typed_param(std::string_view name) {
  return std::ranges::find(kTypedParams, name) != std::end(kTypedParams);
}

std::string param_field(std::string_view name) {
  if (is_typed_param(name)) return format("diffusion.", name);
  const std::string printable = quoted(name);
  return format("diffusion.extra.", std::string_view(printable).substr(1, printable.size() - 2));
}

std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, kLongestQuote)) append_printable(out, c);
  return out + (text.size() > kLongestQuote ? "...'" : "'");
}

const ParamSpec& ParamValues::spec(std::string_view name, ParamType type) const {
  const auto found = std::ranges::find(table_, name, &ParamSpec::name);
  check(found != table_.end() && found->type == type, "parameter ", name, ": not declared with this type");
  return *found;
}

bool ParamValues::given(std::string_view name) const {
  return value_in(given_, name) != nullptr;
}

const ParamValue* ParamValues::find(std::string_view name) const {
  const ParamValue* given = value_in(given_, name);
  return given != nullptr ? given : value_in(defaults_, name);
}

bool ParamValues::boolean(std::string_view name) const {
  const ParamSpec& declared = spec(name, ParamType::kBool);
  const ParamValue* value = find(name);
  return value != nullptr ? std::get<bool>(*value) : declared.default_value == "true";
}

int64_t ParamValues::integer(std::string_view name) const {
  const ParamSpec& declared = spec(name, ParamType::kInt);
  const ParamValue* value = find(name);
  return value != nullptr ? std::get<int64_t>(*value) : parse_default<int64_t>(declared);
}

int64_t ParamValues::integer_or(std::string_view name, int64_t fallback) const {
  spec(name, ParamType::kInt);
  const ParamValue* value = find(name);
  return value != nullptr ? std::get<int64_t>(*value) : fallback;
}

double ParamValues::number(std::string_view name) const {
  const ParamSpec& declared = spec(name, ParamType::kFloat);
  const ParamValue* value = find(name);
  return value != nullptr ? std::get<double>(*value) : parse_default<double>(declared);
}

std::string_view ParamValues::choice(std::string_view name) const {
  const ParamSpec& declared = spec(name, ParamType::kChoice);
  const ParamValue* value = find(name);
  return value != nullptr ? std::string_view(std::get<std::string>(*value)) : declared.default_value;
}

}  // namespace pydllm::decode
