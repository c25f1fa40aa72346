#include "ops/cpu/vector_kernels.h"

#if defined(__AVX2__) && defined(__FMA__)

#include "ops/cpu/attention.inc"
#include "ops/cpu/elementwise.inc"
#include "ops/cpu/row_stats.inc"

namespace pydllm::ops::cpu {

const VectorKernels* avx2_kernels() {
  static const VectorKernels kernels{"avx2",
                                     swiglu_kernel,
                                     sum_of_squares_kernel,
                                     scale_kernel,
                                     to_bf16_kernel,
                                     from_bf16_kernel,
                                     exp_kernel,
                                     chunk_max_kernel,
                                     chunk_sums_kernel,
                                     next_above_kernel,
                                     kAttentionRows,
                                     attention_memory_kernel,
                                     attention_kernel};
  return &kernels;
}

}  // namespace pydllm::ops::cpu

#else

namespace pydllm::ops::cpu {

const VectorKernels* avx2_kernels() {
  return nullptr;
}

}  // namespace pydllm::ops::cpu

#endif
