#include "bind/tensor.h"

#include <cstring>

#include "base/check.h"
#include "bind/bind.h"
#include "tensor/dlpack.h"

namespace pydllm::bind {
namespace {

py::tuple shape_tuple(const Tensor& tensor) {
  py::tuple shape(tensor.shape().size());
  for (size_t axis = 0; axis < tensor.shape().size(); ++axis) shape[axis] = tensor.shape()[axis];
  return shape;
}

PyTensor copy_of(const PyTensor& source) {
  PyTensor copy{Tensor::empty(source.tensor.shape(), source.tensor.dtype())};
  if (source.tensor.nbytes() > 0) std::memcpy(copy.tensor.raw(), source.tensor.raw(), source.tensor.nbytes());
  return copy;
}

std::pair<int, int> int_pair(py::handle value, const char* name) {
  if (!PyTuple_Check(value.ptr()) || PyTuple_GET_SIZE(value.ptr()) != 2) {
    throw py::value_error(format(name, ": expected a pair of integers"));
  }
  const auto pair = py::reinterpret_borrow<py::tuple>(value);
  return {py::cast<int>(pair[0]), py::cast<int>(pair[1])};
}

py::capsule dlpack(const PyTensor& self, const py::object& stream, const py::object& max_version,
                   const py::object& dl_device, const py::object& copy) {
  if (!stream.is_none()) throw py::value_error("stream: expected None for a CPU tensor");
  if (!dl_device.is_none() && int_pair(dl_device, "dl_device") != std::pair<int, int>(kDLCPU, 0)) {
    throw py::buffer_error("dl_device: this tensor lives on the CPU and is not moved");
  }
  const bool versioned = !max_version.is_none() && int_pair(max_version, "max_version").first >= 1;
  const bool copied = !copy.is_none() && py::cast<bool>(copy);
  return copied ? export_dlpack(copy_of(self), versioned, true) : export_dlpack(self, versioned, false);
}

}  // namespace

void bind_tensor(py::module_& module) {
  py::class_<PyTensor>(module, "Tensor", "A contiguous row-major tensor that speaks DLPack.")
      .def_property_readonly("shape", [](const PyTensor& self) { return shape_tuple(self.tensor); })
      .def_property_readonly("dtype",
                             [](const PyTensor& self) { return py::str(std::string(name_of(self.tensor.dtype()))); })
      .def_property_readonly("device", [](const PyTensor& self) { return name_of(self.tensor.device()); })
      .def_static(
          "from_dlpack", [](const py::object& producer) { return import_dlpack(producer); }, py::arg("producer"))
      .def("__dlpack__", dlpack, py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const PyTensor&) { return py::make_tuple(static_cast<int>(kDLCPU), 0); });
}

}  // namespace pydllm::bind
