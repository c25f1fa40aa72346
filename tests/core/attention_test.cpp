#include "ops/attention.h"

#include <algorithm>
#include <numeric>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

struct Shape {
  int64_t heads, kv_heads, dim, page_size;
  DType dtype = DType::kF32;
  int64_t width() const { return (heads + 2 * kv_heads) * dim; }
};

// `queries` positions of `keys` are asked for: the last ones, or those before the last `after`.
struct Length {
  int32_t queries, keys;
  int32_t block = 0;  // 0: full attention
  int32_t after = 0;
  int32_t origin = 0;  // of the blocks
  int32_t first() const { return keys - after - queries; }
};

// A ragged batch: each sequence has `keys` positions in the cache, and queries for some of them.
struct Batch {
  Shape shape;
  std::vector<Length> lengths;
  std::vector<Tensor> qkv;                   // per sequence: q, k, v of every position [keys, width]
  std::vector<std::vector<int32_t>> tables;  // per sequence
  ops::KvLayer layer;
  Tensor q;  // [tokens, width]
  std::vector<ops::SequenceSpan> spans;
};

enum class Pages { kInOrder, kShuffled };

void fill_with_nan(const Tensor& tensor) {
  std::memset(tensor.raw(), 0xFF, tensor.nbytes());
}

void place(Batch& batch, const Context& context, size_t sequence) {
  const Shape& shape = batch.shape;
  std::vector<int64_t> slots;
  for (int64_t p = 0; p < batch.lengths[sequence].keys; ++p) {
    const int64_t page = batch.tables[sequence][static_cast<size_t>(p / shape.page_size)];
    slots.push_back(page * shape.page_size + p % shape.page_size);
  }
  ops::store_kv(context, batch.qkv[sequence], shape.heads * shape.dim, (shape.heads + shape.kv_heads) * shape.dim,
                tensor_of(slots), batch.layer);
}

// To what bfloat16 holds: kernels may round them when the pages are bfloat16.
void round_queries(const Shape& shape, const Tensor& qkv) {
  for (int64_t p = 0; p < qkv.size(0); ++p) {
    float* const q = qkv.data<float>() + p * shape.width();
    std::transform(q, q + shape.heads * shape.dim, q, [](float x) { return to_float(to_bfloat16(x)); });
  }
}

// `seeds[i]` makes the content of sequence i. Cache rows that hold no token are NaN.
Batch make_batch(const Shape& shape, std::vector<Length> lengths, const std::vector<uint32_t>& seeds,
                 Pages order = Pages::kShuffled, uint32_t page_seed = 1) {
  CpuRunner cpu;
  Batch batch{shape, std::move(lengths), {}, {}, {}, {}, {}};
  int64_t pages = 3, tokens = 0;
  for (const Length& length : batch.lengths) {
    pages += (length.keys + shape.page_size - 1) / shape.page_size;
    tokens += length.queries;
  }
  std::vector<int32_t> free(static_cast<size_t>(pages));
  std::iota(free.begin(), free.end(), 0);
  if (order == Pages::kShuffled) std::shuffle(free.begin(), free.end(), std::mt19937(page_seed));
  const std::vector<int64_t> extents{pages, shape.kv_heads, shape.page_size, shape.dim};
  batch.layer = {Tensor::empty(extents, shape.dtype), Tensor::empty(extents, shape.dtype)};
  fill_with_nan(batch.layer.keys);
  fill_with_nan(batch.layer.values);
  batch.q = Tensor::empty({tokens, shape.width()}, DType::kF32);
  int32_t begin = 0;
  for (size_t i = 0; i < batch.lengths.size(); ++i) {
    const Length length = batch.lengths[i];
    batch.qkv.push_back(random_tensor({length.keys, shape.width()}, seeds[i]));
    if (shape.dtype == DType::kBF16) round_queries(shape, batch.qkv[i]);
    const auto count = static_cast<ptrdiff_t>((length.keys + shape.page_size - 1) / shape.page_size);
    batch.tables.emplace_back(free.end() - count, free.end());
    free.erase(free.end() - count, free.end());
    place(batch, cpu.context, i);
    const Tensor asked = batch.qkv[i].rows(length.first(), length.queries);
    std::memcpy(batch.q.data<float>() + begin * shape.width(), asked.raw(), asked.nbytes());
    batch.spans.push_back({begin, length.queries, length.keys, {}, length.first(), length.block, length.origin});
    begin += length.queries;
  }
  for (size_t i = 0; i < batch.spans.size(); ++i) batch.spans[i].pages = batch.tables[i];
  return batch;
}

