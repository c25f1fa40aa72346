// The gated activation of LLaMA-style feed-forward blocks (Shazeer, 2020).
#pragma once

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// out[r, f] = silu(gate_up[r, f]) * gate_up[r, width + f], silu(x) = x / (1 + e^-x).
//   gate_up  float32 [rows, 2 * width]
//   out      float32 | bfloat16 | float16 [rows, width], not aliasing gate_up
void swiglu(const Context& context, const Tensor& gate_up, Tensor& out);

}  // namespace pydllm::ops
