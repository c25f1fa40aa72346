#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kEmbeddingThreads = 128;

// One block per token.
template <class T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_kernel(const int32_t* ids, const T* table, int64_t dim, float* out) {
  const T* from = table + ids[blockIdx.x] * dim;
  float* to = out + static_cast<int64_t>(blockIdx.x) * dim;
  for (int64_t d = threadIdx.x; d < dim; d += kEmbeddingThreads) to[d] = widen(from[d]);
}

template <class T>
void embedding(const int32_t* ids, int64_t tokens, const T* table, int64_t dim, float* out, Stream stream) {
  if (tokens == 0 || dim == 0) return;
  launch("embedding", embedding_kernel<T>, {blocks("embedding", tokens), 1, 1}, kEmbeddingThreads, 0, stream, ids,
         table, dim, out);
}

template void embedding(const int32_t*, int64_t, const float*, int64_t, float*, Stream);
template void embedding(const int32_t*, int64_t, const BFloat16*, int64_t, float*, Stream);
template void embedding(const int32_t*, int64_t, const Float16*, int64_t, float*, Stream);

}  // namespace pydllm::ops::cuda
