#include "ops/rope.h"

#include <cmath>

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"
#include "ops/rms_norm.h"

namespace pydllm::ops {
namespace {

void expect_rope(const Context& context, const Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
                 const Tensor& positions, const RopeTable& table) {
  expect_runnable(context, "rope", {{x, "x"}, {positions, "positions"}, {table.cos, "cos"}, {table.sin, "sin"}});
  const auto [tokens, width] = shape_of<2>(x, "x");
  const auto [max_positions, half] = shape_of<2>(table.cos, "cos");
  expect_dtype(x, "x", DType::kF32);
  expect_dtype(positions, "positions", DType::kI32);
  expect_shape(positions, "positions", {tokens});
  expect_dtype(table.cos, "cos", DType::kF32);
  expect_dtype(table.sin, "sin", DType::kF32);
  expect_shape(table.sin, "sin", {max_positions, half});
  expect_columns("heads", first_column, checked_product(heads, head_dim, "heads"), width);
  check(half >= 1 && 2 * half <= head_dim, "rotary_dim: expected at most head_dim ", head_dim, ", got ", 2 * half);
}

}  // namespace

RopeTable make_rope_table(int64_t max_positions, int64_t rotary_dim, double theta) {
  check(max_positions >= 1, "max_positions: expected >= 1, got ", max_positions);
  check(rotary_dim >= 2 && rotary_dim % 2 == 0, "rotary_dim: expected an even number >= 2, got ", rotary_dim);
  check(std::isfinite(theta) && theta > 0, "theta: expected a finite number > 0, got ", theta);
  const int64_t half = rotary_dim / 2;
  RopeTable table{Tensor::empty({max_positions, half}, DType::kF32), Tensor::empty({max_positions, half}, DType::kF32)};
  float* cos = table.cos.data<float>();
  float* sin = table.sin.data<float>();
  for (int64_t d = 0; d < half; ++d) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(rotary_dim));
    for (int64_t p = 0; p < max_positions; ++p) {
      cos[p * half + d] = static_cast<float>(std::cos(static_cast<double>(p) * frequency));
      sin[p * half + d] = static_cast<float>(std::sin(static_cast<double>(p) * frequency));
    }
  }
  return table;
}

void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& positions, const RopeTable& table) {
  expect_rope(context, x, first_column, heads, head_dim, positions, table);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::rope(context, x, first_column, heads, head_dim, {}, 0, positions, table);
  }
  cpu::rope(context, x, first_column, heads, head_dim, positions, table);
}

void norm_rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
               float epsilon, const Tensor& positions, const RopeTable& table) {
  expect_norm_heads(context, x, first_column, heads, weight, epsilon);
  const int64_t head_dim = weight.size(0);
  expect_rope(context, x, first_column, heads, head_dim, positions, table);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) {
      return cuda::rope(context, x, first_column, heads, head_dim, weight, epsilon, positions, table);
    }
  }
  cpu::rms_norm_heads(context, x, first_column, heads, weight, epsilon);
  cpu::rope(context, x, first_column, heads, head_dim, positions, table);
}

}  // namespace pydllm::ops
