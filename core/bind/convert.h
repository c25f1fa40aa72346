// Checked conversions from Python at the boundary: what does not fit is an InvalidRequest that names the field, what
// was expected and what came. Integral types of other libraries (numpy) pass; bool is no number.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "decode/algorithm.h"
#include "engine/request.h"

namespace pydllm::bind {

namespace py = pybind11;

// The value as an error message shows it: one short line.
std::string shown(py::handle value);
[[noreturn]] void refuse(const std::string& field, const std::string& expected, py::handle value);

bool to_bool(py::handle value, const std::string& field);
std::string to_string(py::handle value, const std::string& field);
double to_finite(py::handle value, const std::string& field);
uint64_t to_uint64(py::handle value, const std::string& field);
int64_t to_integer(py::handle value, const std::string& field, int64_t low, int64_t high);
inline int32_t to_int32(py::handle value, const std::string& field, int32_t low = std::numeric_limits<int32_t>::min()) {
  return static_cast<int32_t>(to_integer(value, field, low, std::numeric_limits<int32_t>::max()));
}
// A sequence of integers in [0, 2^31).
std::vector<int32_t> to_ids(py::handle value, const std::string& field);
// The same with None, a hole, as -1.
std::vector<int32_t> to_ids_and_holes(py::handle value, const std::string& field);
std::vector<std::string> to_strings(py::handle value, const std::string& field);
// A copy of a mapping.
py::dict to_dict(py::handle value, const std::string& field);
decode::ParamMap to_params(py::handle value);
// A mapping of token ids to biases.
std::vector<engine::TokenBias> to_biases(py::handle value, const std::string& field);

}  // namespace pydllm::bind