float scale_of(const Shape& shape) {
  return 1 / std::sqrt(static_cast<float>(shape.dim));
}

Tensor attend(const Batch& batch, int threads = 1, DType dtype = DType::kF32) {
  CpuRunner cpu(threads);
  Tensor out = Tensor::empty({batch.q.size(0), batch.shape.heads * batch.shape.dim}, dtype);
  ops::attention(cpu.context, batch.q, 0, batch.shape.heads, batch.layer, batch.spans, scale_of(batch.shape), out);
  return out;
}

double cached(const Shape& shape, const Tensor& qkv, int64_t position, int64_t column) {
  const auto x = static_cast<float>(at(qkv, position * shape.width() + column));
  return static_cast<double>(shape.dtype == DType::kBF16 ? to_float(to_bfloat16(x)) : x);
}

// Whether i sees j, written out: block by block from the origin, what is before it a block, too. Block 0 shows
// everything.
bool sees(int64_t i, int64_t j, const Length& length) {
  if (length.block == 0 || j <= i) return true;
  for (int64_t end = length.origin;; end += length.block) {
    if (i < end) return j < end;
  }
}

// The formula in float64 for one query head of one position.
std::vector<double> reference(const Shape& shape, const Tensor& qkv, int64_t position, int64_t head,
                              const Length& length) {
  int64_t keys = 0;
  while (keys < qkv.size(0) && sees(position, keys, length)) ++keys;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const int64_t k_column = (shape.heads + kv_head) * shape.dim, v_column = k_column + shape.kv_heads * shape.dim;
  std::vector<double> score(static_cast<size_t>(keys)), out(static_cast<size_t>(shape.dim));
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t d = 0; d < shape.dim; ++d) {
      score[static_cast<size_t>(j)] += at(qkv, position * shape.width() + head * shape.dim + d) *
                                       cached(shape, qkv, j, k_column + d) / std::sqrt(static_cast<double>(shape.dim));
    }
  }
  const double top = *std::max_element(score.begin(), score.end());
  double sum = 0;
  for (double& s : score) sum += s = std::exp(s - top);
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t d = 0; d < shape.dim; ++d) {
      out[static_cast<size_t>(d)] += score[static_cast<size_t>(j)] / sum * cached(shape, qkv, j, v_column + d);
    }
  }
  return out;
}

// Tile products round the softmax weights to bfloat16: 2^-9 of values up to 4.
double bound_of(const Shape& shape) {
  const bool tiles = std::string_view(ops::cpu::vector_kernels().isa) == "amxbf16";
  return shape.dtype == DType::kBF16 && tiles ? 6e-3 : 3e-6;
}

void expect_formula(const Batch& batch, const Tensor& out, int64_t every = 1) {
  const Shape& shape = batch.shape;
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const ops::SequenceSpan& span = batch.spans[i];
    for (int64_t t = 0; t < span.query_length; t += every) {
      for (int64_t h = 0; h < shape.heads; ++h) {
        const auto expected = reference(shape, batch.qkv[i], batch.lengths[i].first() + t, h, batch.lengths[i]);
        for (int64_t d = 0; d < shape.dim; ++d) {
          const double value = expected[static_cast<size_t>(d)];
          const double got = at(out, ((span.query_begin + t) * shape.heads + h) * shape.dim + d);
          ASSERT_NEAR(got, value, bound_of(shape) + store_error(out.dtype()) * std::abs(value))
              << "sequence " << i << " query " << t << " head " << h << " dim " << d;
        }
      }
    }
  }
}

TEST(Attention, MatchesTheFormulaAroundTheKeyTile) {
  for (const int32_t keys : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200}) {
    const Batch batch = make_batch({2, 2, 16, 32}, {{std::min(keys, 3), keys}}, {9});
    expect_formula(batch, attend(batch));
  }
}

