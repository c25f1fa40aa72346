// The parts of the Python module, one function per file; module.cpp calls them in this order.
#pragma once

#include <pybind11/pybind11.h>

namespace pydllm::bind {

namespace py = pybind11;

void bind_errors(py::module_& module);
void bind_tensor(py::module_& module);
void bind_model(py::module_& module);
void bind_events(py::module_& module);
void bind_stats(py::module_& module);
void bind_matmul(py::module_& module);
void bind_engine(py::module_& module);
void bind_registry(py::module_& module);
void bind_build_info(py::module_& module);
void bind_ops(py::module_& module);

}  // namespace pydllm::bind
