#include "ops/rms_norm.h"

#include <cmath>

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {
namespace {

void expect_epsilon(float epsilon) {
  check(std::isfinite(epsilon) && epsilon >= 0, "epsilon: expected a finite number >= 0, got ", epsilon);
}

void expect_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out, int64_t out_rows) {
  const auto [rows, dim] = shape_of<2>(x, "x");
  expect_dtype(x, "x", DType::kF32);
  expect_dtype(weight, "weight", DType::kF32);
  expect_shape(weight, "weight", {dim});
  expect_float_dtype(out, "out");
  expect_shape(out, "out", {out_rows, dim});
  expect_epsilon(epsilon);
}

}  // namespace

void rms_norm(const Context& context, const Tensor& x, const Tensor& weight, float epsilon, Tensor& out) {
  expect_runnable(context, "rms_norm", {{x, "x"}, {weight, "weight"}, {out, "out"}});
  expect_norm(x, weight, epsilon, out, shape_of<2>(x, "x")[0]);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::rms_norm(context, x, {}, weight, epsilon, out);
  }
  cpu::rms_norm(context, x, {}, weight, epsilon, out);
}

void rms_norm_rows(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
                   Tensor& out) {
  expect_runnable(context, "rms_norm_rows", {{x, "x"}, {rows, "rows"}, {weight, "weight"}, {out, "out"}});
  const auto [count] = shape_of<1>(rows, "rows");
  expect_dtype(rows, "rows", DType::kI32);
  expect_norm(x, weight, epsilon, out, count);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::rms_norm(context, x, rows, weight, epsilon, out);
  }
  cpu::rms_norm(context, x, rows, weight, epsilon, out);
}

void expect_norm_heads(const Context& context, const Tensor& x, int64_t first_column, int64_t heads,
                       const Tensor& weight, float epsilon) {
  expect_runnable(context, "rms_norm_heads", {{x, "x"}, {weight, "weight"}});
  const auto [head_dim] = shape_of<1>(weight, "weight");
  expect_dtype(x, "x", DType::kF32);
  expect_dtype(weight, "weight", DType::kF32);
  expect_columns("x", first_column, checked_product(heads, head_dim, "heads"), shape_of<2>(x, "x")[1]);
  expect_epsilon(epsilon);
}

void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon) {
  expect_norm_heads(context, x, first_column, heads, weight, epsilon);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::rms_norm_heads(context, x, first_column, heads, weight, epsilon);
  }
  cpu::rms_norm_heads(context, x, first_column, heads, weight, epsilon);
}

}  // namespace pydllm::ops