TEST(Attention, MatchesTheFormulaForEveryHeadDimension) {
  for (const int64_t dim : {1, 3, 5, 8, 12, 15, 16, 17, 33, 40, 63, 64, 80, 96, 100, 128, 129, 256}) {
    const Batch batch = make_batch({2, 1, dim, 16}, {{7, 70}}, {9});
    expect_formula(batch, attend(batch));
  }
}

TEST(Attention, MatchesTheFormulaAroundTheQueryTile) {
  for (const int32_t queries : {1, 5, 6, 7, 127, 128, 129, 150, 260}) {
    const Batch batch = make_batch({1, 1, 8, 16}, {{queries, queries}}, {9});
    expect_formula(batch, attend(batch), 3);
  }
}

TEST(Attention, MatchesTheFormulaForGroupedHeads) {
  for (const Shape shape : {Shape{6, 2, 16, 8}, {8, 1, 24, 8}, {5, 5, 16, 8}, {130, 1, 4, 8}, {260, 2, 4, 8}}) {
    const Batch batch = make_batch(shape, {{9, 40}, {3, 3}}, {9, 10});
    expect_formula(batch, attend(batch, 2));
  }
}

TEST(Attention, MatchesTheFormulaOnBfloat16PagesAndForNarrowOutputs) {
  for (const int64_t dim : {7, 20, 64}) {
    const Batch batch = make_batch({4, 2, dim, 8, DType::kBF16}, {{5, 77}, {2, 9}}, {9, 10});
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) expect_formula(batch, attend(batch, 1, dtype));
  }
}

TEST(Attention, MatchesTheFormulaOnBfloat16PagesAroundTheTiles) {
  for (const int32_t keys : {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 300, 530}) {
    const Batch batch = make_batch({2, 2, 16, 32, DType::kBF16}, {{std::min(keys, 3), keys}}, {9});
    expect_formula(batch, attend(batch));
  }
  for (const int64_t dim : {1, 8, 15, 16, 17, 31, 32, 33, 48, 96, 100, 128, 256}) {
    const Batch batch = make_batch({2, 1, dim, 16, DType::kBF16}, {{7, 70}, {17, 33}}, {9, 10});
    expect_formula(batch, attend(batch));
  }
  for (const int32_t queries : {1, 16, 17, 32, 33, 127, 129, 383, 384, 385, 500}) {
    const Batch batch = make_batch({1, 1, 8, 16, DType::kBF16}, {{queries, queries}}, {9});
    expect_formula(batch, attend(batch, queries % 2 + 1), 7);
  }
  for (const Shape shape :
       {Shape{6, 2, 16, 8, DType::kBF16}, {7, 1, 24, 8, DType::kBF16}, {130, 1, 4, 8, DType::kBF16}}) {
    const Batch batch = make_batch(shape, {{9, 40}, {3, 3}}, {9, 10});
    expect_formula(batch, attend(batch, 2));
  }
}

TEST(Attention, RaggedBatchesReadOnlyTheirOwnPages) {
  const Batch batch =
      make_batch({2, 2, 16, 7}, {{4, 4}, {0, 0}, {1, 100}, {65, 65}, {30, 64}, {2, 3}}, {1, 2, 3, 4, 5, 6});
  expect_formula(batch, attend(batch, 3));
}

TEST(Attention, BlockCausalQueriesSeeTheirBlockAndAllBeforeIt) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int32_t block : {1, 3, 4, 8, 32, 63, 64, 65, 300}) {
      const Batch batch =
          make_batch({4, 2, 24, 16, dtype},
                     {{150, 150, block}, {9, 133, block}, {70, 200, block, 30}, {40, 280, block}}, {1, 2, 3, 4});
      expect_formula(batch, attend(batch, 2), 3);
    }
  }
}

TEST(Attention, BlockCausalBlocksMayStartBehindAPromptThatIsABlockToo) {
  for (const int32_t block : {1, 4, 31, 64}) {
    for (const int32_t origin : {1, 2, 33, 64, 130, 150, 200}) {
      const Batch batch = make_batch({4, 2, 24, 16},
                                     {{150, 150, block, 0, origin},
                                      {9, 133, block, 0, origin},
                                      {70, 200, block, 30, origin},
                                      {1, 90, block, 90 - std::min(origin, 90), origin}},
                                     {1, 2, 3, 4});
      expect_formula(batch, attend(batch, 2), 3);
    }
  }
}

