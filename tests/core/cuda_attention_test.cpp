// The emulated attention kernels against the CPU op.
#include <algorithm>
#include <numeric>
#include <type_traits>

#include "cache/kv_cache.h"
#include "cuda_testing.h"
#include "ops/attention.h"
#include "ops/cuda/cuda_ops.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

struct Shape {
  int64_t heads, kv_heads, dim, page_size;
};

struct Length {
  int32_t queries, keys;
  int32_t block = 0;   // 0: full attention
  int32_t after = 0;   // keys behind the last query
  int32_t origin = 0;  // of the blocks
};

// A ragged batch in shuffled pages; slots that hold no token are NaN.
struct Batch {
  Shape shape;
  Tensor q;
  ops::KvLayer layer;
  std::vector<std::vector<int32_t>> tables;
  std::vector<ops::SequenceSpan> spans;
};

Tensor nan_tensor(const std::vector<int64_t>& shape, DType dtype) {
  Tensor out = Tensor::empty(shape, dtype);
  std::memset(out.raw(), 0xFF, out.nbytes());
  return out;
}

// bfloat16 pages: queries that bfloat16 holds, so that their rounding in the kernel changes nothing.
Tensor queries(int64_t tokens, int64_t width, DType dtype) {
  Tensor q = random_tensor({tokens, width}, 1);
  for (int64_t i = 0; dtype == DType::kBF16 && i < q.numel(); ++i) {
    q.data<float>()[i] = to_float(to_bfloat16(q.data<float>()[i]));
  }
  return q;
}

Batch make_batch(const Shape& shape, const std::vector<Length>& lengths, DType dtype) {
  CpuRunner cpu;
  int64_t pages = 2, tokens = 0;
  for (const Length& length : lengths) {
    pages += (length.keys + shape.page_size - 1) / shape.page_size;
    tokens += length.queries;
  }
  std::vector<int32_t> free(static_cast<size_t>(pages));
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), std::mt19937(1));
  const std::vector<int64_t> extents{pages, shape.kv_heads, shape.page_size, shape.dim};
  Batch batch{shape,
              queries(tokens, shape.heads * shape.dim + 3, dtype),
              {nan_tensor(extents, dtype), nan_tensor(extents, dtype)},
              {},
              {}};
  int32_t begin = 0;
  for (const Length& length : lengths) {
    const auto count = static_cast<ptrdiff_t>((length.keys + shape.page_size - 1) / shape.page_size);
    const std::vector<int32_t> table(free.end() - count, free.end());
    free.erase(free.end() - count, free.end());
    std::vector<int64_t> slots;
    for (int32_t p = 0; p < length.keys; ++p) slots.push_back(slot_of(table, static_cast<int32_t>(shape.page_size), p));
    const int64_t columns = shape.kv_heads * shape.dim;
    const Tensor kv = random_tensor({length.keys, 2 * columns}, static_cast<uint32_t>(begin + 2));
    ops::store_kv(cpu.context, kv, 0, columns, tensor_of(slots), batch.layer);
    batch.tables.push_back(table);
    batch.spans.push_back({begin,
                           length.queries,
                           length.keys,
                           {},
                           length.keys - length.after - length.queries,
                           length.block,
                           length.origin});
    begin += length.queries;
  }
  for (size_t i = 0; i < batch.spans.size(); ++i) batch.spans[i].pages = batch.tables[i];
  return batch;
}

float scale_of(const Shape& shape) {
  return 1 / std::sqrt(static_cast<float>(shape.dim));
}

Tensor on_cpu(const Batch& batch) {
  CpuRunner cpu;
  Tensor out = Tensor::empty({batch.q.size(0), batch.shape.heads * batch.shape.dim}, DType::kF32);
  ops::attention(cpu.context, batch.q, 2, batch.shape.heads, batch.layer, batch.spans, scale_of(batch.shape), out);
  return out;
}

struct Launch {
  std::vector<ops::cuda::AttentionTile> tiles;
  std::vector<int32_t> pages;
  int64_t workspace;

  int32_t most_parts() const {
    int32_t most = 0;
    for (const ops::cuda::AttentionTile& tile : tiles) most = std::max(most, tile.parts);
    return most;
  }
};

