// Who multiplies bfloat16 matrices on a CUDA device: chosen once, before the weights are read.
#include "ops/matmul.h"

#include <pybind11/stl.h>

#include "bind/bind.h"
#include "bind/convert.h"
#include "ops/cuda/cublaslt_library.h"
#include "tensor/cuda/built.h"

namespace pydllm::bind {
namespace {

ops::Matmul choose(const py::object& wanted, const py::object& device, const py::object& dtype,
                   const py::object& wheel_folders) {
  std::string name = to_string(wanted, "matmul");
  const Device where = device_from_name(to_string(device, "device"));
  const DType weights = dtype_from_name(to_string(dtype, "dtype"));
  const std::vector<std::string> folders = to_strings(wheel_folders, "wheel_folders");
  // A real library, which a machine without a GPU may have, cannot compute in the emulation's memory.
  if (kCudaIsEmulated && name == "auto") name = "builtin";
  const py::gil_scoped_release release;  // half a gigabyte is mapped
  return ops::choose_matmul(name, where, weights, ops::cuda::search_with_environment(folders));
}

}  // namespace

void bind_matmul(py::module_& module) {
  py::class_<ops::Matmul>(module, "Matmul", "Who multiplies bfloat16 matrices on a CUDA device.")
      .def_readonly("description", &ops::Matmul::description);
  module.def("choose_matmul", choose, py::arg("wanted"), py::kw_only(), py::arg("device"), py::arg("dtype"),
             py::arg("wheel_folders") = py::tuple());
}

}  // namespace pydllm::bind
