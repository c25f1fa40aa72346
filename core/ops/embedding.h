// Token embedding lookup.
#pragma once

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// out[t, :] = table[ids[t], :].
//   ids    int32 [tokens], each in [0, vocab) (InternalError otherwise)
//   table  float32 | bfloat16 | float16 [vocab, dim]
//   out    float32 [tokens, dim], not aliasing table
void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out);

}  // namespace pydllm::ops
