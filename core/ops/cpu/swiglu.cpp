#include <algorithm>

#include "ops/cpu/convert.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {
namespace {

constexpr int64_t kPiece = 512;

void gate_row(const VectorKernels& kernels, const float* gate, int64_t width, DType dtype, void* out, int64_t offset) {
  const float* up = gate + width;
  if (dtype == DType::kF32) return kernels.swiglu(gate, up, width, static_cast<float*>(out) + offset);
  float piece[kPiece];
  for (int64_t f = 0; f < width; f += kPiece) {
    const int64_t n = std::min(kPiece, width - f);
    kernels.swiglu(gate + f, up + f, n, piece);
    store_floats(kernels, piece, n, dtype, out, offset + f);
  }
}

}  // namespace

void swiglu(const Context& context, const Tensor& gate_up, Tensor& out) {
  const int64_t width = out.size(1);
  const VectorKernels& kernels = vector_kernels();
  parallel_rows(context, out.size(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      gate_row(kernels, gate_up.data<float>() + r * 2 * width, width, out.dtype(), out.raw(), r * width);
    }
  });
}

}  // namespace pydllm::ops::cpu
