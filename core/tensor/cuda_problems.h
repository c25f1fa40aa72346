// What keeps a machine from being used by the CUDA backend, in sentences for people. Pure functions of a CudaInfo.
#pragma once

#include <string>
#include <vector>

#include "tensor/cuda/info.h"

namespace pydllm {

// The kernels use bfloat16 mma.sync and cp.async: sm_80 and newer.
inline constexpr int kOldestComputeCapability = 8;

// The reasons in the order in which to remove them, each one line that says what was found, what is expected and what
// to do. Empty when every device can be used.
std::vector<std::string> cuda_problems(const CudaInfo& info);

// Why device `index` cannot be used, or empty. `index` is one of info.devices.
std::string cuda_device_problem(const CudaInfo& info, size_t index);

}  // namespace pydllm
