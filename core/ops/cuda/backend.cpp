#include "ops/cuda/backend.h"

#include <vector>

#include "ops/cuda/cublaslt.h"
#include "ops/cuda/cuda_ops.h"

namespace pydllm::ops::cuda {
namespace {

// cuBLASLt multiplies from so many rows on, below linear_mma_kernel does. All of them until a GPU has shown which is
// quicker for few.
constexpr int64_t kCublasLtLeastRows = 1;

// run(pointer) with the tensor's pointer in its own type.
template <class Run>
void with_float_type(const Tensor& tensor, const Run& run) {
  switch (tensor.dtype()) {
    case DType::kF32:
      return run(tensor.data<float>());
    case DType::kBF16:
      return run(tensor.data<BFloat16>());
    case DType::kF16:
      return run(tensor.data<Float16>());
    default:
      throw InternalError(format("expected a float type, got ", name_of(tensor.dtype())));
  }
}

// The same for the pages of a K/V cache, which hold two of the types.
template <class Run>
void with_page_type(const KvLayer& layer, const Run& run) {
  if (layer.keys.dtype() == DType::kF32) return run(layer.keys.data<float>(), layer.values.data<float>());
  run(layer.keys.data<BFloat16>(), layer.values.data<BFloat16>());
}

IdLists uploaded(cudart::Arena& arena, const HostIdLists& lists) {
  if (lists.ids.empty()) return {};
  return {arena.upload<int64_t>(lists.begin), arena.upload<int32_t>(lists.ids)};
}

// Rows that are whole chunks of 16 bytes begin aligned wherever they are cut; the library is promised no less.
bool by_cublaslt(const Context& context, const Tensor& x, const PackedWeight& weight) {
  return context.cublaslt != nullptr && weight.dtype() == DType::kBF16 &&
         weight.in_features() * size_of(DType::kBF16) % kCublasLtAlignment == 0 && x.size(0) >= kCublasLtLeastRows;
}

void multiply_by_cublaslt(const Context& context, const Tensor& x, const PackedWeight& weight, const float* bias,
                          Tensor& y, bool accumulate) {
  const Stream stream = context.arena->stream();
  try {
    context.cublaslt->linear(x.data<BFloat16>(), weight.panels().data<BFloat16>(), bias, x.size(0),
                             weight.in_features(), weight.out_features(), y.data<float>(), accumulate, stream);
  } catch (const InternalError&) {
    cudart::synchronize(stream);  // throws what an earlier kernel did to the device, if that is the reason
    throw;
  }
}

}  // namespace

void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out) {
  with_float_type(table, [&](const auto* rows) {
    embedding(ids.data<int32_t>(), ids.size(0), rows, table.size(1), out.data<float>(), context.arena->stream());
  });
}

void rms_norm(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
              Tensor& out) {
  with_float_type(out, [&](auto* to) {
    rms_norm(x.data<float>(), rows.defined() ? rows.data<int32_t>() : nullptr, out.size(0), out.size(1),
             weight.data<float>(), epsilon, to, context.arena->stream());
  });
}

void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon) {
  rms_norm_heads(x.data<float>(), x.size(0), x.size(1), first_column, heads, weight.size(0), weight.data<float>(),
                 epsilon, context.arena->stream());
}

void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& norm_weight, float epsilon, const Tensor& positions, const RopeTable& table) {
  rope(x.data<float>(), x.size(0), x.size(1), first_column, heads, head_dim, positions.data<int32_t>(),
       table.cos.data<float>(), table.sin.data<float>(), table.cos.size(1),
       norm_weight.defined() ? norm_weight.data<float>() : nullptr, epsilon, context.arena->stream());
}

void swiglu(const Context& context, const Tensor& gate_up, Tensor& out) {
  with_float_type(
      out, [&](auto* to) { swiglu(gate_up.data<float>(), out.size(0), out.size(1), to, context.arena->stream()); });
}

void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer) {
  with_page_type(layer, [&](auto* keys, auto* values) {
    store_kv(kv.data<float>(), kv.size(0), kv.size(1), key_column, value_column, slots.data<int64_t>(),
             layer.keys.size(1), layer.keys.size(2), layer.keys.size(3), keys, values, context.arena->stream());
  });
}

AttentionPlan plan_attention(const Context& context, std::span<const SequenceSpan> sequences, int64_t query_heads,
                             const KvLayer& layer) {
  std::vector<AttentionSequence> spans;
  std::vector<int32_t> pages;
  for (const SequenceSpan& span : sequences) {
    spans.push_back({span.query_begin, span.query_length, span.kv_length, static_cast<int32_t>(pages.size()),
                     span.query_position, span.block_length, span.block_origin});
    pages.insert(pages.end(), span.pages.begin(), span.pages.end());
  }
  const int64_t kv_heads = layer.keys.size(1);
  const auto group = static_cast<int32_t>(query_heads / kv_heads), heads = static_cast<int32_t>(kv_heads);
  const std::vector<AttentionTile> tiles = attention_tiles(spans, group, heads, layer.keys.dtype());
  if (tiles.empty()) return {};
  cudart::Arena& arena = *context.arena;
  const int64_t floats = attention_workspace(tiles, group, heads, layer.keys.size(3));
  return {.tiles = arena.upload(std::span(tiles)),
          .tile_count = static_cast<int64_t>(tiles.size()),
          .pages = arena.upload(std::span<const int32_t>(pages)),
          .workspace = floats > 0 ? arena.take<float>(static_cast<size_t>(floats)) : nullptr};
}

