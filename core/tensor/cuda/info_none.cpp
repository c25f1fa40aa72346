#include "tensor/cuda/info.h"

namespace pydllm {

CudaInfo cuda_info() {
  CudaInfo info;
  info.error = "this build has no CUDA code (no CUDA compiler was found when it was built)";
  return info;
}

}  // namespace pydllm
