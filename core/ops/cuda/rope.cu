#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr int kHeadWarps = 4;

// One warp per head: its norm (weight not null), then its rotation (half > 0), in place. A lane reads both dimensions
// of a pair before it writes either, and no lane writes before all have summed.
__global__ void __launch_bounds__(32 * kHeadWarps)
    norm_rope_kernel(float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads, int64_t head_dim,
                     const float* weight, float epsilon, const int32_t* positions, const float* cos, const float* sin,
                     int64_t half) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kHeadWarps + threadIdx.x / 32;
  if (index >= tokens * heads) return;  // the whole warp
  const int64_t token = index / heads, lane = threadIdx.x % 32;
  float* head = x + token * width + first_column + index % heads * head_dim;
  float factor = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (int64_t d = lane; d < head_dim; d += 32) squares = fmaf(head[d], head[d], squares);
    factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(head_dim) + epsilon);
  }
  const auto normed = [&](int64_t d) { return weight == nullptr ? head[d] : head[d] * factor * weight[d]; };
  const int64_t row = half > 0 ? positions[token] * half : 0;
  for (int64_t d = lane; d < half; d += 32) {
    const float low = normed(d), high = normed(d + half), c = cos[row + d], s = sin[row + d];
    head[d] = low * c - high * s;
    head[d + half] = high * c + low * s;
  }
  if (weight == nullptr) return;
  for (int64_t d = 2 * half + lane; d < head_dim; d += 32) head[d] = normed(d);
}

static void launch_heads(const char* name, float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads,
                         int64_t head_dim, const float* weight, float epsilon, const int32_t* positions,
                         const float* cos, const float* sin, int64_t half, Stream stream) {
  if (tokens == 0 || heads == 0 || head_dim == 0) return;
  const int64_t count = (tokens * heads + kHeadWarps - 1) / kHeadWarps;
  launch(name, norm_rope_kernel, {blocks(name, count), 1, 1}, 32 * kHeadWarps, 0, stream, x, tokens, width,
         first_column, heads, head_dim, weight, epsilon, positions, cos, sin, half);
}

void rms_norm_heads(float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads, int64_t head_dim,
                    const float* weight, float epsilon, Stream stream) {
  launch_heads("rms_norm_heads", x, tokens, width, first_column, heads, head_dim, weight, epsilon, nullptr, nullptr,
               nullptr, 0, stream);
}

void rope(float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads, int64_t head_dim,
          const int32_t* positions, const float* cos, const float* sin, int64_t half, const float* norm_weight,
          float epsilon, Stream stream) {
  launch_heads("rope", x, tokens, width, first_column, heads, head_dim, norm_weight, epsilon, positions, cos, sin, half,
               stream);
}

}  // namespace pydllm::ops::cuda