Launch launch_of(const Batch& batch) {
  std::vector<ops::cuda::AttentionSequence> sequences;
  std::vector<int32_t> pages;
  for (const ops::SequenceSpan& span : batch.spans) {
    sequences.push_back({span.query_begin, span.query_length, span.kv_length, static_cast<int32_t>(pages.size()),
                         span.query_position, span.block_length, span.block_origin});
    pages.insert(pages.end(), span.pages.begin(), span.pages.end());
  }
  const auto kv_heads = static_cast<int32_t>(batch.shape.kv_heads);
  const int32_t group = static_cast<int32_t>(batch.shape.heads) / kv_heads;
  const auto tiles = ops::cuda::attention_tiles(sequences, group, kv_heads, batch.layer.keys.dtype());
  return {tiles, pages, ops::cuda::attention_workspace(tiles, group, kv_heads, batch.shape.dim)};
}

template <class T, class Out>
Tensor emulated(const Batch& batch) {
  const Shape& shape = batch.shape;
  const Launch launch = launch_of(batch);
  const auto tiles = on_device("tiles", launch.tiles);
  const auto tables = on_device("pages", launch.pages);
  const auto q = on_device<float>("q", batch.q);
  const auto keys = on_device<T>("keys", batch.layer.keys), values = on_device<T>("values", batch.layer.values);
  Buffer<float> workspace("workspace", static_cast<size_t>(launch.workspace));
  Buffer<Out> out("out", static_cast<size_t>(batch.q.size(0) * shape.heads * shape.dim));
  ops::cuda::attention<T, Out>(q->data(), batch.q.size(1), 2, shape.heads, keys->data(), values->data(), shape.kv_heads,
                               shape.page_size, shape.dim, tiles->data(), static_cast<int64_t>(tiles->size()),
                               tables->data(), scale_of(shape), launch.workspace > 0 ? workspace.data() : nullptr,
                               out.data(), nullptr);
  return to_host(out, {batch.q.size(0), shape.heads * shape.dim});
}

// The softmax weights are rounded to bfloat16 for the tensor cores: 2^-9 relative each.
template <class T>
constexpr double kTolerance = DTypeOf<T>::value == DType::kF32 ? 3e-6 : 6e-3;

template <class T, class Out = float>
void expect_like_the_cpu(const Shape& shape, const std::vector<Length>& lengths) {
  const Batch batch = make_batch(shape, lengths, DTypeOf<T>::value);
  SCOPED_TRACE("head_dim " + std::to_string(shape.dim));
  expect_near(emulated<T, Out>(batch), on_cpu(batch), store_error(DTypeOf<Out>::value), kTolerance<T>);
}

TEST(CudaAttention, MatchesTheCpuAroundEveryTileOfKeys) {
  for (const int32_t keys : {1, 7, 31, 32, 33, 64, 65}) {
    expect_like_the_cpu<float>({2, 2, 16, 5}, {{1, keys}});
    expect_like_the_cpu<BFloat16>({2, 2, 16, 5}, {{1, keys}});
  }
}

TEST(CudaAttention, MatchesTheCpuAroundEveryTileOfQueries) {
  for (const int32_t queries : {7, 8, 9, 15, 17}) expect_like_the_cpu<float>({1, 1, 16, 4}, {{queries, 20}});
  for (const int32_t queries : {15, 16, 17, 63, 64, 65}) expect_like_the_cpu<BFloat16>({1, 1, 16, 4}, {{queries, 70}});
}

TEST(CudaAttention, MatchesTheCpuForEveryHeadDim) {
  for (const int64_t dim : {16, 32, 64, 128, 256}) {
    expect_like_the_cpu<float>({2, 1, dim, 8}, {{3, 35}});
    expect_like_the_cpu<BFloat16>({2, 1, dim, 8}, {{9, 35}});
  }
}

TEST(CudaAttention, HeadsOfAGroupShareATileInARaggedBatch) {
  for (const int64_t group : {1, 2, 3, 7}) {
    const Shape shape{2 * group, 2, 32, 4};
    const std::vector<Length> lengths{{5, 9}, {0, 3}, {11, 40, 0, 6}, {1, 1}};
    expect_like_the_cpu<float>(shape, lengths);
    expect_like_the_cpu<BFloat16>(shape, lengths);
  }
}

// Blocks end inside a tile, at its end and beyond; at the end of a step of keys and next to it.
TEST(CudaAttention, BlocksSeeTheirOwnAndEarlierBlocksOnly) {
  const Shape shape{2, 1, 16, 4};
  const std::vector<Length> lengths{{12, 12, 4}, {9, 40, 8, 5}, {6, 6, 1}, {3, 50, 32, 20}, {40, 70, 32}};
  expect_like_the_cpu<float>(shape, lengths);
  expect_like_the_cpu<BFloat16>(shape, lengths);
}