TEST(Attention, AWindowInsideALongerSequenceSeesWhatLiesBehindItToo) {
  const Batch batch = make_batch({2, 1, 16, 8}, {{8, 90, 0, 40}, {1, 65, 0, 64}, {64, 129, 0, 1}}, {1, 2, 3});
  expect_formula(batch, attend(batch));
}

TEST(Attention, BlockCausalEqualsFullAttentionOverTheVisiblePrefixBitForBit) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{6, 2, 40, 16, dtype};
    for (const int32_t block : {4, 60}) {
      const Batch whole = make_batch(shape, {{270, 270, block}}, {7});
      const Tensor expected = attend(whole, 2);
      for (int32_t begin = 0; begin < 270; begin += block) {
        const int32_t end = std::min(begin + block, 270);
        Batch part = make_batch(shape, {{end - begin, 270, 0, 270 - end}}, {7});
        part.spans[0].kv_length = end;
        EXPECT_TRUE(same_bits(attend(part), expected.rows(begin, end - begin))) << block << " at " << begin;
      }
    }
  }
}

TEST(Attention, BlockCausalRowsDependOnlyOnTheKeysTheySee) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{6, 2, 16, 8, dtype};
    for (const int32_t block : {3, 4, 20, 60}) {
      for (const float poison : {NAN, INFINITY}) {
        const Batch batch = make_batch(shape, {{100, 100, block}}, {5});
        const Tensor expected = attend(batch);
        std::fill_n(batch.qkv[0].data<float>() + 60 * shape.width(), 40 * shape.width(), poison);
        Batch later = batch;
        place(later, CpuRunner().context, 0);
        const Tensor got = attend(later);
        EXPECT_TRUE(same_bits(got.rows(0, 60), expected.rows(0, 60))) << block;
        EXPECT_TRUE(std::isnan(at(got, 60 * 6 * 16))) << block;
      }
    }
  }
}

TEST(Attention, ScoresFarApartDoNotOverflow) {
  Batch batch = make_batch({1, 1, 4, 4}, {{1, 3}}, {1});
  CpuRunner cpu;
  const Tensor kv =
      tensor_of<float>({1, 0, 0, 0, 5, 5, 5, 5, -1, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0, 9, 9, 9, 9}).view({3, 8});
  const int64_t page = batch.tables[0][0] * 4;
  ops::store_kv(cpu.context, kv, 0, 4, tensor_of<int64_t>({page, page + 1, page + 2}), batch.layer);
  std::fill_n(batch.q.data<float>(), 4, 1e4f);
  EXPECT_EQ(at(attend(batch), 0), 5);
  std::fill_n(batch.q.data<float>(), 4, -1e4f);
  EXPECT_EQ(at(attend(batch), 0), 7);
}

const std::vector<Length> kSixteen{{3, 9},  {17, 80}, {1, 1},   {64, 64, 4},    {130, 140}, {5, 65},
                                   {2, 31}, {8, 8},   {9, 33},  {40, 40, 7},    {1, 99},    {12, 50, 16},
                                   {7, 70}, {6, 6},   {20, 66}, {4, 128, 0, 60}};

std::vector<uint32_t> seeds_from(uint32_t first) {
  std::vector<uint32_t> seeds(16);
  std::iota(seeds.begin(), seeds.end(), first);
  return seeds;
}

TEST(Attention, ASequenceIsTheSameAloneAndAmongFifteenNeighbours) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{6, 2, 40, 16, dtype};
    const auto seeds = seeds_from(100);
    const Batch all = make_batch(shape, kSixteen, seeds);
    const Tensor one = attend(all, 1), three = attend(all, 3);
    EXPECT_TRUE(same_bits(one, three));
    for (size_t i = 0; i < 16; ++i) {
      const Tensor alone = attend(make_batch(shape, {kSixteen[i]}, {seeds[i]}));
      EXPECT_TRUE(same_bits(alone, one.rows(all.spans[i].query_begin, all.spans[i].query_length))) << i;
    }
  }
}

