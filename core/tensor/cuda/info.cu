#include <cuda_runtime_api.h>

#include "tensor/cuda/info.h"

namespace pydllm {
namespace {

std::string version_string(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The free memory is that of the current device.
cudaError_t ask_free_memory(int index, CudaInfo::Device& device) {
  size_t free_bytes = 0, total_bytes = 0;
  cudaError_t status = cudaSetDevice(index);
  if (status == cudaSuccess) status = cudaMemGetInfo(&free_bytes, &total_bytes);
  device.free_bytes = free_bytes;
  return status;
}

CudaInfo::Device describe(int index) {
  CudaInfo::Device device;
  cudaDeviceProp properties;
  cudaError_t status = cudaGetDeviceProperties(&properties, index);
  if (status == cudaSuccess) {
    device = {properties.name, properties.major, properties.minor, properties.totalGlobalMem, 0, ""};
    status = ask_free_memory(index, device);
  }
  if (status != cudaSuccess) device.error = cudaGetErrorString(status);
  return device;
}

}  // namespace

CudaInfo cuda_info() {
  CudaInfo info;
  info.built = true;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime_version = version_string(version);
  // 0 where there is no driver
  if (cudaDriverGetVersion(&version) == cudaSuccess && version > 0) info.driver_version = version_string(version);
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    info.error = cudaGetErrorString(status);
    return info;
  }
  if (count == 0) info.error = "the driver knows no device";
  int before = 0;
  if (count > 0) cudaGetDevice(&before);
  for (int index = 0; index < count; ++index) info.devices.push_back(describe(index));
  if (count > 0) cudaSetDevice(before);
  return info;
}

}  // namespace pydllm
