// What is said of machines that the CUDA backend cannot use, from made-up ones.
#include "tensor/cuda_problems.h"

#include <gtest/gtest.h>

namespace pydllm {
namespace {

using Problems = std::vector<std::string>;

CudaInfo::Device h200() {
  return {"NVIDIA H200", 9, 0, uint64_t{140} << 30, uint64_t{139} << 30, ""};
}

CudaInfo machine(const char* runtime, const char* driver, std::vector<CudaInfo::Device> devices) {
  CudaInfo info;
  info.built = true;
  info.runtime_version = runtime;
  info.driver_version = driver;
  info.devices = std::move(devices);
  return info;
}

TEST(CudaProblems, AUsableMachineHasNone) {
  EXPECT_EQ(cuda_problems(machine("13.0", "13.0", {h200()})), Problems{});
  EXPECT_EQ(cuda_problems(machine("13.0", "14.2", {h200(), h200()})), Problems{});
  EXPECT_EQ(cuda_problems(machine("13.9", "13.10", {h200()})), Problems{}) << "10 is newer than 9";
}

TEST(CudaProblems, ABuildWithoutCudaSaysSoAndNoMore) {
  CudaInfo info;
  info.error = "this build has no CUDA code";
  EXPECT_EQ(cuda_problems(info), Problems{"this build has no CUDA code"});
}

TEST(CudaProblems, AMissingDriverIsNotCalledOld) {
  CudaInfo info = machine("13.0", "", {});
  info.error = "CUDA driver version is insufficient for CUDA runtime version";
  EXPECT_EQ(cuda_problems(info), Problems{"no NVIDIA driver was found, this build's CUDA runtime 13.0 needs one: "
                                          "install the NVIDIA driver"});
}

TEST(CudaProblems, AnOldDriverIsNamedWithBothVersionsAndTheRemedy) {
  CudaInfo info = machine("13.0", "12.8", {});
  info.error = "CUDA driver version is insufficient for CUDA runtime version";
  EXPECT_EQ(cuda_problems(info), Problems{"the NVIDIA driver supports CUDA 12.8, older than this build's CUDA runtime "
                                          "13.0: update the NVIDIA driver to 580 or newer"});
  EXPECT_EQ(
      cuda_problems(machine("12.9", "11.4", {})),
      Problems{"the NVIDIA driver supports CUDA 11.4, older than this build's CUDA runtime 12.9: update the NVIDIA "
               "driver to 525 or newer"});
  EXPECT_EQ(
      cuda_problems(machine("15.0", "13.0", {})),
      Problems{"the NVIDIA driver supports CUDA 13.0, older than this build's CUDA runtime 15.0: update the NVIDIA "
               "driver to one for CUDA 15.0"});
}

TEST(CudaProblems, ADriverOfTheSameMajorVersionWorksWithALimit) {
  const Problems problems = cuda_problems(machine("13.4", "13.0", {h200()}));
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0],
            "the NVIDIA driver supports CUDA 13.0, older than this build's CUDA runtime 13.4: GPUs newer "
            "than the kernels in this build will not work until the driver supports CUDA 13.4");
}

TEST(CudaProblems, AnOldDeviceIsNamedAndItsNeighbourIsNot) {
  CudaInfo info = machine("13.0", "13.0", {h200(), {"Tesla T4", 7, 5, uint64_t{16} << 30, 0, ""}});
  EXPECT_EQ(cuda_problems(info), Problems{"cuda:1 (Tesla T4): expected compute capability 8.0 or newer, got 7.5"});
  EXPECT_EQ(cuda_device_problem(info, 0), "");
  info.devices[1].major = 8;
  info.devices[1].minor = 0;
  EXPECT_EQ(cuda_problems(info), Problems{}) << "8.0 is the oldest that works";
}

TEST(CudaProblems, ADeviceThatFailsSaysWhy) {
  CudaInfo info = machine("13.0", "13.0", {h200(), {}});
  info.devices[0].error = "out of memory";
  info.devices[1].error = "unknown error";
  EXPECT_EQ(cuda_problems(info), (Problems{"cuda:0 (NVIDIA H200): out of memory", "cuda:1: unknown error"}));
}

TEST(CudaProblems, NoDeviceBehindAGoodDriverIsSaidInCudasWords) {
  CudaInfo info = machine("13.0", "13.0", {});
  info.error = "no CUDA-capable device is detected";
  EXPECT_EQ(cuda_problems(info), Problems{"no CUDA-capable device is detected"});
}

}  // namespace
}  // namespace pydllm
