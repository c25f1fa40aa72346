#include "ops/cpu/linear_kernels.h"

#include <array>

#include "base/check.h"

namespace pydllm::ops::cpu {
namespace {

struct Entry {
  DType weight;
  LinearKernel kernel;
};

// x and sums of a job, 4 KiB to a row, leave room for the panels in a second-level cache of 2 MiB.
constexpr int kAmxRows = 320, kAmxPanels = 8;

// Of each weight type the best first.
constexpr Entry kKernels[] = {
#if defined(__x86_64__)
    {DType::kBF16, {Isa::kAmxBf16, DType::kBF16, linear_bf16_amxbf16, kTiledRows, kAmxRows, kAmxPanels, true}},
    {DType::kBF16, {Isa::kAvx512Bf16, DType::kBF16, linear_bf16_avx512bf16}},
    {DType::kBF16, {Isa::kAvx512, DType::kF32, linear_bf16_avx512}},
    {DType::kBF16, {Isa::kAvx2, DType::kF32, linear_bf16_avx2}},
    {DType::kF32, {Isa::kAvx512, DType::kF32, linear_f32_avx512}},
    {DType::kF32, {Isa::kAvx2, DType::kF32, linear_f32_avx2}},
    {DType::kF16, {Isa::kAvx512, DType::kF32, linear_f16_avx512}},
    {DType::kF16, {Isa::kAvx2, DType::kF32, linear_f16_avx2}},
#endif
    {DType::kBF16, {Isa::kScalar, DType::kF32, linear_bf16_scalar}},
    {DType::kF32, {Isa::kScalar, DType::kF32, linear_f32_scalar}},
    {DType::kF16, {Isa::kScalar, DType::kF32, linear_f16_scalar}},
};

}  // namespace

LinearKernel linear_kernel(Isa isa, DType weight) {
  for (const Entry& entry : kKernels) {
    if (entry.weight == weight && entry.kernel.isa <= isa) return entry.kernel;
  }
  throw InternalError(format("linear: expected float32, bfloat16 or float16 weights, got ", name_of(weight)));
}

}  // namespace pydllm::ops::cpu
