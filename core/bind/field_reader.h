// Reads a mapping into a struct, field by field, and refuses the keys that no field took.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <set>
#include <string>

namespace pydllm::bind {

namespace py = pybind11;

class FieldReader {
 public:
  // `what` names the mapping in messages. Throws InvalidRequest(what) when `values` is no mapping or has a key that is
  // no string. Every missing field is an InvalidRequest when `complete`; else it keeps its value.
  FieldReader(py::handle values, std::string what, bool complete);

  void read(const char* name, int32_t& field);
  void read(const char* name, double& field);
  void read(const char* name, bool& field);
  void read(const char* name, std::string& field);
  // The mapping under `name`, whose missing fields keep their values; empty when `name` is missing.
  FieldReader nested(const char* name);
  // Throws InvalidRequest for keys that were not read.
  void finish() const;

 private:
  py::object take(const char* name);  // null when missing

  std::string what_;
  bool complete_;
  py::dict values_;
  std::set<std::string> known_;
};

}  // namespace pydllm::bind
