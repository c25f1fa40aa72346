#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kGatherThreads = 128;

// One block per row of the output.
__global__ void __launch_bounds__(kGatherThreads)
    gather_rows_kernel(const float* x, const int32_t* rows, int64_t dim, float* out) {
  const float* from = x + rows[blockIdx.x] * dim;
  float* to = out + static_cast<int64_t>(blockIdx.x) * dim;
  for (int64_t d = threadIdx.x; d < dim; d += kGatherThreads) to[d] = from[d];
}

void gather_rows(const float* x, const int32_t* rows, int64_t count, int64_t dim, float* out, Stream stream) {
  if (count == 0 || dim == 0) return;
  launch("gather_rows", gather_rows_kernel, {blocks("gather_rows", count), 1, 1}, kGatherThreads, 0, stream, x, rows,
         dim, out);
}

}  // namespace pydllm::ops::cuda
