#include <cuda_runtime_api.h>

#include "tensor/cuda/info.h"

namespace pydllm {
namespace {

std::string version_string(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// One device, or the reason why it cannot be described.
cudaError_t append_device(int index, CudaInfo& info) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, index);
  if (status == cudaSuccess) {
    info.devices.push_back({properties.name, properties.major, properties.minor, properties.totalGlobalMem});
  }
  return status;
}

}  // namespace

CudaInfo cuda_info() {
  CudaInfo info;
  info.built = true;
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime_version = version_string(version);
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  for (int index = 0; status == cudaSuccess && index < count; ++index) status = append_device(index, info);
  if (status != cudaSuccess) info.error = cudaGetErrorString(status);
  return info;
}

}  // namespace pydllm
