#include "ops/cuda/launch.h"
#include "ops/cuda/swiglu.h"

namespace pydllm::ops::cuda {

constexpr unsigned kSwigluThreads = 256;

// One thread per element of the output.
template <class T>
__global__ void __launch_bounds__(kSwigluThreads)
    swiglu_kernel(const float* gate_up, int64_t rows, int64_t width, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSwigluThreads + threadIdx.x;
  if (i >= rows * width) return;
  const float* gate = gate_up + i / width * 2 * width + i % width;
  out[i] = narrow<T>(swiglu_of(gate[0], gate[width]));
}

template <class T>
void swiglu(const float* gate_up, int64_t rows, int64_t width, T* out, Stream stream) {
  if (rows == 0 || width == 0) return;
  const unsigned count = blocks("swiglu", (rows * width + kSwigluThreads - 1) / kSwigluThreads);
  launch("swiglu", swiglu_kernel<T>, {count, 1, 1}, kSwigluThreads, 0, stream, gate_up, rows, width, out);
}

template void swiglu(const float*, int64_t, int64_t, float*, Stream);
template void swiglu(const float*, int64_t, int64_t, BFloat16*, Stream);
template void swiglu(const float*, int64_t, int64_t, Float16*, Stream);

}  // namespace pydllm::ops::cuda
