#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

void check_status(const char* kernel, cudaError_t status) {
  check(status == cudaSuccess, kernel, ": ", cudaGetErrorString(status));
}

}  // namespace pydllm::ops::cuda
