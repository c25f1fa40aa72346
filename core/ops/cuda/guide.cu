#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kGuideThreads = 256;

// One thread per logit. The product of two floats is exact in float64: rounding it there keeps nvcc from fusing it with
// the sum, so that the bits are those of the CPU.
__global__ void __launch_bounds__(kGuideThreads)
    guide_kernel(float* conditional, const float* unconditional, int64_t count, float weight) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kGuideThreads + threadIdx.x;
  if (i >= count) return;
  const float base = unconditional[i], difference = conditional[i] - base;
  conditional[i] = base + static_cast<float>(static_cast<double>(weight) * static_cast<double>(difference));
}

void guide(float* conditional, const float* unconditional, int64_t rows, int64_t vocab, float scale, Stream stream) {
  const int64_t count = rows * vocab;
  if (count == 0) return;
  launch("guide", guide_kernel, {blocks("guide", (count + kGuideThreads - 1) / kGuideThreads), 1, 1}, kGuideThreads, 0,
         stream, conditional, unconditional, count, scale + 1);
}

}  // namespace pydllm::ops::cuda
