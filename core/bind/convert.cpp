#include "bind/convert.h"

#include <cmath>

#include "base/check.h"
#include "base/errors.h"
#include "decode/param_values.h"

namespace pydllm::bind {
namespace {

constexpr size_t kLongestShown = 60;

bool is_bool(py::handle value) {
  return PyBool_Check(value.ptr()) != 0;
}

std::string range_text(int64_t low, int64_t high) {
  return format("an integer in [", low, ", ", high, "]");
}

// The value as a Python int, or null when it is none (a bool, a float, a string ...).
py::object as_index(py::handle value) {
  if (is_bool(value)) return {};
  PyObject* index = PyNumber_Index(value.ptr());
  if (!index) PyErr_Clear();
  return py::reinterpret_steal<py::object>(index);
}

// A tuple of the items, so that conversions running Python code cannot change what is being read.
py::tuple to_tuple(py::handle value, const std::string& field, const char* expected) {
  const bool text = PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr());
  if (text || !PySequence_Check(value.ptr())) refuse(field, expected, value);
  PyObject* items = PySequence_Tuple(value.ptr());
  if (!items) throw py::error_already_set();
  return py::reinterpret_steal<py::tuple>(items);
}

decode::ParamValue to_param(py::handle value, const std::string& field) {
  if (is_bool(value)) return value.ptr() == Py_True;
  if (PyUnicode_Check(value.ptr())) return to_string(value, field);
  if (as_index(value)) {
    return to_integer(value, field, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  }
  return to_finite(value, field);
}

}  // namespace

std::string shown(py::handle value) {
  PyObject* repr = PyObject_ASCII(value.ptr());
  if (!repr) {
    PyErr_Clear();
    return "an object that cannot be shown";
  }
  const std::string text = py::cast<std::string>(py::reinterpret_steal<py::object>(repr));
  return text.size() <= kLongestShown ? text : text.substr(0, kLongestShown - 3) + "...";
}

void refuse(const std::string& field, const std::string& expected, py::handle value) {
  throw InvalidRequest(field, format(field, ": expected ", expected, ", got ", shown(value)));
}

bool to_bool(py::handle value, const std::string& field) {
  if (!is_bool(value)) refuse(field, "true or false", value);
  return value.ptr() == Py_True;
}

std::string to_string(py::handle value, const std::string& field) {
  if (!PyUnicode_Check(value.ptr())) refuse(field, "a string", value);
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (!bytes) {  // lone surrogates
    PyErr_Clear();
    refuse(field, "valid Unicode", value);
  }
  return {bytes, static_cast<size_t>(size)};
}

double to_finite(py::handle value, const std::string& field) {
  const bool textual = PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr());
  const double number = is_bool(value) || textual ? NAN : PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    refuse(field, "a finite number", value);
  }
  if (!std::isfinite(number)) refuse(field, "a finite number", value);
  return number;
}

uint64_t to_uint64(py::handle value, const std::string& field) {
  constexpr const char* kExpected = "an integer in [0, 2^64 - 1]";
  const py::object index = as_index(value);
  if (!index) refuse(field, kExpected, value);
  const unsigned long long number = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred()) {  // negative or too large
    PyErr_Clear();
    refuse(field, kExpected, value);
  }
  return number;
}

int64_t to_integer(py::handle value, const std::string& field, int64_t low, int64_t high) {
  const py::object index = as_index(value);
  if (!index) refuse(field, range_text(low, high), value);
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || number < low || number > high) refuse(field, range_text(low, high), value);
  return number;
}

std::vector<int32_t> to_ids(py::handle value, const std::string& field) {
  const py::tuple items = to_tuple(value, field, "a sequence of token ids");
  std::vector<int32_t> ids;
  ids.reserve(items.size());
  for (const py::handle item : items) {
    int overflow = 0;
    const bool plain = PyLong_CheckExact(item.ptr()) != 0;
    const long long id = plain ? PyLong_AsLongLongAndOverflow(item.ptr(), &overflow) : -1;
    const bool fits = overflow == 0 && id >= 0 && id <= std::numeric_limits<int32_t>::max();
    ids.push_back(fits ? static_cast<int32_t>(id) : to_int32(item, format(field, "[", ids.size(), "]"), 0));
  }
  return ids;
}

std::vector<int32_t> to_ids_and_holes(py::handle value, const std::string& field) {
  const py::tuple items = to_tuple(value, field, "a sequence of token ids and None");
  std::vector<int32_t> ids;
  for (const py::handle item : items) {
    ids.push_back(item.is_none() ? -1 : to_int32(item, format(field, "[", ids.size(), "]"), 0));
  }
  return ids;
}

std::vector<std::string> to_strings(py::handle value, const std::string& field) {
  const py::tuple items = to_tuple(value, field, "a sequence of strings");
  std::vector<std::string> strings;
  for (const py::handle item : items) strings.push_back(to_string(item, field));
  return strings;
}

py::dict to_dict(py::handle value, const std::string& field) {
  if (!PyMapping_Check(value.ptr()) || !py::hasattr(value, "keys")) refuse(field, "a mapping", value);
  py::dict copy;
  if (PyDict_Update(copy.ptr(), value.ptr()) != 0) throw py::error_already_set();
  return copy;
}

decode::ParamMap to_params(py::handle value) {
  decode::ParamMap params;
  if (value.is_none()) return params;
  for (const auto& [key, item] : to_dict(value, "diffusion.extra")) {
    std::string name = to_string(key, "diffusion.extra");
    decode::ParamValue converted = to_param(item, decode::param_field(name));
    params.emplace_back(std::move(name), std::move(converted));
  }
  return params;
}

std::vector<engine::TokenBias> to_biases(py::handle value, const std::string& field) {
  std::vector<engine::TokenBias> biases;
  for (const auto& [key, item] : to_dict(value, field)) {
    const int32_t id = to_int32(key, field, 0);
    biases.push_back({id, static_cast<float>(to_finite(item, field))});
  }
  return biases;
}

}  // namespace pydllm::bind
