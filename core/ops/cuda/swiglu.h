// What swiglu and the experts' products share.
#pragma once

#include "ops/cuda/device.h"

namespace pydllm::ops::cuda {

__device__ inline float swiglu_of(float gate, float up) {
  return gate / (expf(-gate) + 1.0f) * up;
}

}  // namespace pydllm::ops::cuda
