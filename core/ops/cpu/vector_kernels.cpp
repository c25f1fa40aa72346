#include "ops/cpu/vector_kernels.h"

#include "ops/cpu/isa.h"

namespace pydllm::ops::cpu {
namespace {

const VectorKernels& widest(Isa limit) {
  const VectorKernels* kernels = nullptr;
  if (limit >= Isa::kAmxBf16) kernels = amxbf16_kernels();
  if (!kernels && limit >= Isa::kAvx512) kernels = avx512_kernels();
  if (!kernels && limit >= Isa::kAvx2) kernels = avx2_kernels();
  return kernels ? *kernels : *portable_kernels();
}

}  // namespace

const VectorKernels& vector_kernels() {
  static const VectorKernels& kernels = widest(active_isa());
  return kernels;
}

}  // namespace pydllm::ops::cpu