TEST(Attention, PageAssignmentAndPageSizeDoNotShow) {
  const auto seeds = seeds_from(50);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor expected = attend(make_batch({6, 2, 40, 16, dtype}, kSixteen, seeds, Pages::kInOrder));
    for (const int64_t page_size : {1, 3, 16, 64, 200}) {
      for (const uint32_t page_seed : {2u, 3u}) {
        const Batch batch = make_batch({6, 2, 40, page_size, dtype}, kSixteen, seeds, Pages::kShuffled, page_seed);
        EXPECT_TRUE(same_bits(attend(batch), expected)) << page_size;
      }
    }
  }
}

TEST(Attention, AQueryIsTheSameWhicheverQueriesAreAskedWithIt) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{2, 2, 24, 16, dtype};
    const Batch all = make_batch(shape, {{150, 150}}, {4}), few = make_batch(shape, {{13, 150}}, {4});
    EXPECT_TRUE(same_bits(attend(all).rows(137, 13), attend(few)));
  }
}

TEST(Attention, NaNInOneSequenceStaysThere) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{2, 1, 16, 8, dtype};
    const Batch clean = make_batch(shape, {{5, 20}, {5, 20}}, {1, 2});
    const Batch dirty = make_batch(shape, {{5, 20}, {5, 20}}, {1, 2});
    dirty.q.data<float>()[7 * shape.width()] = NAN;
    dirty.q.data<float>()[8 * shape.width()] = INFINITY;
    const Tensor expected = attend(clean), got = attend(dirty);
    EXPECT_TRUE(same_bits(expected.rows(0, 7), got.rows(0, 7)));
    EXPECT_TRUE(same_bits(expected.rows(9, 1), got.rows(9, 1)));
    EXPECT_TRUE(std::isnan(at(got, 7 * 32)));
    EXPECT_TRUE(std::isnan(at(got, 8 * 32)));
  }
}

TEST(Attention, BadSpansAreInternalErrors) {
  CpuRunner cpu;
  Batch batch = make_batch({2, 1, 8, 4}, {{3, 10}, {2, 5}}, {1, 2});
  Tensor out = Tensor::empty({5, 16}, DType::kF32);
  const auto run = [&](auto&& change) {
    std::vector<ops::SequenceSpan> spans = batch.spans;
    change(spans);
    ops::attention(cpu.context, batch.q, 0, 2, batch.layer, spans, 1, out);
  };
  const std::vector<int32_t> foreign{0, 1, 99}, negative{0, -1, 2};
  using Spans = std::vector<ops::SequenceSpan>;
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].query_begin = 3; }), "sequences[0].query");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].query_begin = -1; }), "sequences[0].query");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[1].query_length = 2147483647; }), "sequences[1].query");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[1].query_begin = 2; }), "query row 2 belongs to two sequences");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[1].kv_length = 0; }), "sequences[1].kv_length: expected at least 1");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].kv_length = 13; }),
                        "expected at least 4 pages for 13 positions, got 3");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].kv_length = 2147483647; }), "sequences[0].pages");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].block_length = -1; }),
                        "sequences[0].block_length: expected at least 0");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].block_length = 4, s[0].block_origin = -1; }),
                        "sequences[0].block_origin: expected at least 0");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[1].block_origin = 1; }), "sequences[1].block_origin: expected at least 0");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[0].block_length = 4, s[0].query_position = 8; }),
                        "sequences[0].query_position: positions [8, +3) do not lie in 10 keys");
  EXPECT_INTERNAL_ERROR(run([](Spans& s) { s[1].block_length = 4, s[1].query_position = -1; }),
                        "sequences[1].query_position");
  EXPECT_INTERNAL_ERROR(run([&](Spans& s) { s[0].pages = foreign; }), "sequences[0].pages[2]");
  EXPECT_INTERNAL_ERROR(run([&](Spans& s) { s[0].pages = negative; }), "sequences[0].pages[1]");
  run([](Spans&) {});
}

