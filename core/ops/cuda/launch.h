// The one way a kernel is launched: checked, and with the kernel's name in the error.
#pragma once

#include <cstddef>
#include <utility>

#include "base/check.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/device.h"
#ifdef __CUDACC__
#include "tensor/cuda/status.h"
#endif

namespace pydllm::ops::cuda {

// Shared memory of a block that every GPU from sm_80 on has: 99 KB (sm_80 itself has 163 KB, sm_90 and sm_100 227 KB).
constexpr size_t kMostSharedBytes = 99 << 10;

inline void check_shared_memory(const char* kernel, size_t bytes) {
  check(bytes <= kMostSharedBytes, kernel, ": expected at most ", kMostSharedBytes, " bytes of shared memory, got ",
        bytes);
}

#ifdef __CUDACC__

// More dynamic shared memory than this has to be asked for.
constexpr size_t kDefaultSharedBytes = 48 << 10;

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared_bytes,
            Stream stream, Args... args) {
  check_shared_memory(name, shared_bytes);
  if (shared_bytes > kDefaultSharedBytes) {
    cudart::expect_success(
        name, cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudart::expect_success(name, cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

#else

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared_bytes, Stream,
            Args... args) {
  check_shared_memory(name, shared_bytes);
  emulation::machine().launch(name, grid, threads, shared_bytes, [&] { kernel(static_cast<Params>(args)...); });
}

#endif

// Blocks along one axis; more than a grid can hold is an InternalError of the caller's sizes.
inline unsigned blocks(const char* kernel, int64_t count) {
  check(count >= 1 && count <= 0x7FFFFFFF, kernel, ": expected 1 to 2^31 - 1 blocks, got ", count);
  return static_cast<unsigned>(count);
}

}  // namespace pydllm::ops::cuda
