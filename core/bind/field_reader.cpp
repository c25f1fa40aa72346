#include "bind/field_reader.h"

#include <utility>

#include "base/check.h"
#include "base/errors.h"
#include "bind/convert.h"

namespace pydllm::bind {

FieldReader::FieldReader(py::handle values, std::string what, bool complete)
    : what_(std::move(what)), complete_(complete), values_(to_dict(values, what_)) {
  for (const auto& item : values_) to_string(item.first, what_);
}

py::object FieldReader::take(const char* name) {
  known_.insert(name);
  if (values_.contains(name)) return values_[name];
  if (complete_) throw InvalidRequest(name, format(what_, ": ", name, " is missing"));
  return {};
}

void FieldReader::read(const char* name, int32_t& field) {
  if (const py::object value = take(name)) field = to_int32(value, name);
}

void FieldReader::read(const char* name, double& field) {
  if (const py::object value = take(name)) field = to_finite(value, name);
}

void FieldReader::read(const char* name, bool& field) {
  if (const py::object value = take(name)) field = to_bool(value, name);
}

void FieldReader::read(const char* name, std::string& field) {
  if (const py::object value = take(name)) field = to_string(value, name);
}

FieldReader FieldReader::nested(const char* name) {
  const py::object values = take(name);
  return FieldReader(values ? values : py::dict(), format(what_, ".", name), false);
}

void FieldReader::finish() const {
  for (const auto& item : values_) {
    const std::string name = to_string(item.first, what_);
    if (known_.contains(name)) continue;
    std::string list;
    for (const std::string& known : known_) list.append(list.empty() ? "" : ", ").append(known);
    throw InvalidRequest(name, format(what_, ": no such field ", shown(item.first), ", expected ", list));
  }
}

}  // namespace pydllm::bind