TEST(Attention, BadShapesAndDtypesAreInternalErrors) {
  CpuRunner cpu;
  const Batch batch = make_batch({2, 2, 8, 4}, {{3, 10}}, {1});
  Tensor out = Tensor::empty({3, 16}, DType::kF32), small = Tensor::empty({3, 15}, DType::kF32);
  const auto run = [&](int64_t column, int64_t heads, const ops::KvLayer& layer, float scale, Tensor& to) {
    ops::attention(cpu.context, batch.q, column, heads, layer, batch.spans, scale, to);
  };
  EXPECT_INTERNAL_ERROR(run(0, 3, batch.layer, 1, out), "query_heads: expected a positive multiple of 2, got 3");
  EXPECT_INTERNAL_ERROR(run(0, 0, batch.layer, 1, out), "query_heads");
  EXPECT_INTERNAL_ERROR(run(0, int64_t{1} << 62, batch.layer, 1, out), "query_heads");
  EXPECT_INTERNAL_ERROR(run(40, 2, batch.layer, 1, out), "query_column");
  EXPECT_INTERNAL_ERROR(run(-1, 2, batch.layer, 1, out), "query_column");
  EXPECT_INTERNAL_ERROR(run(0, 2, batch.layer, NAN, out), "scale");
  EXPECT_INTERNAL_ERROR(run(0, 2, batch.layer, 1, small), "out");
  EXPECT_INTERNAL_ERROR(run(0, 2, {batch.layer.keys, Tensor::empty({1, 2, 4, 8}, DType::kF32)}, 1, out), "values");
  const Tensor half = Tensor::empty({6, 2, 4, 8}, DType::kF16);
  EXPECT_INTERNAL_ERROR(run(0, 2, {half, half}, 1, out), "keys: expected float32 or bfloat16, got float16");
}

TEST(StoreKv, WritesTheRowsOfItsSlotsRoundedAndNothingElse) {
  CpuRunner cpu(3);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ops::KvLayer layer{Tensor::zeros({4, 2, 3, 5}, dtype), Tensor::zeros({4, 2, 3, 5}, dtype)};
    const Tensor kv = random_tensor({4, 31}, 3);
    const std::vector<int64_t> slots{11, 0, 4, 3};
    ops::store_kv(cpu.context, kv, 1, 21, tensor_of(slots), layer);
    for (int64_t i = 0; i < layer.keys.numel(); ++i) {
      const int64_t page = i / 30, head = i / 15 % 2, row = i / 5 % 3, d = i % 5;
      const auto slot = std::find(slots.begin(), slots.end(), page * 3 + row);
      if (slot == slots.end()) {
        ASSERT_EQ(at(layer.keys, i), 0);
        continue;
      }
      const int64_t base = (slot - slots.begin()) * 31 + head * 5 + d;
      const auto stored = [&](double x) {
        const auto value = static_cast<float>(x);
        return static_cast<double>(dtype == DType::kBF16 ? to_float(to_bfloat16(value)) : value);
      };
      ASSERT_EQ(at(layer.keys, i), stored(at(kv, base + 1)));
      ASSERT_EQ(at(layer.values, i), stored(at(kv, base + 21)));
    }
  }
}

TEST(StoreKv, BadSlotsAndColumnsAreInternalErrors) {
  CpuRunner cpu;
  ops::KvLayer layer{Tensor::zeros({2, 1, 4, 8}, DType::kF32), Tensor::zeros({2, 1, 4, 8}, DType::kF32)};
  const Tensor kv = random_tensor({2, 16}, 1);
  const auto run = [&](std::vector<int64_t> slots, int64_t key, int64_t value) {
    ops::store_kv(cpu.context, kv, key, value, tensor_of(slots), layer);
  };
  EXPECT_INTERNAL_ERROR(run({0, 8}, 0, 8), "slots[1]: expected 0 <= slot < 8, got 8");
  EXPECT_INTERNAL_ERROR(run({-1, 0}, 0, 8), "slots[0]");
  EXPECT_INTERNAL_ERROR(run({5, 5}, 0, 8), "slot 5 is written twice");
  EXPECT_INTERNAL_ERROR(run({0, 1, 2}, 0, 8), "slots");
  EXPECT_INTERNAL_ERROR(run({0, 1}, 9, 8), "key_column");
  EXPECT_INTERNAL_ERROR(run({0, 1}, 0, -1), "value_column");
  EXPECT_INTERNAL_ERROR(run({0, 1}, 0, INT64_MAX), "value_column");
}

}  // namespace
}  // namespace pydllm
