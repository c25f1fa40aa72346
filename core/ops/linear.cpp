#include "ops/linear.h"

#include <utility>

#include "base/check.h"
#include "ops/cpu/linear_cpu.h"

namespace pydllm::ops {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

ThreadPool& cpu_pool(const Context& context) {
  check(context.device.type == DeviceType::kCpu, "linear: expected device cpu, got ", name_of(context.device));
  check(context.pool != nullptr, "linear: the context has no thread pool");
  return *context.pool;
}

void check_part(const Tensor& part, int64_t in_features) {
  check(part.defined() && is_float(part.dtype()), "weight: expected a float tensor, got ",
        part.defined() ? name_of(part.dtype()) : "an undefined one");
  const auto [rows, width] = shape_of<2>(part, "weight");
  check(rows > 0 && width > 0, "weight: expected a non-empty matrix, got shape ", shape_string(part.shape()));
  check(width == in_features, "weight: expected parts of one input width ", in_features, ", got ", width);
  check(part.device().type == DeviceType::kCpu, "weight: expected parts on cpu, got ", name_of(part.device()));
}

int64_t checked_rows(std::span<const Tensor> parts) {
  check(!parts.empty(), "weight: expected at least one part");
  check(parts[0].rank() == 2, "weight: expected rank 2, got shape ", shape_string(parts[0].shape()));
  int64_t rows = 0;
  for (const Tensor& part : parts) {
    check_part(part, parts[0].size(1));
    rows += part.size(0);
  }
  return rows;
}

void check_operands(const Tensor& x, const PackedWeight& weight, const Tensor& y) {
  check(weight.panels().defined(), "linear: the weight was not packed");
  expect_dtype(x, "x", linear_input_dtype(weight.dtype()));
  expect_dtype(y, "y", DType::kF32);
  const auto [rows, width] = shape_of<2>(x, "x");
  expect_shape(x, "x", {rows, weight.in_features()});
  expect_shape(y, "y", {rows, weight.out_features()});
}

}  // namespace

PackedWeight PackedWeight::pack(const Context& context, std::span<const Tensor> parts, DType dtype, Tensor bias) {
  ThreadPool& pool = cpu_pool(context);
  check(is_float(dtype), "weight: expected a float dtype to store, got ", name_of(dtype));
  PackedWeight out;
  out.out_features_ = checked_rows(parts);
  out.in_features_ = parts[0].size(1);
  out.dtype_ = dtype;
  if (bias.defined()) {
    expect_dtype(bias, "bias", DType::kF32);
    expect_shape(bias, "bias", {out.out_features_});
  }
  out.panels_ = cpu::pack_panels(pool, parts, out.out_features_, out.in_features_, dtype);
  out.bias_ = std::move(bias);
  return out;
}

DType linear_input_dtype(DType weight) {
  check(is_float(weight), "linear: expected float32, bfloat16 or float16 weights, got ", name_of(weight));
  return weight == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

void linear(const Context& context, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode) {
  ThreadPool& pool = cpu_pool(context);
  check_operands(x, weight, y);
  if (x.size(0) == 0) return;
  cpu::linear(pool, cpu::active_isa(), x, weight, y, mode);
}

std::string_view linear_isa(DType weight) {
  return cpu::name_of(cpu::linear_kernel(cpu::active_isa(), weight).isa);
}

}  // namespace pydllm::ops
