// What the kernels are written in: CUDA C++ where nvcc compiles them, the emulation elsewhere. Everything that differs
// between the two is here and in launch.h.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

#ifdef __CUDACC__
#define PYDLLM_UNROLL _Pragma("unroll")
#else
#include "ops/cuda/emulation.h"
#define PYDLLM_UNROLL
#endif

namespace pydllm::ops::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFU;

// The block's dynamic shared memory, 16-byte aligned. Kernels use no other.
template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ uint4 pydllm_shared_memory[];
  return reinterpret_cast<T*>(pydllm_shared_memory);
#else
  return static_cast<T*>(emulation::machine().shared());
#endif
}

__device__ inline float widen(float x) {
  return x;
}
__device__ inline float widen(BFloat16 x) {
#ifdef __CUDACC__
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
#else
  return to_float(x);
#endif
}
__device__ inline float widen(Float16 x) {
#ifdef __CUDACC__
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
#else
  return to_float(x);
#endif
}

// Rounds to nearest even; NaN stays NaN, an overflow becomes infinity.
template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline BFloat16 narrow<BFloat16>(float x) {
#ifdef __CUDACC__
  BFloat16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#else
  return to_bfloat16(x);
#endif
}
template <>
__device__ inline Float16 narrow<Float16>(float x) {
#ifdef __CUDACC__
  Float16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#else
  return to_float16(x);
#endif
}

// Starts to copy 16 bytes to shared memory: `bytes` from global memory, then zeros. Both sides are aligned to 16 bytes.
__device__ inline void copy_async(void* to, const void* from, uint32_t bytes) {
#ifdef __CUDACC__
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
#else
  emulation::machine().copy_async({to, from, bytes});
#endif
}

// Makes one group of the copies started since the last one.
__device__ inline void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulation::machine().commit_copies();
#endif
}

// Until at most Open groups of this thread are on their way. Others see the copies after the next barrier.
template <int Open>
__device__ void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
#else
  emulation::machine().wait_for_copies(Open);
#endif
}

// Sum and maximum over the lanes of a warp; every lane gets them.
__device__ inline float warp_sum(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

// The same over a block of Warps warps, through `scratch` [Warps] in shared memory, which is free again afterwards.
template <int Warps>
__device__ float block_sum(float x, float* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < Warps; ++warp) sum += scratch[warp];
  __syncthreads();
  return sum;
}
template <int Warps>
__device__ float block_max(float x, float* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  float max = scratch[0];
  for (int warp = 1; warp < Warps; ++warp) max = fmaxf(max, scratch[warp]);
  __syncthreads();
  return max;
}

}  // namespace pydllm::ops::cuda
