// Matrix product with packed weights: y = x W^T (+ bias).
#pragma once

#include <span>
#include <string_view>

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// A weight matrix in the layout the kernels of its device read (CPU: panels of 64 output columns, bfloat16 with k-pairs
// interleaved; CUDA: [out_features, in_features] as it is). Immutable after packing; the same layout serves every
// instruction set.
class PackedWeight {
 public:
  PackedWeight() = default;

  // Stacks matrices of one input width: parts[i] is [n_i, k] of any float dtype; the result has sum n_i outputs and
  // stores `dtype` (float32 | bfloat16 | float16), rounding to nearest even. Parts are in host memory (memory-mapped,
  // maybe) or, of this dtype, on the context's CUDA device; they are read once and not kept, except that a single part
  // that is there already is shared. `bias` is undefined or float32 [sum n_i].
  static PackedWeight pack(const Context& context, std::span<const Tensor> parts, DType dtype, Tensor bias = {});

  // The same weight whose panels, copied by the caller, are at `panels`, of the same shape, dtype and device.
  PackedWeight moved_to(const Tensor& panels) const;

  int64_t out_features() const noexcept { return out_features_; }
  int64_t in_features() const noexcept { return in_features_; }
  DType dtype() const noexcept { return dtype_; }
  const Tensor& panels() const noexcept { return panels_; }
  const Tensor& bias() const noexcept { return bias_; }
  size_t nbytes() const noexcept { return panels_.defined() ? panels_.nbytes() : 0; }

 private:
  int64_t out_features_ = 0;
  int64_t in_features_ = 0;
  DType dtype_ = DType::kF32;
  Tensor panels_;
  Tensor bias_;
};

enum class LinearMode {
  kOverwrite,   // y = x W^T + bias
  kAccumulate,  // y += x W^T + bias (the residual connection)
};

// The element type `linear` wants for x when the weight stores `weight`: bfloat16 for bfloat16 weights, float32 for
// float32 and float16 weights. Producers (rms_norm, swiglu, attention) write this type directly.
DType linear_input_dtype(DType weight);

//   x  linear_input_dtype(weight.dtype()) [rows, in_features]
//   y  float32 [rows, out_features], not aliasing x
// Accumulates in float32. A row of y depends on that row of x and the weight only, bit for bit: not on the number of
// rows, their order or the threads. Where the context has cuBLASLt, bfloat16 rows also depend on the bucket of the
// number of rows (ops/cuda/cublaslt.h).
void linear(const Context& context, const Tensor& x, const PackedWeight& weight, Tensor& y,
            LinearMode mode = LinearMode::kOverwrite);

// The instruction set chosen at run time for this dtype: "amxbf16", "avx512bf16", "avx512", "avx2" or "scalar". The
// environment variable PYDLLM_CPU_ISA caps it (scalar | avx2 | avx512 | avx512bf16 | amxbf16); an unknown value throws
// InvalidRequest.
std::string_view linear_isa(DType weight);

}  // namespace pydllm::ops
