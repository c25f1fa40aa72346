// DLPack capsules. A capsule that nobody consumed frees what it holds; a consumed one was renamed and is left alone.
#include "tensor/dlpack.h"

#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "bind/tensor.h"

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
                            .device = {kDLCPU, 0},
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

[[noreturn]] void refuse_producer(const std::string& why) {
  throw py::value_error("producer: " + why);
}

DType known_dtype(DLDataType code) {
  for (const TypeRow& row : kTypes) {
    if (row.code.code == code.code && row.code.bits == code.bits && code.lanes == 1) return row.dtype;
  }
  refuse_producer(format("expected float32, bfloat16, float16, int32, int64 or uint8, got DLPack type code ",
                         static_cast<int>(code.code), " with ", static_cast<int>(code.bits), " bits"));
}

std::vector<int64_t> checked_shape(const DLTensor& foreign, DType dtype) {
  if (foreign.ndim < 0 || (foreign.ndim > 0 && !foreign.shape)) refuse_producer("expected a shape");
  std::vector<int64_t> shape(foreign.shape, foreign.shape + foreign.ndim);
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) refuse_producer("the shape overflows");
  }
  return shape;
}

void check_contiguous(const DLTensor& foreign, const std::vector<int64_t>& shape) {
  if (!foreign.strides) return;
  int64_t expected = 1;
  for (size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] == 0) return;
    if (shape[axis] != 1 && foreign.strides[axis] != expected) {
      refuse_producer("expected a contiguous row-major tensor, got strides that are not");
    }
    expected *= shape[axis];
  }
}

Tensor view_of(const DLTensor& foreign, const std::shared_ptr<const void>& owner) {
  if (foreign.device.device_type != kDLCPU) {
    refuse_producer(
        format("expected a CPU tensor, got DLPack device type ", static_cast<int>(foreign.device.device_type)));
  }
  const DType dtype = known_dtype(foreign.dtype);
  std::vector<int64_t> shape = checked_shape(foreign, dtype);
  check_contiguous(foreign, shape);
  auto* data = static_cast<char*>(foreign.data) + foreign.byte_offset;
  if (reinterpret_cast<uintptr_t>(data) % size_of(dtype) != 0) refuse_producer("the data are not aligned to the dtype");
  return Tensor::borrow(data, std::move(shape), dtype, {}, owner);
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
PyTensor take(const py::object& capsule) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), kCapsule<Managed>));
  check_version(*managed);
  const Tensor checked = view_of(managed->dl_tensor, nullptr);
  if (PyCapsule_SetName(capsule.ptr(), kUsedCapsule<Managed>) != 0) throw py::error_already_set();
  const std::shared_ptr<const void> owner(managed, [managed](const void*) { free_foreign(managed); });
  return {Tensor::borrow(checked.raw(), checked.shape(), checked.dtype(), {}, owner), is_read_only(*managed)};
}

void check_device(py::handle producer) {
  if (!py::hasattr(producer, "__dlpack__") || !py::hasattr(producer, "__dlpack_device__")) {
    refuse_producer("expected an object with __dlpack__ and __dlpack_device__");
  }
  const int type = py::cast<int>(py::tuple(producer.attr("__dlpack_device__")())[0]);
  if (type != kDLCPU) refuse_producer(format("expected a CPU tensor, got DLPack device type ", type));
}

// Producers older than DLPack 1.0 do not know max_version.
py::object ask_for_capsule(py::handle producer) {
  try {
    return producer.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(kDLPackMajor, kDLPackMinor));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return producer.attr("__dlpack__")();
}

}  // namespace

PyTensor import_dlpack(py::handle producer) {
  check_device(producer);
  const py::object capsule = ask_for_capsule(producer);
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule<DLManagedTensorVersioned>)) {
    return take<DLManagedTensorVersioned>(capsule);
  }
  if (PyCapsule_IsValid(capsule.ptr(), kCapsule<DLManagedTensor>)) return take<DLManagedTensor>(capsule);
  refuse_producer("__dlpack__ returned no DLPack capsule");
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
