#include "ops/moe_router.h"

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {
namespace {

void check_groups(const RouterRule& rule, int64_t experts) {
  check(rule.groups >= 1 && experts % rule.groups == 0, "groups: expected a divisor of ", experts, " experts, got ",
        rule.groups);
  const int64_t size = experts / rule.groups;
  check(rule.groups == 1 || size >= 2, "groups: expected at least 2 experts in each, got ", size);
  check(rule.groups_kept >= 1 && rule.groups_kept <= rule.groups && rule.groups_kept * size >= rule.experts_per_token,
        "groups_kept: expected 1 to ", rule.groups, " groups that hold ", rule.experts_per_token, " experts, got ",
        rule.groups_kept);
}

void check_blocks(const RouterRule& rule, int64_t experts, int64_t tokens, std::span<const SequenceSpan> sequences) {
  check(rule.block_capacity >= rule.experts_per_token && rule.block_capacity <= experts, "block_capacity: expected ",
        rule.experts_per_token, " to ", experts, ", got ", rule.block_capacity);
  check(rule.block_length >= 1, "block_length: expected at least 1, got ", rule.block_length);
  int64_t covered = 0;
  for (const SequenceSpan& span : sequences) {
    check(span.query_begin == covered && span.query_length % rule.block_length == 0 &&
              span.query_position % rule.block_length == 0,
          "sequences: expected whole blocks of ", rule.block_length, ", side by side, got ", span.query_length,
          " tokens at position ", span.query_position);
    covered += span.query_length;
  }
  check(covered == tokens, "sequences: expected ", tokens, " tokens, got ", covered);
}

}  // namespace

void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule,
           std::span<const SequenceSpan> sequences, Tensor& experts, Tensor& weights) {
  expect_runnable(context, "route", {{logits, "logits"}, {experts, "experts"}, {weights, "weights"}});
  const auto [tokens, count] = shape_of<2>(logits, "logits");
  check(rule.experts_per_token >= 1 && rule.experts_per_token <= count, "experts_per_token: expected 1 to ", count,
        ", got ", rule.experts_per_token);
  expect_dtype(logits, "logits", DType::kF32);
  expect_dtype(experts, "experts", DType::kI32);
  expect_dtype(weights, "weights", DType::kF32);
  expect_shape(experts, "experts", {tokens, rule.experts_per_token});
  expect_shape(weights, "weights", {tokens, rule.experts_per_token});
  if (bias.defined()) {
    expect_dtype(bias, "bias", DType::kF32);
    expect_shape(bias, "bias", {count});
  }
  if (rule.block_capacity > 0) {
    check_blocks(rule, count, tokens, sequences);
  } else {
    check_groups(rule, count);
  }
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::route(context, logits, bias, rule, experts, weights);
  }
  cpu::route(context, logits, bias, rule, experts, weights);
}

}  // namespace pydllm::ops
