// Reading parameters: what was given, or the default of the algorithm's table. Private to decode.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "decode/algorithm.h"

namespace pydllm::decode {

// The request field a parameter is given in: "diffusion.<name>" where DiffusionParams has the field, else
// "diffusion.extra.<name>".
std::string param_field(std::string_view name);
bool is_typed_param(std::string_view name);

// 'text' on one line of printable ASCII whatever the caller sent, shortened if long.
std::string quoted(std::string_view text);

// Values of one request for one table: given, or the family's default, or the table's. Asking for a name or type that
// the table does not have is an InternalError.
class ParamValues {
 public:
  ParamValues(const DecodeRequest& request, std::span<const ParamSpec> table)
      : given_(request.params), defaults_(request.defaults), table_(table) {}

  // Whether the request itself has the parameter.
  bool given(std::string_view name) const;

  int64_t integer(std::string_view name) const;
  int64_t integer_or(std::string_view name, int64_t fallback) const;  // for defaults that depend on the request
  bool boolean(std::string_view name) const;
  double number(std::string_view name) const;
  std::string_view choice(std::string_view name) const;

 private:
  const ParamSpec& spec(std::string_view name, ParamType type) const;
  const ParamValue* find(std::string_view name) const;

  const ParamMap* given_;
  const ParamMap* defaults_;
  std::span<const ParamSpec> table_;
};

}  // namespace pydllm::decode
