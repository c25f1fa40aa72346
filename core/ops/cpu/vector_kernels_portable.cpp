#include "ops/cpu/attention.inc"
#include "ops/cpu/elementwise.inc"
#include "ops/cpu/row_stats.inc"
#include "ops/cpu/vector_kernels.h"

namespace pydllm::ops::cpu {

const VectorKernels* portable_kernels() {
  static const VectorKernels kernels{"scalar",          swiglu_kernel,    sum_of_squares_kernel,
                                     scale_kernel,      to_bf16_kernel,   from_bf16_kernel,
                                     exp_kernel,        chunk_max_kernel, chunk_sums_kernel,
                                     next_above_kernel, kAttentionRows,   attention_memory_kernel,
                                     attention_kernel};
  return &kernels;
}

}  // namespace pydllm::ops::cpu
