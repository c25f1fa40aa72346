#include "bind/tensor.h"

#include <cstring>

#include "base/check.h"
#include "bind/bind.h"

namespace pydllm::bind {
namespace {

py::tuple shape_tuple(const Tensor& tensor) {
  py::tuple shape(tensor.shape().size());
  for (size_t axis = 0; axis < tensor.shape().size(); ++axis) shape[axis] = tensor.shape()[axis];
  return shape;
}

std::pair<int, int> dl_device_of(const Tensor& tensor) {
  return {static_cast<int>(tensor.device().type), tensor.device().index};
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

// The values are complete (bind/tensor.h), so no stream has to wait for another; what the standard excludes is refused.
void check_stream(const py::object& stream, Device device) {
  if (stream.is_none()) return;
  if (device.type == DeviceType::kCpu) throw py::value_error("stream: expected None for a CPU tensor");
  constexpr const char* kExpected =
      "stream: expected None, -1, 1 (legacy default), 2 (per-thread default) or the address of a CUDA stream, got ";
  if (!PyLong_Check(stream.ptr()) || PyBool_Check(stream.ptr())) {
    throw py::value_error(format(kExpected, "a ", Py_TYPE(stream.ptr())->tp_name));
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(stream.ptr(), &overflow);
  if (overflow != 0) throw py::value_error(format(kExpected, "a number that is no address"));
  if (value < -1 || value == 0) throw py::value_error(format(kExpected, value));
}

py::capsule dlpack(const PyTensor& self, const py::object& stream, const py::object& max_version,
                   const py::object& dl_device, const py::object& copy) {
  const Device device = self.tensor.device();
  check_stream(stream, device);
  if (!dl_device.is_none() && int_pair(dl_device, "dl_device") != dl_device_of(self.tensor)) {
    throw py::buffer_error(format("dl_device: this tensor lives on ", name_of(device), " and is not moved"));
  }
  const bool versioned = !max_version.is_none() && int_pair(max_version, "max_version").first >= 1;
  const bool copied = !copy.is_none() && py::cast<bool>(copy);
  if (copied && device.type != DeviceType::kCpu) {
    throw py::buffer_error(format("copy: a tensor on ", name_of(device), " is exported as it is, not copied"));
  }
  return copied ? export_dlpack(copy_of(self), versioned, true) : export_dlpack(self, versioned, false);
}

}  // namespace

void bind_tensor(py::module_& module) {
  py::class_<PyTensor>(module, "Tensor",
                       "A contiguous row-major tensor that speaks DLPack and __cuda_array_interface__.")
      .def_property_readonly("shape", [](const PyTensor& self) { return shape_tuple(self.tensor); })
      .def_property_readonly("dtype",
                             [](const PyTensor& self) { return py::str(std::string(name_of(self.tensor.dtype()))); })
      .def_property_readonly("device", [](const PyTensor& self) { return name_of(self.tensor.device()); })
      .def_static(
          "from_dlpack", [](const py::object& producer) { return import_dlpack(producer); }, py::arg("producer"))
      .def("__dlpack__", dlpack, py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const PyTensor& self) { return dl_device_of(self.tensor); })
      .def_static(
          "from_cuda_array_interface",
          [](const py::object& producer, const py::object& device) { return import_cuda_array(producer, device); },
          py::arg("producer"), py::kw_only(), py::arg("device") = py::none())
      .def_property_readonly("__cuda_array_interface__", export_cuda_array);
}

}  // namespace pydllm::bind
