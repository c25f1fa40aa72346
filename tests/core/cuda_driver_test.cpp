// Waiting for streams of foreign tensors, with a made-up driver (tests/core/fakes/cuda_driver.cpp) in the process.
#include "tensor/cuda_driver.h"

#include <dlfcn.h>

#include <string>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

bool process_has_a_driver() {
  void* handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  if (handle) dlclose(handle);
  return handle != nullptr;
}

class DriverOfAnother : public ::testing::Test {
 protected:
  void SetUp() override {
    if (process_has_a_driver()) GTEST_SKIP() << "this process has a real CUDA driver";
    handle_ = dlopen(PYDLLM_FAKES "/driver/libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(handle_, nullptr) << dlerror();
    calls_ = reinterpret_cast<const char* (*)()>(dlsym(handle_, "fake_cuda_calls"));
    calls_();
  }
  void TearDown() override {
    if (handle_) dlclose(handle_);
  }

  void* handle_ = nullptr;
  const char* (*calls_)() = nullptr;
};

TEST_F(DriverOfAnother, IsAskedToWaitInThePrimaryContextOfTheDevice) {
  wait_for_cuda_stream(3, kLegacyDefaultStream);
  EXPECT_EQ(std::string(calls_()), "retain:103 push:103 wait:1 pop release:103");
}

TEST_F(DriverOfAnother, AFailedWaitIsNamedAndLeavesNoContextBehind) {
  EXPECT_INTERNAL_ERROR(wait_for_cuda_stream(0, 0xBAD), "cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS");
  EXPECT_EQ(std::string(calls_()), "retain:100 push:100 wait:2989 pop release:100");
  EXPECT_INTERNAL_ERROR(wait_for_cuda_stream(7, kLegacyDefaultStream), "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE");
  EXPECT_EQ(std::string(calls_()), "");
}

TEST_F(DriverOfAnother, KnowsWhoseMemoryItIs) {
  EXPECT_EQ(cuda_device_of(reinterpret_cast<void*>(0x10000)), 2);
  EXPECT_EQ(cuda_device_of(nullptr), std::nullopt);
}

TEST(NoDriver, NothingIsWaitedForAndNothingKnown) {
  if (process_has_a_driver()) GTEST_SKIP() << "this process has a real CUDA driver";
  wait_for_cuda_stream(0, kLegacyDefaultStream);
  EXPECT_EQ(cuda_device_of(reinterpret_cast<void*>(0x10000)), std::nullopt);
}

}  // namespace
}  // namespace pydllm
