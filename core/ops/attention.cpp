#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {
namespace {

struct LayerShape {
  int64_t pages, kv_heads, page_size, head_dim;
};

LayerShape expect_layer(const KvLayer& layer) {
  const auto [pages, kv_heads, page_size, head_dim] = shape_of<4>(layer.keys, "keys");
  check(kv_heads >= 1 && page_size >= 1 && head_dim >= 1, "keys: expected positive extents, got ",
        shape_string(layer.keys.shape()));
  const DType dtype = layer.keys.dtype();
  check(dtype == DType::kF32 || dtype == DType::kBF16, "keys: expected float32 or bfloat16, got ", name_of(dtype));
  expect_dtype(layer.values, "values", dtype);
  expect_shape(layer.values, "values", {pages, kv_heads, page_size, head_dim});
  return {pages, kv_heads, page_size, head_dim};
}

void expect_span(const SequenceSpan& span, size_t index, const LayerShape& layer, int64_t tokens) {
  const auto name = [index](const char* field) { return format("sequences[", index, "].", field); };
  check(span.query_begin >= 0 && span.query_length >= 0 && span.query_begin <= tokens - span.query_length,
        name("query"), ": rows [", span.query_begin, ", +", span.query_length, ") do not lie in ", tokens, " tokens");
  check(span.kv_length >= (span.query_length > 0 ? 1 : 0), name("kv_length"), ": expected at least 1, got ",
        span.kv_length);
  check(span.block_length >= 0, name("block_length"), ": expected at least 0, got ", span.block_length);
  check(span.block_origin >= 0 && (span.block_length > 0 || span.block_origin == 0), name("block_origin"),
        ": expected at least 0, and 0 without blocks, got ", span.block_origin);
  check(
      span.block_length == 0 || (span.query_position >= 0 && span.query_position <= span.kv_length - span.query_length),
      name("query_position"), ": positions [", span.query_position, ", +", span.query_length, ") do not lie in ",
      span.kv_length, " keys");
  const int64_t needed = (span.kv_length + layer.page_size - 1) / layer.page_size;
  check(static_cast<int64_t>(span.pages.size()) >= needed, name("pages"), ": expected at least ", needed, " pages for ",
        span.kv_length, " positions, got ", span.pages.size());
  for (int64_t i = 0; i < needed; ++i) {
    const int32_t page = span.pages[static_cast<size_t>(i)];
    check(page >= 0 && page < layer.pages, name("pages"), "[", i, "]: expected 0 <= page < ", layer.pages, ", got ",
          page);
  }
}

// Two sequences that share a query row would write the same output from two threads.
void expect_disjoint(std::span<const SequenceSpan> sequences) {
  std::vector<std::pair<int32_t, int32_t>> ranges;
  for (const SequenceSpan& span : sequences) {
    if (span.query_length > 0) ranges.emplace_back(span.query_begin, span.query_begin + span.query_length);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    check(ranges[i].first >= ranges[i - 1].second, "sequences: query row ", ranges[i].first,
          " belongs to two sequences");
  }
}

}  // namespace

void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer) {
  expect_runnable(context, "store_kv", {{kv, "kv"}, {slots, "slots"}, {layer.keys, "keys"}, {layer.values, "values"}});
  const LayerShape shape = expect_layer(layer);
  const auto [tokens, width] = shape_of<2>(kv, "kv");
  expect_dtype(kv, "kv", DType::kF32);
  expect_dtype(slots, "slots", DType::kI64);
  expect_shape(slots, "slots", {tokens});
  const int64_t columns = checked_product(shape.kv_heads, shape.head_dim, "kv_heads");
  expect_columns("key_column", key_column, columns, width);
  expect_columns("value_column", value_column, columns, width);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::store_kv(context, kv, key_column, value_column, slots, layer);
  }
  cpu::store_kv(context, kv, key_column, value_column, slots, layer);
}

AttentionBatch::AttentionBatch(const Context& context, std::span<const SequenceSpan> sequences, int64_t tokens,
                               int64_t query_heads, const KvLayer& layer)
    : sequences_(sequences), tokens_(tokens), query_heads_(query_heads) {
  expect_runnable(context, "attention", {{layer.keys, "keys"}, {layer.values, "values"}});
  const LayerShape shape = expect_layer(layer);
  layer_shape_ = {shape.pages, shape.kv_heads, shape.page_size, shape.head_dim};
  layer_dtype_ = layer.keys.dtype();
  check(query_heads >= 1 && query_heads % shape.kv_heads == 0, "query_heads: expected a positive multiple of ",
        shape.kv_heads, ", got ", query_heads);
  for (size_t i = 0; i < sequences.size(); ++i) expect_span(sequences[i], i, shape, tokens);
  expect_disjoint(sequences);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) plan_ = cuda::plan_attention(context, sequences, query_heads, layer);
  }
}

void attention(const Context& context, const Tensor& q, int64_t query_column, const KvLayer& layer,
               const AttentionBatch& batch, float scale, Tensor& out) {
  expect_runnable(context, "attention", {{q, "q"}, {layer.keys, "keys"}, {layer.values, "values"}, {out, "out"}});
  const auto [pages, kv_heads, page_size, head_dim] = batch.layer_shape();
  for (const auto& [tensor, name] : {NamedTensor{layer.keys, "keys"}, NamedTensor{layer.values, "values"}}) {
    expect_dtype(tensor, name, batch.layer_dtype());
    expect_shape(tensor, name, {pages, kv_heads, page_size, head_dim});
  }
  expect_dtype(q, "q", DType::kF32);
  const int64_t width = shape_of<2>(q, "q")[1];
  expect_shape(q, "q", {batch.tokens(), width});
  const int64_t columns = checked_product(batch.query_heads(), head_dim, "query_heads");
  expect_columns("query_column", query_column, columns, width);
  expect_float_dtype(out, "out");
  expect_shape(out, "out", {batch.tokens(), columns});
  check(std::isfinite(scale), "scale: expected a finite number, got ", scale);
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::attention(context, q, query_column, layer, batch, scale, out);
  }
  cpu::attention(context, q, query_column, batch.query_heads(), layer, batch.sequences(), scale, out);
}

void attention(const Context& context, const Tensor& q, int64_t query_column, int64_t query_heads, const KvLayer& layer,
               std::span<const SequenceSpan> sequences, float scale, Tensor& out) {
  expect_runnable(context, "attention", {{q, "q"}});
  const int64_t tokens = shape_of<2>(q, "q")[0];
  attention(context, q, query_column, layer, AttentionBatch(context, sequences, tokens, query_heads, layer), scale,
            out);
}

}  // namespace pydllm::ops
