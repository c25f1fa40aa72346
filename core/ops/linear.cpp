#include "ops/linear.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "ops/cpu/linear_cpu.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"
#include "tensor/convert.h"
#include "tensor/copy.h"

namespace pydllm::ops {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

void check_part(const Tensor& part, int64_t in_features) {
  check(part.defined() && is_float(part.dtype()), "weight: expected a float tensor, got ",
        part.defined() ? name_of(part.dtype()) : "an undefined one");
  const auto [rows, width] = shape_of<2>(part, "weight");
  check(rows > 0 && width > 0, "weight: expected a non-empty matrix, got shape ", shape_string(part.shape()));
  check(width == in_features, "weight: expected parts of one input width ", in_features, ", got ", width);
}

void expect_on_cpu(const Tensor& part) {
  check(part.device().type == DeviceType::kCpu, "weight: expected parts on cpu, got ", name_of(part.device()));
}

// Bytes of a part that are converted and copied to a device at once.
constexpr int64_t kStagedBytes = int64_t{16} << 20;

// Host memory to rows [row, ...) of `out`, a piece at a time.
void convert_to_device(const Context& context, const Tensor& part, const Tensor& staged, const Tensor& out,
                       int64_t row) {
  const int64_t step = staged.size(0);
  for (int64_t begin = 0; begin < part.size(0); begin += step) {
    const int64_t count = std::min(step, part.size(0) - begin);
    const Tensor rows = staged.rows(0, count);
    convert(part.rows(begin, count), rows, context.pool);
    copy(context, rows, out.rows(row + begin, count));
  }
}

// A single part that is there already, the embedding of a tied head, is shared.
Tensor stacked_on_device(const Context& context, std::span<const Tensor> parts, int64_t out_features,
                         int64_t in_features, DType dtype) {
  const auto is_there = [&](const Tensor& part) { return part.device() == context.device && part.dtype() == dtype; };
  if (parts.size() == 1 && is_there(parts[0])) return parts[0];
  Tensor out = Tensor::empty({out_features, in_features}, dtype, context.device);
  const int64_t row_bytes = in_features * static_cast<int64_t>(size_of(dtype));
  const int64_t step = std::clamp<int64_t>(kStagedBytes / row_bytes, 1, out_features);
  const Tensor staged = Tensor::empty({step, in_features}, dtype);
  int64_t row = 0;
  for (const Tensor& part : parts) {
    if (is_there(part)) {
      copy(context, part, out.rows(row, part.size(0)));
    } else {
      expect_on_cpu(part);
      convert_to_device(context, part, staged, out, row);
    }
    row += part.size(0);
  }
  return out;
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
  expect_device(context, "linear");
  check(is_float(dtype), "weight: expected a float dtype to store, got ", name_of(dtype));
  PackedWeight out;
  out.out_features_ = checked_rows(parts);
  out.in_features_ = parts[0].size(1);
  out.dtype_ = dtype;
  if (bias.defined()) {
    expect_dtype(bias, "bias", DType::kF32);
    expect_shape(bias, "bias", {out.out_features_});
  }
  out.bias_ = bias.defined() ? to_device(context, bias) : std::move(bias);
  if (on_cuda(context)) {
    out.panels_ = stacked_on_device(context, parts, out.out_features_, out.in_features_, dtype);
  } else {
    for (const Tensor& part : parts) expect_on_cpu(part);
    out.panels_ = cpu::pack_panels(*context.pool, parts, out.out_features_, out.in_features_, dtype);
  }
  return out;
}

PackedWeight PackedWeight::moved_to(const Tensor& panels) const {
  check(panels.shape() == panels_.shape() && panels.dtype() == panels_.dtype() && panels.device() == panels_.device(),
        "weight: expected panels like those that were packed, got shape ", shape_string(panels.shape()));
  PackedWeight out = *this;
  out.panels_ = panels;
  return out;
}

DType linear_input_dtype(DType weight) {
  check(is_float(weight), "linear: expected float32, bfloat16 or float16 weights, got ", name_of(weight));
  return weight == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

void linear(const Context& context, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode) {
  expect_device(context, "linear");
  check_operands(x, weight, y);
  expect_runnable(context, "linear", {{x, "x"}, {weight.panels(), "weight"}, {y, "y"}});
  if (x.size(0) == 0) return;
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::linear(context, x, weight, y, mode);
  }
  cpu::linear(*context.pool, cpu::active_isa(), x, weight, y, mode);
}

std::string_view linear_isa(DType weight) {
  return cpu::name_of(cpu::linear_kernel(cpu::active_isa(), weight).isa);
}

}  // namespace pydllm::ops
