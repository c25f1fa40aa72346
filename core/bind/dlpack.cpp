// DLPack capsules. A capsule that nobody consumed frees what it holds; a consumed one was renamed and is left alone.
#include "tensor/dlpack.h"

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "bind/tensor.h"
#include "tensor/cuda_driver.h"

namespace pydllm::bind {
namespace {

struct TypeRow {
  DType dtype;
  DLDataType code;
};
constexpr std::array<TypeRow, 6> kTypes = {{{DType::kF32, {kDLFloat, 32, 1}},
                                            {DType::kBF16, {kDLBfloat, 16, 1}},
                                            {DType::kF16, {kDLFloat, 16, 1}},
                                            {DType::kI32, {kDLInt, 32, 1}},
                                            {DType::kI64, {kDLInt, 64, 1}},
                                            {DType::kU8, {kDLUInt, 8, 1}}}};

template <class Managed>
constexpr const char* kCapsule = "dltensor";
template <>
constexpr const char* kCapsule<DLManagedTensorVersioned> = "dltensor_versioned";
template <class Managed>
constexpr const char* kUsedCapsule = "used_dltensor";
template <>
constexpr const char* kUsedCapsule<DLManagedTensorVersioned> = "used_dltensor_versioned";

// --- export ---

template <class Managed>
struct Exported {
  Managed managed{};
  Tensor tensor;  // keeps the storage alive
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
};

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
  return strides;
}

DLDataType code_of(DType dtype) {
  for (const TypeRow& row : kTypes) {
    if (row.dtype == dtype) return row.code;
  }
  throw InternalError("dtype without a DLPack code");
}

template <class Managed>
void free_unused(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, kCapsule<Managed>)) return;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kCapsule<Managed>));
  if (managed->deleter) managed->deleter(managed);
}

template <class Managed>
std::unique_ptr<Exported<Managed>> make_exported(const Tensor& tensor) {
  auto out = std::make_unique<Exported<Managed>>();
  out->tensor = tensor;
  out->shape = tensor.shape();
  out->strides = row_major_strides(out->shape);
  out->managed.manager_ctx = out.get();
  out->managed.deleter = [](Managed* self) { delete static_cast<Exported<Managed>*>(self->manager_ctx); };
  out->managed.dl_tensor = {.data = tensor.raw(),
                            .device = {static_cast<DLDeviceType>(tensor.device().type), tensor.device().index},
                            .ndim = tensor.rank(),
                            .dtype = code_of(tensor.dtype()),
                            .shape = out->shape.data(),
                            .strides = out->strides.data(),
                            .byte_offset = 0};
  return out;
}

template <class Managed>
py::capsule wrap(std::unique_ptr<Exported<Managed>> exported) {
  PyObject* capsule = PyCapsule_New(&exported->managed, kCapsule<Managed>, free_unused<Managed>);
  if (!capsule) throw py::error_already_set();
  exported.release();  // NOLINT: the capsule owns it now
  return py::reinterpret_steal<py::capsule>(capsule);
}

// --- import ---

DType known_dtype(DLDataType code) {
  for (const TypeRow& row : kTypes) {
    if (row.code.code == code.code && row.code.bits == code.bits && code.lanes == 1) return row.dtype;
  }
  refuse_producer(format("expected float32, bfloat16, float16, int32, int64 or uint8, got DLPack type code ",
                         static_cast<int>(code.code), " with ", static_cast<int>(code.bits), " bits"));
}

Device known_device(int type, int index) {
  if (type == kDLCPU) return {};
  if (type == kDLCUDA && index >= 0) return {DeviceType::kCuda, index};
  refuse_producer(format("expected a CPU or CUDA tensor, got DLPack device type ", type, ", device ", index));
}

Tensor view_of(const DLTensor& foreign, const std::shared_ptr<const void>& owner) {
  const Device device = known_device(foreign.device.device_type, foreign.device.device_id);
  const DType dtype = known_dtype(foreign.dtype);
  if (foreign.ndim < 0 || (foreign.ndim > 0 && !foreign.shape)) refuse_producer("expected a shape");
  std::vector<int64_t> shape(foreign.shape, foreign.shape + foreign.ndim);
  check_shape(shape, dtype);
  if (foreign.strides) check_strides(shape, foreign.strides, 1);
  auto* data = static_cast<char*>(foreign.data) + foreign.byte_offset;
  check_address(data, dtype);
  return Tensor::borrow(data, std::move(shape), dtype, device, owner);
}

