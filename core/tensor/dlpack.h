// The ABI of DLPack (https://dmlc.github.io/dlpack), declared here so that no foreign header is needed: the plain
// structure of versions 0.x (capsule "dltensor") and the versioned one of 1.x (capsule "dltensor_versioned").
#pragma once

#include <cstddef>
#include <cstdint>

namespace pydllm {

inline constexpr uint32_t kDLPackMajor = 1;
inline constexpr uint32_t kDLPackMinor = 0;

// Bits of DLManagedTensorVersioned::flags.
inline constexpr uint64_t kDLFlagReadOnly = 1;
inline constexpr uint64_t kDLFlagIsCopied = 2;

enum DLDeviceType : int32_t { kDLCPU = 1, kDLCUDA = 2, kDLCUDAHost = 3, kDLCUDAManaged = 13 };
enum DLDataTypeCode : uint8_t { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4, kDLComplex = 5, kDLBool = 6 };

struct DLPackVersion {
  uint32_t major;
  uint32_t minor;
};

struct DLDevice {
  DLDeviceType device_type;
  int32_t device_id;
};

struct DLDataType {
  uint8_t code;    // DLDataTypeCode
  uint8_t bits;    // of one lane
  uint16_t lanes;  // 1 for plain tensors
};

struct DLTensor {
  void* data;  // with byte_offset added, the first element
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means contiguous, row-major
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);  // may be null
};

struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);  // may be null
  uint64_t flags;
  DLTensor dl_tensor;
};

static_assert(sizeof(void*) != 8 ||
              (sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64 && sizeof(DLManagedTensorVersioned) == 80));
static_assert(offsetof(DLTensor, shape) == offsetof(DLTensor, dtype) + sizeof(DLDataType));

}  // namespace pydllm
