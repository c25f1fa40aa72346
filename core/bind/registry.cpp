// What this build can run: algorithms with their parameters, architectures.
#include "models/registry.h"

#include <pybind11/stl.h>

#include "base/check.h"
#include "bind/bind.h"
#include "bind/convert.h"
#include "decode/algorithm.h"

namespace pydllm::bind {
namespace {

using decode::Algorithm;
using decode::ParamSpec;
using decode::ParamType;

const char* name(ParamType type) {
  switch (type) {
    case ParamType::kBool:
      return "bool";
    case ParamType::kInt:
      return "int";
    case ParamType::kFloat:
      return "float";
    case ParamType::kChoice:
      return "choice";
  }
  throw InternalError("unknown parameter type");
}

std::vector<std::string> strings(std::span<const std::string_view> views) {
  return {views.begin(), views.end()};
}

constexpr AttentionKind kKinds[] = {AttentionKind::kFull, AttentionKind::kBlockCausal,
                                    AttentionKind::kPromptBlockCausal};

std::vector<std::string_view> names(decode::AttentionKinds kinds) {
  std::vector<std::string_view> out;
  for (const AttentionKind kind : kKinds) {
    if (kinds.contains(kind)) out.push_back(name_of(kind));
  }
  return out;
}

// Of a model.
AttentionKind to_attention(const py::object& value) {
  const std::string given = to_string(value, "attention");
  for (const AttentionKind kind : {AttentionKind::kFull, AttentionKind::kBlockCausal}) {
    if (name_of(kind) == given) return kind;
  }
  refuse("attention", "full or block_causal", value);
}

// Static tables: handed to Python as references.
std::vector<const ParamSpec*> specs(const Algorithm& algorithm) {
  std::vector<const ParamSpec*> out;
  for (const ParamSpec& spec : algorithm.params) out.push_back(&spec);
  return out;
}

void bind_param_spec(py::module_& module) {
  py::class_<ParamSpec>(module, "ParamSpec")
      .def_readonly("name", &ParamSpec::name)
      .def_readonly("alias", &ParamSpec::alias)
      .def_property_readonly("type", [](const ParamSpec& self) { return name(self.type); })
      .def_readonly("default", &ParamSpec::default_value)
      .def_readonly("minimum", &ParamSpec::minimum)
      .def_readonly("maximum", &ParamSpec::maximum)
      .def_property_readonly("choices", [](const ParamSpec& self) { return strings(self.choices); })
      .def_readonly("help", &ParamSpec::help)
      .def_property_readonly("attention", [](const ParamSpec& self) { return names(self.attention); });
}

void bind_algorithm(py::module_& module) {
  py::class_<Algorithm>(module, "AlgorithmInfo")
      .def_readonly("name", &Algorithm::name)
      .def_property_readonly("aliases", [](const Algorithm& self) { return strings(self.aliases); })
      .def_property_readonly("params", specs, py::return_value_policy::reference)
      .def_property_readonly("attention", [](const Algorithm& self) { return names(self.attention); })
      .def_property_readonly("edits", [](const Algorithm& self) { return self.finality == decode::Finality::kSettled; })
      .def_readonly("summary", &Algorithm::summary)
      .def_readonly("source", &Algorithm::source);
}

void bind_architecture(py::module_& module) {
  py::class_<AlgorithmDefault>(module, "AlgorithmDefault")
      .def_readonly("algorithm", &AlgorithmDefault::algorithm)
      .def_readonly("param", &AlgorithmDefault::param)
      .def_readonly("value", &AlgorithmDefault::value);
  py::class_<Architecture>(module, "ArchitectureInfo")
      .def_readonly("name", &Architecture::name)
      .def_readonly("default_algorithm", &Architecture::default_algorithm)
      .def_property_readonly("algorithms", [](const Architecture& self) { return strings(self.algorithms); })
      .def_property_readonly("defaults", [](const Architecture& self) {
        return std::vector<AlgorithmDefault>(self.defaults.begin(), self.defaults.end());
      });
}

std::vector<const Algorithm*> all_algorithms() {
  const auto known = decode::algorithms();
  return {known.begin(), known.end()};
}

// The parameters as the algorithm reads them: aliases resolved, numbers in the declared type.
py::dict checked_params(const py::object& algorithm, const py::object& params, const py::object& attention) {
  const Algorithm& known = decode::find_algorithm(to_string(algorithm, "algorithm"));
  py::dict out;
  for (const auto& [key, value] : decode::check_params(known, to_attention(attention), to_params(params))) {
    out[py::str(key)] = py::cast(value);
  }
  return out;
}

std::vector<const Architecture*> all_architectures() {
  std::vector<const Architecture*> out;
  for (const Architecture& architecture : architectures()) out.push_back(&architecture);
  return out;
}

}  // namespace

void bind_registry(py::module_& module) {
  bind_param_spec(module);
  bind_algorithm(module);
  bind_architecture(module);
  module.def("algorithms", all_algorithms, py::return_value_policy::reference);
  module.def("check_params", checked_params, py::arg("algorithm"), py::arg("params"), py::kw_only(),
             py::arg("attention"));
  module.def("architectures", all_architectures, py::return_value_policy::reference);
}

}  // namespace pydllm::bind
