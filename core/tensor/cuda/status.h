// CUDA's status codes as the errors of the core. Only for files that nvcc compiles.
#pragma once

#include <cuda_runtime_api.h>

namespace pydllm::cudart {

// Nothing when status is cudaSuccess. `what` is the call or the kernel that returned it and begins the message.
void expect_success(const char* what, cudaError_t status);

}  // namespace pydllm::cudart
