// Root-mean-square layer norm (Zhang and Sennrich, 2019).
#pragma once

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + epsilon) * weight.
//   x       float32 [rows, dim]
//   weight  float32 [dim]
//   out     float32 | bfloat16 | float16 [rows, dim]; may be x itself when float32
void rms_norm(const Context& context, const Tensor& x, const Tensor& weight, float epsilon, Tensor& out);

// The same with a gather: out[i, :] = rms_norm(x[rows[i], :]). rows int32 [n], each in [0, x rows).
void rms_norm_rows(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
                   Tensor& out);

// The same over each of `heads` heads of every row, in place (qk-norm).
//   x       float32 [tokens, row_width]; head h starts at column first_column + h * head_dim
//   weight  float32 [head_dim], shared by the heads
void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon);

// What rms_norm_heads and norm_rope (ops/rope.h) ask of their arguments: InternalError naming what is wrong.
void expect_norm_heads(const Context& context, const Tensor& x, int64_t first_column, int64_t heads,
                       const Tensor& weight, float epsilon);

}  // namespace pydllm::ops