template <class Managed>
void check_version(const Managed&) {}
template <>
void check_version(const DLManagedTensorVersioned& managed) {
  if (managed.version.major != kDLPackMajor) {
    refuse_producer(format("expected DLPack version ", kDLPackMajor, ", got ", managed.version.major));
  }
}

bool is_read_only(const DLManagedTensor&) {
  return false;
}
bool is_read_only(const DLManagedTensorVersioned& managed) {
  return (managed.flags & kDLFlagReadOnly) != 0;
}

// Views may die on the engine thread; producers' deleters may touch Python objects.
template <class Managed>
void free_foreign(Managed* managed) {
  if (!managed->deleter || !Py_IsInitialized()) return;
  const py::gil_scoped_acquire gil;
  managed->deleter(managed);
}

template <class Managed>
PyTensor take(const py::object& capsule, Device announced) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule<Managed>));
  check_version(*managed);
  const Tensor checked = view_of(managed->dl_tensor, nullptr);
  if (checked.device() != announced) {
    refuse_producer(
        format("__dlpack_device__ says ", name_of(announced), ", the capsule says ", name_of(checked.device())));
  }
  if (PyCapsule_SetName(capsule.ptr(), kUsedCapsule<Managed>) != 0) throw py::error_already_set();
  const std::shared_ptr<const void> owner(managed, [managed](const void*) { free_foreign(managed); });
  return {Tensor::borrow(checked.raw(), checked.shape(), checked.dtype(), checked.device(), owner),
          is_read_only(*managed)};
}

Device device_of(py::handle producer) {
  if (!py::hasattr(producer, "__dlpack__") || !py::hasattr(producer, "__dlpack_device__")) {
    refuse_producer("expected an object with __dlpack__ and __dlpack_device__");
  }
  const auto pair = py::tuple(producer.attr("__dlpack_device__")());
  if (pair.size() != 2) refuse_producer("__dlpack_device__: expected a pair of integers");
  return known_device(py::cast<int>(pair[0]), py::cast<int>(pair[1]));
}

// Of a CUDA tensor the producer is asked to make the values ready on the legacy default stream, which is then waited
// for. Producers older than DLPack 1.0 do not know max_version.
py::object ask_for_capsule(py::handle producer, Device device) {
  py::dict arguments;
  if (device.type == DeviceType::kCuda) arguments["stream"] = kLegacyDefaultStream;
  py::dict versioned = arguments.attr("copy")();
  versioned["max_version"] = py::make_tuple(kDLPackMajor, kDLPackMinor);
  try {
    return producer.attr("__dlpack__")(**versioned);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return producer.attr("__dlpack__")(**arguments);
}

PyTensor take_any(const py::object& capsule, Device announced) {
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule<DLManagedTensorVersioned>)) {
    return take<DLManagedTensorVersioned>(capsule, announced);
  }
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule<DLManagedTensor>)) return take<DLManagedTensor>(capsule, announced);
  refuse_producer("__dlpack__ returned no DLPack capsule");
}

}  // namespace

PyTensor import_dlpack(py::handle producer) {
  const Device device = device_of(producer);
  PyTensor tensor = take_any(ask_for_capsule(producer, device), device);
  if (device.type == DeviceType::kCuda) {
    const py::gil_scoped_release release;
    wait_for_cuda_stream(device.index, kLegacyDefaultStream);
  }
  return tensor;
}

py::capsule export_dlpack(const PyTensor& tensor, bool versioned, bool is_copy) {
  if (!versioned) {
    if (tensor.read_only) throw py::buffer_error("a read-only tensor needs DLPack 1.0 (max_version)");
    return wrap(make_exported<DLManagedTensor>(tensor.tensor));
  }
  auto exported = make_exported<DLManagedTensorVersioned>(tensor.tensor);
  exported->managed.version = {kDLPackMajor, kDLPackMinor};
  exported->managed.flags = (tensor.read_only ? kDLFlagReadOnly : 0) | (is_copy ? kDLFlagIsCopied : 0);
  return wrap(std::move(exported));
}

}  // namespace pydllm::bind
