#include "tensor/cuda/info.h"

namespace pydllm {

CudaInfo cuda_info() {
  CudaInfo info;
  info.error = "this build has no CUDA code (it was built without nvcc or without an NVIDIA driver)";
  return info;
}

}  // namespace pydllm
