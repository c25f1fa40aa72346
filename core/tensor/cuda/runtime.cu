#include "base/check.h"
#include "tensor/cuda/runtime.h"
#include "tensor/cuda/status.h"

namespace pydllm::cudart {
namespace {

constexpr int kOldestMajor = 8;  // of compute capabilities: mma.sync on bfloat16, cp.async

// The context of the process is broken: every later call returns the same error.
bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorDevicesUnavailable:
      return true;
    default:
      return false;
  }
}

void select(Device device) {
  expect_success("cudaSetDevice", cudaSetDevice(device.index));
}

std::string version_string(int version) {
  return format(version / 1000, ".", version % 1000 / 10);
}

[[noreturn]] void refuse(const std::string& message) {
  throw Unsupported("device", "device: " + message);
}

// Why there is no device at all.
[[noreturn]] void refuse_driver(cudaError_t status) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) refuse("no NVIDIA driver is installed; use cpu, or install a driver for CUDA 13.0 or newer");
  if (driver < runtime / 1000 * 1000) {
    refuse(format("the NVIDIA driver supports CUDA ", version_string(driver), ", this build needs ",
                  version_string(runtime), "; update the driver, or use cpu"));
  }
  refuse(format("CUDA cannot start: ", cudaGetErrorString(status), "; use cpu, or ask nvidia-smi what is wrong"));
}

}  // namespace

void expect_success(const char* what, cudaError_t status) {
  if (status == cudaSuccess) return;
  const std::string message = format(what, ": ", cudaGetErrorString(status));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it does not stay
    throw ResourceExhausted(message);
  }
  if (is_sticky(status)) throw DeviceLost(message);
  cudaGetLastError();
  throw InternalError(message);
}

void expect_usable(Device device) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) refuse_driver(status);
  if (device.index >= count) {
    refuse(format("expected cuda:0 to cuda:", count - 1, ", got ", name_of(device), "; this machine has ", count,
                  " CUDA device(s)"));
  }
  int major = 0, minor = 0;
  expect_success("cudaDeviceGetAttribute",
                 cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  expect_success("cudaDeviceGetAttribute",
                 cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.index));
  if (major < kOldestMajor) {
    refuse(format(name_of(device), " has compute capability ", major, ".", minor, ", expected 8.0 or newer; use cpu"));
  }
}

void use(Device device) {
  select(device);
}

Memory memory(Device device) {
  expect_usable(device);
  select(device);
  Memory out;
  expect_success("cudaMemGetInfo", cudaMemGetInfo(&out.free, &out.total));
  return out;
}

std::shared_ptr<void> allocate(Device device, size_t bytes) {
  select(device);
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw ResourceExhausted(format("device: ", name_of(device), " has no ", bytes, " bytes left"));
  }
  expect_success("cudaMalloc", status);
  return {memory, [](void* p) { cudaFree(p); }};
}

std::shared_ptr<void> allocate_pinned(Device device, size_t bytes) {
  select(device);
  void* memory = nullptr;
  expect_success("cudaMallocHost", cudaMallocHost(&memory, bytes == 0 ? 1 : bytes));
  return {memory, [](void* p) { cudaFreeHost(p); }};
}

std::shared_ptr<CUstream_st> make_stream(Device device) {
  select(device);
  cudaStream_t stream = nullptr;
  expect_success("cudaStreamCreate", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return {stream, [](cudaStream_t s) { cudaStreamDestroy(s); }};
}

void copy(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes > 0) expect_success("cudaMemcpyAsync", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
}

void fill(void* to, uint8_t byte, size_t bytes, Stream stream) {
  if (bytes > 0) expect_success("cudaMemsetAsync", cudaMemsetAsync(to, byte, bytes, stream));
}

void synchronize(Stream stream) {
  expect_success("cudaStreamSynchronize", cudaStreamSynchronize(stream));
}

}  // namespace pydllm::cudart