TEST(CudaAttention, CausalPassesShareTiles) {
  for (const int32_t group : {1, 3}) {
    const Shape shape{group, 1, 16, 5};
    const std::vector<Length> lengths{{70, 70, 1}, {20, 50, 1, 2}};
    expect_like_the_cpu<float>(shape, lengths);
    expect_like_the_cpu<BFloat16>(shape, lengths);
    const Batch batch = make_batch(shape, {{70, 70, 1}}, DType::kBF16);
    EXPECT_EQ(launch_of(batch).tiles.front().query_count, 64 / group);
  }
}

// Sizes around the parts of 64 keys; a query of a block-causal part may see none of its keys.
TEST(CudaAttention, PartsOfTheKeysAreJoined) {
  for (const int32_t keys : {64, 65, 128, 200}) {
    const Shape shape{2, 1, 32, 7};
    expect_like_the_cpu<float>(shape, {{3, keys}, {1, 9}});
    expect_like_the_cpu<BFloat16>(shape, {{3, keys}, {1, 9}});
    EXPECT_EQ(launch_of(make_batch(shape, {{3, keys}}, DType::kBF16)).most_parts(), (keys + 63) / 64);
  }
  expect_like_the_cpu<float>({1, 1, 16, 8}, {{90, 150, 1, 3}});
  expect_like_the_cpu<BFloat16>({1, 1, 16, 8}, {{90, 150, 1, 3}, {70, 140, 32}});
}

// LLaDA-8B (32 heads) and Dream-7B (28 heads, 4 K/V heads): a block of 32 queries over 432 keys, and 400 at once.
TEST(CudaAttention, FewTilesAreCutIntoAboutABlockForEachMultiprocessor) {
  const auto tiles = [](int32_t queries, int32_t keys, int32_t group, int32_t kv_heads) {
    const ops::cuda::AttentionSequence sequence{.query_length = queries, .kv_length = keys};
    return ops::cuda::attention_tiles({&sequence, 1}, group, kv_heads, DType::kBF16);
  };
  const auto llada = tiles(32, 432, 1, 32), dream = tiles(32, 432, 7, 4), whole = tiles(400, 400, 1, 32);
  ASSERT_EQ(llada.size(), 4U);
  for (int32_t part = 0; part < 4; ++part) {
    const auto& tile = llada[static_cast<size_t>(part)];
    EXPECT_EQ(tile.parts, 4);
    EXPECT_EQ(tile.key_begin, 128 * part);
    EXPECT_EQ(tile.key_end, std::min(432, 128 * part + 128));
    EXPECT_EQ(tile.partial_begin, 32 * part);
  }
  EXPECT_EQ(ops::cuda::attention_workspace(llada, 1, 32, 128), 4 * 32 * 32 * 132);
  EXPECT_EQ(dream.size(), 4U * 7);
  EXPECT_EQ(whole.size(), 7U);
  EXPECT_EQ(ops::cuda::attention_workspace(whole, 1, 32, 128), 0);
}

// Alone, in a batch and in other pages; and without parts as full attention over the keys that the query sees.
template <class T>
void expect_the_same_bits() {
  const Shape shape{2, 1, 16, 4}, other_pages{2, 1, 16, 16};
  const Length length{5, 140, 0, 4};
  const Tensor alone = emulated<T, float>(make_batch(shape, {length}, DTypeOf<T>::value));
  const Tensor paged = emulated<T, float>(make_batch(other_pages, {length}, DTypeOf<T>::value));
  Batch many = make_batch(shape, {length, {70, 90}, {3, 3, 1}}, DTypeOf<T>::value);
  std::copy_n(make_batch(shape, {length}, DTypeOf<T>::value).q.template data<float>(), 5 * many.q.size(1),
              many.q.template data<float>());
  const Tensor batched = emulated<T, float>(many);
  EXPECT_EQ(std::memcmp(alone.raw(), paged.raw(), alone.nbytes()), 0);
  EXPECT_EQ(std::memcmp(alone.raw(), batched.raw(), alone.nbytes()), 0);

  Batch causal = make_batch(shape, {{40, 40, 1}}, DTypeOf<T>::value);
  const Tensor masked = emulated<T, float>(causal);
  for (const int32_t query : {0, 1, 31, 32, 39}) {
    causal.spans = {{query, 1, query + 1, causal.tables[0]}};
    const Tensor full = emulated<T, float>(causal);
    const int64_t row = query * shape.heads * shape.dim;
    EXPECT_EQ(std::memcmp(masked.data<float>() + row, full.data<float>() + row, 2 * 16 * sizeof(float)), 0) << query;
  }
}