void attention(const Context& context, const Tensor& q, int64_t query_column, const KvLayer& layer,
               const AttentionBatch& batch, float scale, Tensor& out) {
  const AttentionPlan& plan = batch.plan();
  with_page_type(layer, [&](const auto* keys, const auto* values) {
    with_float_type(out, [&](auto* to) {
      attention(q.data<float>(), q.size(1), query_column, batch.query_heads(), keys, values, layer.keys.size(1),
                layer.keys.size(2), layer.keys.size(3), plan.tiles, plan.tile_count, plan.pages, scale, plan.workspace,
                to, context.arena->stream());
    });
  });
}

void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out) {
  if (sampling.empty()) return;
  cudart::Arena& arena = *context.arena;
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const auto parts = static_cast<size_t>(rows * row_stats_segments(vocab) * kRowStatsPartBytes);
  auto* const stats = arena.take<RowStats>(out.size());
  const HostIdLists banned = banned_ids(sampling), controls = control_ids(sampling);
  row_stats(logits.data<float>(), rows, vocab, arena.upload(sampling), arena.upload(forbidden),
            static_cast<int32_t>(forbidden.size()), uploaded(arena, banned), uploaded(arena, controls),
            arena.take<std::byte>(parts), stats, arena.stream());
  arena.download(out.data(), stats, out.size_bytes());
}

void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling) {
  std::vector<int64_t> row_begin{0};
  std::vector<LogitEdit> edits;
  for (const RowSampling& row : sampling) {
    edits.insert(edits.end(), row.edits.begin(), row.edits.end());
    row_begin.push_back(static_cast<int64_t>(edits.size()));
  }
  if (edits.empty()) return;
  cudart::Arena& arena = *context.arena;
  edit_logits(logits.data<float>(), logits.size(0), logits.size(1), arena.upload<int64_t>(row_begin),
              arena.upload<LogitEdit>(edits), static_cast<int64_t>(edits.size()), arena.stream());
}

void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale) {
  guide(conditional.data<float>(), unconditional.data<float>(), conditional.size(0), conditional.size(1), scale,
        context.arena->stream());
}

void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule, Tensor& experts,
           Tensor& weights) {
  moe_router(logits.data<float>(), bias.defined() ? bias.data<float>() : nullptr, logits.size(0), logits.size(1), rule,
             experts.data<int32_t>(), weights.data<float>(), context.arena->stream());
}

namespace {

// The first expert's tensor, behind which those of the others lie.
const Tensor& first_of(std::span<const Expert> experts, PackedWeight Expert::* part) {
  const Tensor& first = (experts[0].*part).panels();
  for (size_t e = 0; e < experts.size(); ++e) {
    const auto* const begin = static_cast<const std::byte*>(first.raw()) + e * first.nbytes();
    check((experts[e].*part).panels().raw() == begin, "expert_ffn: expected the experts side by side");
  }
  return first;
}

template <class X, class W>
void expert_ffn_of(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                   std::span<const Expert> experts, Tensor& y) {
  cudart::Arena& arena = *context.arena;
  const int64_t tokens = x.size(0), hidden = x.size(1), kept = choice.size(1);
  const int64_t width = experts[0].down.in_features();
  const auto count = static_cast<int64_t>(experts.size());
  const auto pairs = static_cast<size_t>(tokens * kept);
  const ExpertWorkspace<X> workspace{
      .pairs = arena.take<int32_t>(static_cast<size_t>(count * tokens)),
      .counts = arena.take<int32_t>(experts.size()),
      .tiles = arena.take<ExpertTile>(static_cast<size_t>(expert_tiles_bound(tokens, kept, count))),
      .tile_count = arena.take<int32_t>(1),
      .activated = arena.take<X>(pairs * static_cast<size_t>(width)),
      .outputs = arena.take<float>(pairs * static_cast<size_t>(hidden))};
  expert_ffn(x.data<X>(), choice.data<int32_t>(), weights.data<float>(), tokens, kept,
             first_of(experts, &Expert::gate_up).data<W>(), first_of(experts, &Expert::down).data<W>(), count, hidden,
             width, workspace, y.data<float>(), arena.stream());
}

}  // namespace

void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y) {
  if (x.size(0) == 0) return;
  switch (experts[0].gate_up.dtype()) {
    case DType::kBF16:
      return expert_ffn_of<BFloat16, BFloat16>(context, x, choice, weights, experts, y);
    case DType::kF16:
      return expert_ffn_of<float, Float16>(context, x, choice, weights, experts, y);
    default:
      return expert_ffn_of<float, float>(context, x, choice, weights, experts, y);
  }
}

void linear(const Context& context, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode) {
  const float* const bias = weight.bias().defined() ? weight.bias().data<float>() : nullptr;
  const bool accumulate = mode == LinearMode::kAccumulate;
  if (by_cublaslt(context, x, weight)) return multiply_by_cublaslt(context, x, weight, bias, y, accumulate);
  const auto run = [&](const auto* from, const auto* matrix) {
    linear(from, matrix, bias, x.size(0), weight.in_features(), weight.out_features(), y.data<float>(), accumulate,
           context.arena->stream());
  };
  const Tensor& matrix = weight.panels();
  if (weight.dtype() == DType::kBF16) return run(x.data<BFloat16>(), matrix.data<BFloat16>());
  if (weight.dtype() == DType::kF16) return run(x.data<float>(), matrix.data<Float16>());
  run(x.data<float>(), matrix.data<float>());
}

}  // namespace pydllm::ops::cuda
