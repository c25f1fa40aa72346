#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr int kNormWarps = 8;

// One block per row. `x` and `out` may be the same: a thread reads what it overwrites itself.
template <class T>
__global__ void __launch_bounds__(32 * kNormWarps)
    rms_norm_kernel(const float* x, const int32_t* rows, const float* weight, float epsilon, int64_t dim, T* out) {
  float* scratch = shared_memory<float>();
  const int64_t source = rows == nullptr ? static_cast<int64_t>(blockIdx.x) : rows[blockIdx.x];
  const float* row = x + source * dim;
  float squares = 0;
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) squares = fmaf(row[d], row[d], squares);
  const float mean = block_sum<kNormWarps>(squares, scratch) / static_cast<float>(dim);
  const float factor = 1.0f / sqrtf(mean + epsilon);
  T* to = out + static_cast<int64_t>(blockIdx.x) * dim;
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) to[d] = narrow<T>(row[d] * factor * weight[d]);
}

template <class T>
void rms_norm(const float* x, const int32_t* rows, int64_t count, int64_t dim, const float* weight, float epsilon,
              T* out, Stream stream) {
  if (count == 0 || dim == 0) return;
  launch("rms_norm", rms_norm_kernel<T>, {blocks("rms_norm", count), 1, 1}, 32 * kNormWarps, kNormWarps * sizeof(float),
         stream, x, rows, weight, epsilon, dim, out);
}

template void rms_norm(const float*, const int32_t*, int64_t, int64_t, const float*, float, float*, Stream);
template void rms_norm(const float*, const int32_t*, int64_t, int64_t, const float*, float, BFloat16*, Stream);
template void rms_norm(const float*, const int32_t*, int64_t, int64_t, const float*, float, Float16*, Stream);

}  // namespace pydllm::ops::cuda
