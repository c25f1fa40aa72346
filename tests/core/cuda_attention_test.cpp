// The emulated attention kernels against the CPU op.
#include <algorithm>
#include <numeric>

#include "cache/kv_cache.h"
#include "cuda_testing.h"
#include "ops/attention.h"
#include "ops/cuda/attention.cu"

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

template <class T, class Out>
Tensor emulated(const Batch& batch) {
  std::vector<ops::cuda::AttentionSequence> sequences;
  std::vector<int32_t> pages;
  for (const ops::SequenceSpan& span : batch.spans) {
    sequences.push_back({span.query_begin, span.query_length, span.kv_length, static_cast<int32_t>(pages.size()),
                         span.query_position, span.block_length, span.block_origin});
    pages.insert(pages.end(), span.pages.begin(), span.pages.end());
  }
  const Shape& shape = batch.shape;
  const auto group = static_cast<int32_t>(shape.heads / shape.kv_heads);
  const auto tiles = on_device("tiles", ops::cuda::attention_tiles(sequences, group, DTypeOf<T>::value));
  const auto tables = on_device("pages", pages);
  const auto q = on_device<float>("q", batch.q);
  const auto keys = on_device<T>("keys", batch.layer.keys), values = on_device<T>("values", batch.layer.values);
  Buffer<Out> out("out", static_cast<size_t>(batch.q.size(0) * shape.heads * shape.dim));
  ops::cuda::attention<T, Out>(q->data(), batch.q.size(1), 2, shape.heads, keys->data(), values->data(), shape.kv_heads,
                               shape.page_size, shape.dim, tiles->data(), static_cast<int64_t>(tiles->size()),
                               tables->data(), scale_of(shape), out.data(), nullptr);
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

TEST(CudaAttention, BlocksSeeTheirOwnAndEarlierBlocksOnly) {
  const Shape shape{2, 1, 16, 4};
  const std::vector<Length> lengths{{12, 12, 4}, {9, 40, 8, 5}, {6, 6, 1}, {3, 50, 32, 20}};
  expect_like_the_cpu<float>(shape, lengths);
  expect_like_the_cpu<BFloat16>(shape, lengths);
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

// NaN in a later block's values times a weight of 0 would be NaN.
template <class T>
void expect_unseen_keys_unread() {
  const Shape shape{1, 1, 16, 4};
  Batch batch = make_batch(shape, {{8, 8, 4}}, DTypeOf<T>::value);
  const int64_t page = batch.tables[0][1] * shape.page_size * shape.dim;
  std::memset(batch.layer.values.template data<T>() + page, 0xFF, static_cast<size_t>(4 * shape.dim) * sizeof(T));
  std::memset(batch.layer.keys.template data<T>() + page, 0xFF, static_cast<size_t>(4 * shape.dim) * sizeof(T));
  const Tensor out = emulated<T, float>(batch);
  for (int64_t i = 0; i < out.numel(); ++i) EXPECT_EQ(std::isnan(at(out, i)), i >= 4 * shape.dim) << i;
}

TEST(CudaAttention, NonFiniteKeysOfALaterBlockReachOnlyThatBlock) {
  expect_unseen_keys_unread<float>();
  expect_unseen_keys_unread<BFloat16>();
}

TEST(CudaAttention, WhatTheKernelsCannotDoIsRefusedByName) {
  using ops::cuda::attention_tiles;
  EXPECT_INTERNAL_ERROR(attention_tiles({}, 9, DType::kF32), "expected 1 to 8 query heads to a K/V head, got 9");
  EXPECT_INTERNAL_ERROR(attention_tiles({}, 1, DType::kF16), "expected float32 or bfloat16 pages, got float16");
  const Batch batch = make_batch({1, 1, 48, 4}, {{1, 1}}, DType::kF32);
  const std::string message = message_of<Unsupported>([&] { emulated<float, float>(batch); });
  EXPECT_EQ(message, "head_dim: expected 16, 32, 64, 128 or 256 on CUDA, got 48");
}

}  // namespace
}  // namespace pydllm
