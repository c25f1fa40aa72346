#include "ops/expert_ffn.h"

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"
#include "tensor/copy.h"

namespace pydllm::ops {
namespace {

void check_expert(const Expert& expert, const Expert& first) {
  const PackedWeight &gate_up = expert.gate_up, &down = expert.down;
  check(gate_up.out_features() == 2 * down.in_features(), "experts: expected gate and up of width ", down.in_features(),
        ", got ", gate_up.out_features(), " outputs");
  check(gate_up.in_features() == first.gate_up.in_features() && down.out_features() == first.gate_up.in_features() &&
            down.in_features() == first.down.in_features() && gate_up.dtype() == first.gate_up.dtype() &&
            down.dtype() == first.gate_up.dtype(),
        "experts: expected one shape and dtype");
}

// The panels of all experts in one tensor; each expert keeps a view of its rows.
void join(const Context& context, std::span<Expert> experts, PackedWeight Expert::* part) {
  const PackedWeight& first = experts[0].*part;
  const int64_t rows = first.out_features();
  const Tensor all =
      Tensor::empty({static_cast<int64_t>(experts.size()) * rows, first.in_features()}, first.dtype(), context.device);
  int64_t row = 0;
  for (Expert& expert : experts) {
    const Tensor place = all.rows(row, rows);
    copy(context, (expert.*part).panels(), place);
    expert.*part = (expert.*part).moved_to(place);
    row += rows;
  }
}

}  // namespace

std::vector<Expert> arranged(const Context& context, std::vector<Expert> experts) {
  if (!on_cuda(context) || experts.empty()) return experts;
  for (const Expert& expert : experts) check_expert(expert, experts[0]);
  join(context, experts, &Expert::gate_up);
  join(context, experts, &Expert::down);
  return experts;
}

void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y) {
  expect_runnable(context, "expert_ffn", {{x, "x"}, {choice, "choice"}, {weights, "weights"}, {y, "y"}});
  check(!experts.empty(), "experts: expected at least one");
  for (const Expert& expert : experts) check_expert(expert, experts[0]);
  const auto [tokens, kept] = shape_of<2>(choice, "choice");
  const int64_t hidden = experts[0].gate_up.in_features();
  expect_dtype(x, "x", linear_input_dtype(experts[0].gate_up.dtype()));
  expect_shape(x, "x", {tokens, hidden});
  expect_dtype(choice, "choice", DType::kI32);
  expect_dtype(weights, "weights", DType::kF32);
  expect_shape(weights, "weights", {tokens, kept});
  expect_dtype(y, "y", DType::kF32);
  expect_shape(y, "y", {tokens, hidden});
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::expert_ffn(context, x, choice, weights, experts, y);
  }
  cpu::expert_ffn(context, x, choice, weights, experts, y);
}

}  // namespace pydllm::ops
