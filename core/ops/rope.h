// Rotary position embedding (Su et al., 2021), half-split layout: dimension d rotates with d + rotary_dim / 2.
#pragma once

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// cos and sin of position * theta^(-2 d / rotary_dim), computed in float64 and stored as float32.
struct RopeTable {
  Tensor cos;  // float32 [max_positions, rotary_dim / 2]
  Tensor sin;  // float32 [max_positions, rotary_dim / 2]
};
RopeTable make_rope_table(int64_t max_positions, int64_t rotary_dim, double theta);

// Rotates `heads` heads of every row in place.
//   x          float32 [tokens, row_width]; head h starts at column first_column + h * head_dim
//   positions  int32 [tokens], each in [0, max_positions)
// Columns of a head at or beyond rotary_dim are left alone.
void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& positions, const RopeTable& table);

// rms_norm_heads (ops/rms_norm.h), then rope of the same heads; on a CUDA device in one pass over them.
//   weight  float32 [head_dim]
void norm_rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
               float epsilon, const Tensor& positions, const RopeTable& table);

}  // namespace pydllm::ops
