#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kStoreThreads = 128;

// One block per token.
template <class T>
__global__ void __launch_bounds__(kStoreThreads)
    store_kv_kernel(const float* kv, int64_t width, int64_t key_column, int64_t value_column, const int64_t* slots,
                    int64_t kv_heads, int64_t page_size, int64_t head_dim, T* keys, T* values) {
  const float* row = kv + static_cast<int64_t>(blockIdx.x) * width;
  const int64_t page = slots[blockIdx.x] / page_size, place = slots[blockIdx.x] % page_size;
  for (int64_t i = threadIdx.x; i < kv_heads * head_dim; i += kStoreThreads) {
    const int64_t to = ((page * kv_heads + i / head_dim) * page_size + place) * head_dim + i % head_dim;
    keys[to] = narrow<T>(row[key_column + i]);
    values[to] = narrow<T>(row[value_column + i]);
  }
}

template <class T>
void store_kv(const float* kv, int64_t tokens, int64_t width, int64_t key_column, int64_t value_column,
              const int64_t* slots, int64_t kv_heads, int64_t page_size, int64_t head_dim, T* keys, T* values,
              Stream stream) {
  if (tokens == 0) return;
  launch("store_kv", store_kv_kernel<T>, {blocks("store_kv", tokens), 1, 1}, kStoreThreads, 0, stream, kv, width,
         key_column, value_column, slots, kv_heads, page_size, head_dim, keys, values);
}

template void store_kv(const float*, int64_t, int64_t, int64_t, int64_t, const int64_t*, int64_t, int64_t, int64_t,
                       float*, float*, Stream);
template void store_kv(const float*, int64_t, int64_t, int64_t, int64_t, const int64_t*, int64_t, int64_t, int64_t,
                       BFloat16*, BFloat16*, Stream);

}  // namespace pydllm::ops::cuda
