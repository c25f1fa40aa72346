#include "ops/row_stats.h"

#include <cmath>
#include <limits>

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {
namespace {

void expect_sampling(const RowSampling& sampling, size_t row) {
  const auto name = [row](const char* field) { return format("sampling[", row, "].", field); };
  check(std::isfinite(sampling.temperature) && sampling.temperature >= 0, name("temperature"),
        ": expected a finite number >= 0, got ", sampling.temperature);
  check(sampling.top_p > 0 && sampling.top_p <= 1, name("top_p"), ": expected 0 < top_p <= 1, got ", sampling.top_p);
  check(sampling.top_k >= 0, name("top_k"), ": expected >= 0, got ", sampling.top_k);
  check(sampling.min_p >= 0 && sampling.min_p <= 1, name("min_p"), ": expected 0 <= min_p <= 1, got ", sampling.min_p);
}

bool is_usable(const LogitEdit& edit) {
  return std::isfinite(edit.factor) && edit.factor > 0 && (std::isfinite(edit.bias) || edit.bias == kBanned);
}

// There may be as many edits as ids: no message is made unless one is wrong.
void expect_edits(std::span<const LogitEdit> edits, size_t row, int64_t vocab) {
  int64_t previous = -1;
  for (const LogitEdit& edit : edits) {
    const bool good = edit.id > previous && edit.id < vocab && is_usable(edit);
    check(good, "sampling[", row, "].edits: expected ascending ids below ", vocab,
          ", finite factors > 0 and finite biases or bans, got id ", edit.id, ", factor ", edit.factor, ", bias ",
          edit.bias, " after id ", previous);
    previous = edit.id;
  }
}

void expect_logits(const Tensor& logits, size_t rows) {
  const auto [given, vocab] = shape_of<2>(logits, "logits");
  expect_dtype(logits, "logits", DType::kF32);
  check(vocab >= 1 && vocab <= std::numeric_limits<int32_t>::max(), "logits: expected 1 to 2^31 - 1 columns, got ",
        vocab);
  check(std::cmp_equal(rows, given), "sampling: expected ", given, " rows, got ", rows);
}

}  // namespace

void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out) {
  expect_runnable(context, "row_stats", {{logits, "logits"}});
  expect_logits(logits, sampling.size());
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  check(std::cmp_equal(out.size(), rows), "out: expected ", rows, " rows, got ", out.size());
  for (size_t i = 0; i < sampling.size(); ++i) {
    expect_sampling(sampling[i], i);
    expect_edits(sampling[i].edits, i, vocab);
  }
  for (const int32_t id : forbidden) {
    check(id >= 0 && id < vocab, "forbidden: expected 0 <= id < ", vocab, ", got ", id);
  }
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::row_stats(context, logits, sampling, forbidden, out);
  }
  cpu::row_stats(context, logits, sampling, forbidden, out);
}

void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling) {
  expect_runnable(context, "edit_logits", {{logits, "logits"}});
  expect_logits(logits, sampling.size());
  for (size_t i = 0; i < sampling.size(); ++i) expect_edits(sampling[i].edits, i, logits.size(1));
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::edit_logits(context, logits, sampling);
  }
  cpu::edit_logits(context, logits, sampling);
}

void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale) {
  expect_runnable(context, "guide", {{conditional, "conditional"}, {unconditional, "unconditional"}});
  const auto [rows, vocab] = shape_of<2>(conditional, "conditional");
  expect_dtype(conditional, "conditional", DType::kF32);
  expect_dtype(unconditional, "unconditional", DType::kF32);
  expect_shape(unconditional, "unconditional", {rows, vocab});
  check(std::isfinite(scale), "scale: expected a finite number, got ", scale);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::guide(context, conditional, unconditional, scale);
  }
  cpu::guide(context, conditional, unconditional, scale);
}

}  // namespace pydllm::ops
