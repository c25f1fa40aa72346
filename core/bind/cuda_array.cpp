// __cuda_array_interface__ (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html): a dictionary with
// the address, shape, type and stream of memory on a CUDA device.
#include <pybind11/stl.h>

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "bind/tensor.h"
#include "tensor/cuda_driver.h"

namespace pydllm::bind {
namespace {

constexpr const char* kName = "__cuda_array_interface__";

struct TypeRow {
  DType dtype;
  std::string_view typestr;
};
constexpr std::array<TypeRow, 5> kTypes = {
    {{DType::kF32, "<f4"}, {DType::kF16, "<f2"}, {DType::kI32, "<i4"}, {DType::kI64, "<i8"}, {DType::kU8, "|u1"}}};

[[noreturn]] void refuse_entry(const char* entry, const std::string& why) {
  refuse_producer(format(kName, ": ", entry, ": ", why));
}

// An entry as a T; ValueError names it when it is missing or something else.
template <class T>
T entry_of(const py::dict& interface, const char* entry, const char* expected) {
  if (!interface.contains(entry)) refuse_entry(entry, format("expected ", expected, ", got nothing"));
  const py::object value = interface[entry];
  try {
    return py::cast<T>(value);
  } catch (const py::cast_error&) {
    refuse_entry(entry, format("expected ", expected, ", got a ", Py_TYPE(value.ptr())->tp_name));
  }
}

bool is_given(const py::dict& interface, const char* entry) {
  return interface.contains(entry) && !interface[entry].is_none();
}

int checked_version(const py::dict& interface) {
  const int version = entry_of<int>(interface, "version", "2 or 3");
  if (version < 2 || version > 3) refuse_entry("version", format("expected 2 or 3, got ", version));
  return version;
}

DType checked_dtype(const py::dict& interface) {
  const auto typestr = entry_of<std::string>(interface, "typestr", "a text");
  for (const TypeRow& row : kTypes) {
    if (row.typestr == typestr) return row.dtype;
  }
  refuse_entry("typestr", format("expected <f4, <f2, <i4, <i8 or |u1, got \"", typestr,
                                 "\" (bfloat16 has no type here: use DLPack)"));
}

std::vector<int64_t> checked_shape(const py::dict& interface, DType dtype) {
  auto shape = entry_of<std::vector<int64_t>>(interface, "shape", "a tuple of integers");
  check_shape(shape, dtype);
  if (is_given(interface, "strides")) {
    const auto strides = entry_of<std::vector<int64_t>>(interface, "strides", "a tuple of integers");
    if (strides.size() != shape.size()) refuse_entry("strides", "expected one for each axis");
    check_strides(shape, strides.data(), static_cast<int64_t>(size_of(dtype)));
  }
  return shape;
}

// The stream to wait for, 0 for none. Version 2 had no entry: by convention its producers work on the default stream.
uintptr_t checked_stream(const py::dict& interface, int version) {
  if (version < 3) return kLegacyDefaultStream;
  if (!is_given(interface, "stream")) return 0;
  const auto stream = entry_of<int64_t>(interface, "stream", "None or an integer");
  if (stream <= 0) refuse_entry("stream", format("expected None, 1, 2 or the address of a stream, got ", stream));
  return static_cast<uintptr_t>(stream);
}

int checked_device(const py::object& device, const void* data) {
  if (!device.is_none()) {
    int overflow = 0;
    const bool is_integer = PyLong_Check(device.ptr()) && !PyBool_Check(device.ptr());
    const long index = is_integer ? PyLong_AsLongAndOverflow(device.ptr(), &overflow) : -1;
    if (overflow != 0 || index < 0 || index > std::numeric_limits<int>::max()) {
      throw py::value_error("device: expected None or the number of a CUDA device");
    }
    return static_cast<int>(index);
  }
  if (const std::optional<int> index = cuda_device_of(data)) return *index;
  throw py::value_error(
      "device: expected the number of a CUDA device: no CUDA driver in this process knows whose memory "
      "the producer's is");
}

// Views may die on the engine thread.
std::shared_ptr<const void> keep(py::handle producer) {
  return {producer.inc_ref().ptr(), [](const void* kept) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire gil;
            py::handle(static_cast<PyObject*>(const_cast<void*>(kept))).dec_ref();
          }};
}

}  // namespace

PyTensor import_cuda_array(py::handle producer, const py::object& device) {
  const py::object found = py::getattr(producer, kName, py::none());
  if (!py::isinstance<py::dict>(found)) refuse_producer(format("expected an object with ", kName));
  const auto interface = py::reinterpret_borrow<py::dict>(found);
  const int version = checked_version(interface);
  const DType dtype = checked_dtype(interface);
  std::vector<int64_t> shape = checked_shape(interface, dtype);
  if (is_given(interface, "mask")) refuse_entry("mask", "expected None, got a mask");
  const auto [address, read_only] =
      entry_of<std::pair<uintptr_t, bool>>(interface, "data", "a pair of an address and a bool");
  auto* data = reinterpret_cast<void*>(address);
  check_address(data, dtype);
  const uintptr_t stream = checked_stream(interface, version);
  const int index = checked_device(device, data);
  if (stream != 0) {
    const py::gil_scoped_release release;
    wait_for_cuda_stream(index, stream);
  }
  return {Tensor::borrow(data, std::move(shape), dtype, {DeviceType::kCuda, index}, keep(producer)), read_only};
}

py::dict export_cuda_array(const PyTensor& self) {
  const Tensor& tensor = self.tensor;
  if (tensor.device().type != DeviceType::kCuda) {
    throw py::attribute_error(format("a tensor on ", name_of(tensor.device()), " has no ", kName));
  }
  for (const TypeRow& row : kTypes) {
    if (row.dtype != tensor.dtype()) continue;
    py::dict interface;
    interface["shape"] = py::tuple(py::cast(tensor.shape()));
    interface["typestr"] = std::string(row.typestr);
    // The standard asks for 0 where there are no elements.
    const uintptr_t address = tensor.numel() == 0 ? 0 : reinterpret_cast<uintptr_t>(tensor.raw());
    interface["data"] = py::make_tuple(address, self.read_only);
    interface["strides"] = py::none();
    interface["stream"] = py::none();  // complete: nothing to wait for
    interface["version"] = 3;
    return interface;
  }
  throw py::attribute_error(
      format("a ", name_of(tensor.dtype()), " tensor has no ", kName, ", which lacks the type: use DLPack"));
}

}  // namespace pydllm::bind
