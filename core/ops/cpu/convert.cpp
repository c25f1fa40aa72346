#include "ops/cpu/convert.h"

#include <cstring>

#include "base/check.h"

namespace pydllm::ops::cpu {
namespace {

// Checkpoints are mapped wherever their tensors lie in the file, so elements are fetched byte-wise.
template <class T>
void load_halves(const char* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    T element;
    std::memcpy(&element, x + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    out[i] = to_float(element);
  }
}

}  // namespace

void store_floats(const VectorKernels& kernels, const float* x, int64_t n, DType dtype, void* out, int64_t offset) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(static_cast<float*>(out) + offset, x, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      kernels.to_bf16(x, n, static_cast<uint16_t*>(out) + offset);
      return;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) static_cast<Float16*>(out)[offset + i] = to_float16(x[i]);
      return;
    default:
      throw InternalError(format("cannot store floats as ", name_of(dtype)));
  }
}

void load_floats(const void* x, int64_t offset, int64_t n, DType dtype, float* out) {
  const char* bytes = static_cast<const char*>(x) + offset * static_cast<int64_t>(size_of(dtype));
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(n) * sizeof(float));
      return;
    case DType::kBF16:
      load_halves<BFloat16>(bytes, n, out);
      return;
    case DType::kF16:
      load_halves<Float16>(bytes, n, out);
      return;
    default:
      throw InternalError(format("cannot read floats from ", name_of(dtype)));
  }
}

}  // namespace pydllm::ops::cpu
