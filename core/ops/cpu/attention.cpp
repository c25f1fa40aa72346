#include <algorithm>
#include <cstddef>
#include <vector>

#include "ops/cpu/convert.h"
#include "ops/cpu/cpu_ops.h"

namespace pydllm::ops::cpu {
namespace {

constexpr int64_t kTasksPerThread = 2;
constexpr int64_t kLeastRows = 64;  // below, gathering keys takes longer than using them

struct AttentionCall {
  const Tensor& q;
  int64_t query_column;
  int64_t query_heads;
  const KvLayer& layer;
  float scale;
  Tensor& out;

  int64_t kv_heads() const { return layer.keys.size(1); }
  int64_t page_size() const { return layer.keys.size(2); }
  int64_t head_dim() const { return layer.keys.size(3); }
  int64_t group() const { return query_heads / kv_heads(); }
};

// Queries [begin, begin + count) of one sequence, for every key/value head.
struct QueryTile {
  const SequenceSpan* sequence;
  int64_t begin;
  int64_t count;
};

// Tiles of at most `rows` rows.
std::vector<QueryTile> split(std::span<const SequenceSpan> sequences, int64_t group, int64_t rows) {
  const int64_t most = std::max<int64_t>(1, rows / group);
  std::vector<QueryTile> tiles;
  for (const SequenceSpan& sequence : sequences) {
    const int64_t pieces = (sequence.query_length + most - 1) / most;
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t begin = sequence.query_length * i / pieces, end = sequence.query_length * (i + 1) / pieces;
      tiles.push_back({&sequence, sequence.query_begin + begin, end - begin});
    }
  }
  return tiles;
}

// The kernel's rows, or fewer where threads would have nothing to do.
int64_t rows_per_tile(const VectorKernels& kernels, const AttentionCall& call, int threads) {
  const bool bf16 = call.layer.keys.dtype() == DType::kBF16;
  const int64_t most = bf16 ? kernels.bf16_attention_rows : kAttentionRows;
  if (threads == 1) return most;
  const int64_t rows = call.q.size(0) * call.query_heads;
  return std::clamp<int64_t>(rows / (kTasksPerThread * threads), kLeastRows, most);
}

// Work memory that a thread keeps between its tiles: fresh pages cost as much as a small tile.
float* work_memory(int64_t floats) {
  thread_local Tensor memory;
  if (memory.numel() < floats) memory = Tensor::empty({floats}, DType::kF32);
  return memory.data<float>();
}

AttentionTile describe(const AttentionCall& call, const QueryTile& queries, int64_t kv_head) {
  const int64_t head_elements = call.page_size() * call.head_dim();
  const int64_t head_bytes = kv_head * head_elements * static_cast<int64_t>(size_of(call.layer.keys.dtype()));
  AttentionTile tile{};
  tile.q_stride = call.q.size(1);
  tile.q = call.q.data<float>() + queries.begin * tile.q_stride + call.query_column +
           kv_head * call.group() * call.head_dim();
  tile.queries = queries.count;
  tile.group = call.group();
  tile.head_dim = call.head_dim();
  tile.scale = call.scale;
  tile.keys = static_cast<const std::byte*>(call.layer.keys.raw()) + head_bytes;
  tile.values = static_cast<const std::byte*>(call.layer.values.raw()) + head_bytes;
  tile.bf16 = call.layer.keys.dtype() == DType::kBF16;
  tile.page_stride = call.kv_heads() * head_elements;
  tile.page_size = call.page_size();
  tile.pages = queries.sequence->pages.data();
  tile.kv_length = queries.sequence->kv_length;
  tile.position = queries.sequence->query_position + queries.begin - queries.sequence->query_begin;
  tile.block_length = queries.sequence->block_length;
  tile.block_origin = queries.sequence->block_origin;
  return tile;
}

void run_tile(const VectorKernels& kernels, const AttentionCall& call, const QueryTile& queries, int64_t kv_head) {
  const AttentionTile tile = describe(call, queries, kv_head);
  float* const memory = work_memory(kernels.attention_memory(tile));
  kernels.attention(tile, memory);
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const int64_t token = queries.begin + r / tile.group, head = kv_head * tile.group + r % tile.group;
    store_floats(kernels, memory + r * tile.padded_dim(), tile.head_dim, call.out.dtype(), call.out.raw(),
                 (token * call.query_heads + head) * tile.head_dim);
  }
}

}  // namespace

void attention(const Context& context, const Tensor& q, int64_t query_column, int64_t query_heads, const KvLayer& layer,
               std::span<const SequenceSpan> sequences, float scale, Tensor& out) {
  const AttentionCall call{q, query_column, query_heads, layer, scale, out};
  const VectorKernels& kernels = vector_kernels();
  const std::vector<QueryTile> tiles =
      split(sequences, call.group(), rows_per_tile(kernels, call, context.pool->size()));
  const int64_t heads = call.kv_heads();
  context.pool->run(static_cast<int64_t>(tiles.size()) * heads, [&](int64_t task) {
    run_tile(kernels, call, tiles[static_cast<size_t>(task / heads)], task % heads);
  });
}

}  // namespace pydllm::ops::cpu
