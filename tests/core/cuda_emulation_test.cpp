// The emulation finds the mistakes it is there to find.
#include "cuda_testing.h"
#include "ops/cuda/launch.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using ops::cuda::kAllLanes;
using ops::cuda::launch;
using ops::cuda::shared_memory;

constexpr unsigned kThreads = 64;

// Each thread hands its value to its mirror image.
void mirror_kernel(float* x, bool with_barrier) {
  float* shared = shared_memory<float>();
  const unsigned i = threadIdx.x + blockIdx.x * blockDim.x;
  shared[threadIdx.x] = x[i];
  if (with_barrier) __syncthreads();
  x[i] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(CudaEmulation, AMissingBarrierShows) {
  for (const bool with_barrier : {true, false}) {
    std::vector<float> values(2 * kThreads);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const auto x = on_device("x", values);
    launch("mirror", mirror_kernel, {2, 1, 1}, kThreads, kThreads * sizeof(float), nullptr, x->data(), with_barrier);
    int wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) wrong += (*x)[i] != values[i / kThreads * kThreads + 63 - i % kThreads];
    EXPECT_EQ(wrong == 0, with_barrier) << wrong;
  }
}

std::string failure_of(void (*kernel)(float*), size_t shared_bytes = 0) {
  Buffer<float> x("x", kThreads);
  return message_of<KernelError>(
      [&] { launch("broken", kernel, {1, 1, 1}, kThreads, shared_bytes, nullptr, x.data()); });
}

TEST(CudaEmulation, BarriersThatSomeThreadsMissAreErrors) {
  EXPECT_EQ(failure_of([](float*) {
              if (threadIdx.x < 63) __syncthreads();
            }),
            "broken: 63 threads wait at a barrier and 0 in a warp operation for others that do not come, "
            "block (0, 0, 0)");
  const std::string different = failure_of([](float*) {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  });
  EXPECT_NE(different.find("threads wait at different barriers"), std::string::npos) << different;
}

TEST(CudaEmulation, WarpOperationsThatSomeLanesMissAreErrors) {
  const std::string missed = failure_of([](float* x) {
    if (threadIdx.x != 5) x[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
  });
  EXPECT_NE(missed.find("31 in a warp operation"), std::string::npos) << missed;
  const std::string masked = failure_of([](float* x) { x[threadIdx.x] = __shfl_xor_sync(1U, 1.0f, 1); });
  EXPECT_NE(masked.find("only warp operations of all lanes"), std::string::npos) << masked;
}

// AddressSanitizer ends the process at such a write instead.
#ifndef __SANITIZE_ADDRESS__
TEST(CudaEmulation, WritesOutsideOfABufferAreErrors) {
  EXPECT_EQ(failure_of([](float* x) { x[threadIdx.x + 1] = 0; }), "broken: a write outside of x");
  const std::string shared = failure_of([](float*) { shared_memory<float>()[threadIdx.x] = 0; }, 4 * kThreads - 4);
  EXPECT_NE(shared.find("a write outside of shared memory"), std::string::npos) << shared;
}
#endif

TEST(CudaEmulation, CopiesOfMisalignedChunksAreErrors) {
  const auto copy = [](float* x) { ops::cuda::copy_async(shared_memory<float>(), x + 1, 16); };
  const std::string from = failure_of(copy, 16);
  EXPECT_NE(from.find("an address that is not a multiple of 16 bytes"), std::string::npos) << from;
}

TEST(CudaEmulation, ShufflesExchangeWithinAWarp) {
  Buffer<float> x("x", 2 * kThreads);
  launch(
      "shuffle",
      +[](float* out) {
        const float own = static_cast<float>(threadIdx.x);
        out[2 * threadIdx.x] = __shfl_xor_sync(kAllLanes, own, 5);
        out[2 * threadIdx.x + 1] = __shfl_sync(kAllLanes, own, 3);
      },
      {1, 1, 1}, kThreads, 0, nullptr, x.data());
  for (unsigned i = 0; i < kThreads; ++i) {
    EXPECT_EQ(x[2 * i], static_cast<float>(i ^ 5));
    EXPECT_EQ(x[2 * i + 1], static_cast<float>(i / 32 * 32 + 3));
  }
}

TEST(CudaEmulation, ALaunchThatSomeGpuHasNoSharedMemoryForIsAnInternalError) {
  EXPECT_INTERNAL_ERROR(launch(
                            "large", +[] {}, {1, 1, 1}, 32, (99 << 10) + 1, nullptr),
                        "large: expected at most 101376 bytes of shared memory, got 101377");
}

TEST(CudaEmulation, ALaunchOfPartWarpsOrNoBlocksIsAnInternalError) {
  EXPECT_INTERNAL_ERROR(launch("odd", +[] {}, {1, 1, 1}, 33, 0, nullptr), "odd: expected whole warps, got 33");
  EXPECT_INTERNAL_ERROR(ops::cuda::blocks("none", 0), "none: expected 1 to 2^31 - 1 blocks, got 0");
  EXPECT_INTERNAL_ERROR(ops::cuda::blocks("many", int64_t{1} << 31), "many: expected");
}

}  // namespace
}  // namespace pydllm