TEST(CudaAttention, BitsDependOnTheSequenceAlone) {
  expect_the_same_bits<float>();
  expect_the_same_bits<BFloat16>();
}

TEST(CudaAttention, BlocksMayStartBehindAPromptThatIsABlockToo) {
  const Shape shape{2, 1, 16, 4};
  const std::vector<Length> lengths{{12, 12, 4, 0, 5}, {9, 40, 8, 5, 33}, {6, 6, 1, 0, 3}, {3, 50, 32, 20, 30}};
  expect_like_the_cpu<float>(shape, lengths);
  expect_like_the_cpu<BFloat16>(shape, lengths);
}

TEST(CudaAttention, EveryOutputTypeIsTheRoundedResult) {
  expect_like_the_cpu<float, BFloat16>({2, 1, 32, 4}, {{3, 10}});
  expect_like_the_cpu<float, Float16>({2, 1, 32, 4}, {{3, 10}});
  expect_like_the_cpu<BFloat16, BFloat16>({2, 1, 32, 4}, {{3, 10}});
  expect_like_the_cpu<BFloat16, Float16>({2, 1, 32, 4}, {{3, 10}});
}

// A value that is not finite times a weight of 0 would be NaN: only the queries from its position (its block) on get
// it.
template <class T>
T rounded(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return to_bfloat16(x);
  }
}

template <class T>
void expect_unseen_keys_unread(const Shape& shape, const Length& length, int32_t position, float value) {
  Batch batch = make_batch(shape, {length}, DTypeOf<T>::value);
  const Tensor before = emulated<T, float>(batch);
  const auto page_size = static_cast<int32_t>(shape.page_size);
  const int64_t at_slot = slot_of(batch.tables[0], page_size, position) * shape.dim;
  for (int64_t d = 0; d < shape.dim; ++d) {
    batch.layer.keys.template data<T>()[at_slot + d] = rounded<T>(value);
    batch.layer.values.template data<T>()[at_slot + d] = rounded<T>(value);
  }
  const Tensor after = emulated<T, float>(batch);
  const int32_t block_begin = position / length.block * length.block, first = batch.spans[0].query_position;
  for (int64_t i = 0; i < after.numel(); ++i) {
    if (first + i / (shape.heads * shape.dim) >= block_begin) {
      ASSERT_FALSE(std::isfinite(at(after, i))) << i;
    } else {
      ASSERT_EQ(at(after, i), at(before, i)) << i;
    }
  }
}

TEST(CudaAttention, NonFiniteKeysReachOnlyTheQueriesThatSeeThem) {
  for (const float value : {NAN, INFINITY}) {
    expect_unseen_keys_unread<float>({1, 1, 16, 4}, {8, 8, 4}, 4, value);
    expect_unseen_keys_unread<BFloat16>({1, 1, 16, 4}, {8, 8, 4}, 4, value);
    expect_unseen_keys_unread<BFloat16>({3, 1, 16, 4}, {30, 30, 1}, 17, value);
    expect_unseen_keys_unread<BFloat16>({1, 1, 16, 4}, {40, 100, 8}, 90, value);
    expect_unseen_keys_unread<float>({1, 1, 16, 4}, {40, 100, 1}, 70, value);
  }
}

TEST(CudaAttention, WhatTheKernelsCannotDoIsRefusedByName) {
  using ops::cuda::attention_tiles;
  EXPECT_INTERNAL_ERROR(attention_tiles({}, 9, 1, DType::kF32), "expected 1 to 8 query heads to a K/V head, got 9");
  EXPECT_INTERNAL_ERROR(attention_tiles({}, 1, 1, DType::kF16), "expected float32 or bfloat16 pages, got float16");
  EXPECT_INTERNAL_ERROR(attention_tiles({}, 1, 0, DType::kF32), "expected 1 to 65535 K/V heads, got 0");
  const Batch batch = make_batch({1, 1, 48, 4}, {{1, 1}}, DType::kF32);
  const std::string message = message_of<Unsupported>([&] { emulated<float, float>(batch); });
  EXPECT_EQ(message, "head_dim: expected 16, 32, 64, 128 or 256 on CUDA, got 48");
}

}  // namespace
}  // namespace pydllm
