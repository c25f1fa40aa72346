// The emulated row_stats kernels against the CPU op.
#include <algorithm>
#include <numeric>

#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/row_stats.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

std::vector<RowStats> on_cpu(const Tensor& logits, const std::vector<RowSampling>& sampling,
                             const std::vector<int32_t>& forbidden) {
  CpuRunner cpu;
  std::vector<RowStats> out(sampling.size());
  ops::row_stats(cpu.context, logits, sampling, forbidden, out);
  return out;
}

// Lists of ids on the device; null when there are none, as the op's caller does.
struct DeviceLists {
  explicit DeviceLists(const ops::cuda::HostIdLists& lists)
      : begin(on_device("list begins", lists.begin)), ids(on_device("list ids", lists.ids)) {}
  ops::cuda::IdLists get() const {
    return ids->size() == 0 ? ops::cuda::IdLists{} : ops::cuda::IdLists{begin->data(), ids->data()};
  }
  std::unique_ptr<Buffer<int64_t>> begin;
  std::unique_ptr<Buffer<int32_t>> ids;
};

std::vector<RowStats> emulated(const Tensor& logits, const std::vector<RowSampling>& sampling,
                               const std::vector<int32_t>& forbidden) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const auto x = on_device<float>("logits", logits);
  const DeviceLists banned(ops::cuda::banned_ids(sampling)), controls(ops::cuda::control_ids(sampling));
  // A kernel that read the spans would find nothing in them.
  std::vector<RowSampling> without_spans = sampling;
  for (RowSampling& row : without_spans) row.edits = {}, row.controls = {};
  const auto wishes = on_device("sampling", without_spans);
  const auto ids = on_device("forbidden", forbidden);
  Buffer<unsigned char> workspace(
      "workspace", static_cast<size_t>(rows * ops::cuda::row_stats_segments(vocab) * ops::cuda::kRowStatsPartBytes));
  Buffer<RowStats> out("out", sampling.size());
  ops::cuda::row_stats(x->data(), rows, vocab, wishes->data(), ids->data(), static_cast<int32_t>(forbidden.size()),
                       banned.get(), controls.get(), workspace.data(), out.data(), nullptr);
  return {out.data(), out.data() + out.size()};
}

void expect_same(const RowStats& stats, const RowStats& expected) {
  ASSERT_EQ(stats.finite, expected.finite);
  if (!expected.finite) return;
  EXPECT_EQ(stats.token, expected.token);
  EXPECT_EQ(stats.top1, expected.top1);
  EXPECT_EQ(stats.top2, expected.top2);
  EXPECT_NEAR(stats.confidence, expected.confidence, 1e-6f * expected.confidence + 1e-37f);
  EXPECT_NEAR(stats.top1_probability, expected.top1_probability, 1e-6f * expected.top1_probability);
  EXPECT_NEAR(stats.top2_probability, expected.top2_probability, 1e-6f * expected.top2_probability + 1e-37f);
  EXPECT_EQ(stats.text, expected.text);
  EXPECT_NEAR(stats.text_probability, expected.text_probability, 1e-6f * expected.text_probability + 1e-37f);
  EXPECT_NEAR(stats.log_sum_exp, expected.log_sum_exp, 5e-7f * std::abs(expected.log_sum_exp) + 5e-7f);
  EXPECT_NEAR(stats.entropy, expected.entropy, 4e-6f);
  EXPECT_NEAR(stats.filtered.confidence, expected.filtered.confidence, 1e-6f);
  EXPECT_NEAR(stats.filtered.margin, expected.filtered.margin, 1e-6f);
  EXPECT_NEAR(stats.filtered.entropy, expected.filtered.entropy, 4e-6f);
}

void expect_like_the_cpu(const Tensor& logits, std::vector<RowSampling> sampling = {},
                         const std::vector<int32_t>& forbidden = {}) {
  sampling.resize(static_cast<size_t>(logits.size(0)));
  const auto expected = on_cpu(logits, sampling, forbidden), stats = emulated(logits, sampling, forbidden);
  for (size_t row = 0; row < expected.size(); ++row) {
    SCOPED_TRACE("row " + std::to_string(row) + " of vocabulary " + std::to_string(logits.size(1)));
    expect_same(stats[row], expected[row]);
  }
}

TEST(CudaRowStats, MatchesTheCpuForEveryVocabularySize) {
  for (const int64_t vocab : {1, 2, 3, 4, 5, 31, 33, 127, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 9001}) {
    expect_like_the_cpu(random_tensor({1, vocab}, static_cast<uint32_t>(vocab), 3));
  }
}

TEST(CudaRowStats, MatchesTheCpuForFlatAndForSteepRows) {
  for (const float sigma : {0.01f, 30.0f}) expect_like_the_cpu(random_tensor({1, 5000}, 1, sigma));
}

TEST(CudaRowStats, JoinsMoreRowsThanAWarp) {
  expect_like_the_cpu(random_tensor({33, 70}, 3));
}

TEST(CudaRowStats, DrawsTheTokenOfTheCpu) {
  std::vector<RowSampling> sampling;
  for (uint32_t i = 0; i < 6; ++i) {
    sampling.push_back({.temperature = 0.5f * static_cast<float>(i), .seed = 7 + i / 3, .step = i % 2, .position = i});
  }
  for (const int64_t vocab : {1, 6, 4099}) {
    expect_like_the_cpu(random_tensor({6, vocab}, 11, 2), sampling,
                        vocab > 1 ? std::vector<int32_t>{0, 3} : std::vector<int32_t>{});
  }
}

TEST(CudaRowStats, TiesGoToTheLowestIdsAcrossThreadsAndSegments) {
  Tensor logits = Tensor::zeros({3, 9000}, DType::kF32);
  for (const int64_t id : {8999, 5000, 1500}) logits.data<float>()[9000 + id] = 2;
  for (const int64_t id : {17, 16, 18}) logits.data<float>()[18000 + id] = 2;
  expect_like_the_cpu(logits);
  const auto stats = emulated(logits, std::vector<RowSampling>(3), {});
  EXPECT_EQ(stats[0].top1, 0);
  EXPECT_EQ(stats[0].top2, 1);
  EXPECT_EQ(stats[1].top1, 1500);
  EXPECT_EQ(stats[1].top2, 5000);
  EXPECT_EQ(stats[2].top1, 16);
  EXPECT_EQ(stats[2].top2, 17);
  EXPECT_EQ(emulated(logits, std::vector<RowSampling>(3), {1500})[1].token, 5000);
}

TEST(CudaRowStats, TwoEqualLogitsGiveExactlyOneHalf) {
  std::vector<float> logits(5000, -1e30f);
  logits[3] = logits[4500] = 1234.5f;
  const auto stats = emulated(tensor_of(logits).view({1, 5000}), {RowSampling{}}, {})[0];
  EXPECT_EQ(stats.token, 3);
  EXPECT_EQ(stats.top2, 4500);
  EXPECT_EQ(stats.confidence, 0.5f);
  EXPECT_EQ(stats.top2_probability, 0.5f);
}

TEST(CudaRowStats, ForbiddenIdsStayInTheNormaliserAndAreNeverChosen) {
  const Tensor logits = random_tensor({4, 5000}, 2, 3);
  std::vector<RowSampling> sampling(4);
  sampling[1].temperature = 1;
  sampling[2].temperature = 50;
  const auto plain = on_cpu(logits, std::vector<RowSampling>(4), {});
  std::vector<int32_t> forbidden;
  for (const RowStats& stats : plain) forbidden.push_back(stats.top1);
  std::sort(forbidden.begin(), forbidden.end());
  expect_like_the_cpu(logits, sampling, forbidden);
  expect_like_the_cpu(random_tensor({2, 3}, 2), {}, {0, 2});
  expect_like_the_cpu(random_tensor({2, 2}, 2), {}, {0, 1});
}

TEST(CudaRowStats, ANonFiniteLogitIsReportedOfItsOwnRowOnly) {
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    for (const int64_t id : {4095, 4096}) {
      Tensor logits = random_tensor({3, 5000}, 2);
      logits.data<float>()[5000 + id] = value;
      const auto stats = emulated(logits, std::vector<RowSampling>(3), {});
      EXPECT_TRUE(stats[0].finite);
      EXPECT_FALSE(stats[1].finite);
      EXPECT_TRUE(stats[2].finite);
    }
  }
}

// Every filter alone and together, warm and cold.
std::vector<RowSampling> filtered_wishes() {
  std::vector<RowSampling> wishes = {
      {.temperature = 1, .top_k = 1},
      {.temperature = 3, .top_k = 40},
      {.temperature = 0.3f, .top_p = 0.9f},
      {.temperature = 5, .top_p = 0.999f},
      {.temperature = 1, .top_p = 0.01f},
      {.temperature = 2, .min_p = 0.05f},
      {.temperature = 1, .min_p = 1},
      {.temperature = 2, .top_p = 0.7f, .top_k = 30},
      {.temperature = 2, .top_p = 0.9f, .top_k = 1000000, .min_p = 0.1f},
      {.top_p = 0.8f, .top_k = 7, .min_p = 0.5f},
  };
  for (size_t i = 0; i < wishes.size(); ++i) {
    wishes[i].seed = 5 + i;
    wishes[i].step = static_cast<uint32_t>(i % 3);
    wishes[i].position = static_cast<uint32_t>(40 + i);
    wishes[i].filtered = i % 3 != 1;
  }
  return wishes;
}

TEST(CudaRowStats, FiltersDrawTheTokenOfTheCpu) {
  const std::vector<RowSampling> wishes = filtered_wishes();
  const auto rows = static_cast<int64_t>(wishes.size());
  for (const int64_t vocab : {1, 7, 255, 256, 257, 4100}) {
    expect_like_the_cpu(random_tensor({rows, vocab}, static_cast<uint32_t>(vocab), 3), wishes,
                        vocab > 4 ? std::vector<int32_t>{0, 4} : std::vector<int32_t>{});
  }
}

TEST(CudaRowStats, FiltersOfFlatAndOfSteepRows) {
  std::vector<RowSampling> wishes = filtered_wishes();
  wishes.resize(8);
  for (const float sigma : {0.001f, 40.0f}) expect_like_the_cpu(random_tensor({8, 700}, 3, sigma), wishes, {9});
}

TEST(CudaRowStats, StatisticsOfTheFilteredDistributionWithoutFilters) {
  std::vector<RowSampling> wishes = {{.filtered = true},
                                     {.filtered = true, .min_p = 0.9f},
                                     {.temperature = 1, .filtered = true},
                                     {.temperature = 0.5f, .filtered = true}};
  expect_like_the_cpu(random_tensor({4, 300}, 8, 2), wishes, {2, 250});
}

// Flat ids above all others: the entropy of what is kept is the logarithm of how many are.
float kept_of(const std::vector<float>& logits, RowSampling wish) {
  wish.filtered = true;
  const auto vocab = static_cast<int64_t>(logits.size());
  return std::exp(emulated(tensor_of(logits).view({1, vocab}), {wish}, {})[0].filtered.entropy);
}

TEST(CudaRowStats, TiesAtTheKthValueAllSurvive) {
  std::vector<float> logits(600, -50.0f);
  for (const size_t id : {3, 99, 270, 512, 599}) logits[id] = id % 2 == 0 ? 0.0f : -0.0f;
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_k = 2}), 5, 1e-4);
  logits[7] = 1e-30f;  // above both zeros
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_k = 1}), 1, 1e-4);
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_k = 2}), 6, 1e-4);
}

TEST(CudaRowStats, TheNucleusHoldsTheTokenThatCrossesTheMassAndOfTiesTheLowest) {
  std::vector<float> logits(600, -500.0f);
  for (size_t id = 255; id < 265; ++id) logits[id] = id % 2 == 0 ? 0.0f : -0.0f;
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_p = 0.35f}), 4, 1e-4);
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_p = 0.05f}), 1, 1e-4);
  EXPECT_NEAR(kept_of(logits, {.temperature = 1, .top_p = 0.5f}), 6, 1e-4);  // half lies before the sixth: it stays
  std::vector<RowSampling> wishes;
  for (uint64_t seed = 0; seed < 16; ++seed) wishes.push_back({.temperature = 1, .top_p = 0.35f, .seed = seed});
  Tensor rows = Tensor::empty({16, 600}, DType::kF32);
  for (int64_t row = 0; row < 16; ++row) std::copy_n(logits.data(), 600, rows.data<float>() + row * 600);
  std::vector<int32_t> drawn;
  for (const RowStats& stats : emulated(rows, wishes, {})) drawn.push_back(stats.token);
  std::sort(drawn.begin(), drawn.end());
  drawn.erase(std::unique(drawn.begin(), drawn.end()), drawn.end());
  EXPECT_EQ(drawn, (std::vector<int32_t>{255, 256, 257, 258}));
}

// Dream's table: top_p .8 of (.70, .20, .09, .01) leaves (.7778, .2222); of (.05, .90, ...) the best alone.
TEST(CudaRowStats, TopPOfTheReferenceExample) {
  std::vector<float> logits;
  for (const double p : {.70, .20, .09, .01, .05, .90, .04, .01}) logits.push_back(static_cast<float>(std::log(p)));
  const RowSampling wish{.top_p = 0.8f, .filtered = true};
  const auto stats = emulated(tensor_of(logits).view({2, 4}), {wish, wish}, {});
  EXPECT_NEAR(stats[0].filtered.confidence, 7.0 / 9, 1e-6);
  EXPECT_NEAR(stats[0].filtered.margin, 5.0 / 9, 1e-6);
  EXPECT_NEAR(stats[0].filtered.entropy, -7.0 / 9 * std::log(7.0 / 9) - 2.0 / 9 * std::log(2.0 / 9), 2e-6);
  EXPECT_EQ(stats[1].filtered.confidence, 1);
  EXPECT_EQ(stats[1].filtered.entropy, 0);
}

// In float64, by a sort: nothing of our own but the contract's words.
FilteredStats by_sorting(std::vector<double> x, double temperature, double top_p, size_t top_k, double min_p) {
  std::sort(x.begin(), x.end(), std::greater<>());
  if (top_k > 0 && top_k < x.size())
    x.erase(std::upper_bound(x.begin(), x.end(), x[top_k - 1], std::greater<>()), x.end());
  std::vector<double> weight;
  for (const double logit : x) weight.push_back(std::exp((logit - x[0]) / temperature));
  const double target = top_p * std::accumulate(weight.begin(), weight.end(), 0.0);
  size_t kept = 0;
  for (double before = 0; kept < weight.size() && before <= target && weight[kept] >= min_p; ++kept) {
    before += weight[kept];
  }
  weight.resize(kept);
  const double z = std::accumulate(weight.begin(), weight.end(), 0.0);
  double entropy = 0;
  for (const double w : weight) entropy -= w > 0 ? w / z * std::log(w / z) : 0;
  const double second = kept > 1 ? weight[1] : 0;
  return {static_cast<float>(weight[0] / z), static_cast<float>((weight[0] - second) / z), static_cast<float>(entropy)};
}

TEST(CudaRowStats, FilteredStatisticsAreThoseOfASortInFloat64) {
  std::vector<RowSampling> wishes;
  for (const float top_p : {0.3f, 0.95f, 1.0f}) {
    for (const int32_t top_k : {0, 12}) {
      for (const float min_p : {0.0f, 0.02f}) {
        wishes.push_back({.temperature = 1.5f, .top_p = top_p, .top_k = top_k, .filtered = true, .min_p = min_p});
      }
    }
  }
  const auto rows = static_cast<int64_t>(wishes.size());
  const Tensor logits = random_tensor({rows, 900}, 21, 2);
  auto greedy = wishes;
  for (RowSampling& wish : greedy) wish.seed = 99;
  const auto stats = emulated(logits, greedy, {});
  for (size_t row = 0; row < wishes.size(); ++row) {
    const float* x = logits.data<float>() + row * 900;
    const FilteredStats expected =
        by_sorting({x, x + 900}, 1.5, static_cast<double>(wishes[row].top_p), static_cast<size_t>(wishes[row].top_k),
                   static_cast<double>(wishes[row].min_p));
    SCOPED_TRACE(row);
    EXPECT_NEAR(stats[row].filtered.margin, expected.margin, 1e-6f);
    EXPECT_NEAR(stats[row].filtered.entropy, expected.entropy, 4e-6f);
    if (stats[row].token != stats[row].top1) continue;
    EXPECT_NEAR(stats[row].filtered.confidence, expected.confidence, 1e-6f);
  }
}

TEST(CudaRowStats, BannedIdsAreNeverChosenAndLeaveTheFilteredDistribution) {
  const Tensor logits = random_tensor({6, 600}, 12, 2);
  const auto plain = on_cpu(logits, std::vector<RowSampling>(6), {});
  std::vector<std::vector<LogitEdit>> edits(6);
  std::vector<RowSampling> wishes = filtered_wishes();
  wishes.resize(6);
  wishes[4] = {};
  for (size_t row = 0; row < 5; ++row) {
    edits[row] = {{plain[row].top1, 1, kBanned}, {plain[row].top2, 1, row % 2 == 0 ? kBanned : 0.0f}};
    std::sort(edits[row].begin(), edits[row].end(), [](auto& a, auto& b) { return a.id < b.id; });
    wishes[row].edits = edits[row];
  }
  Tensor edited = Tensor::empty({6, 600}, DType::kF32);
  std::memcpy(edited.raw(), logits.raw(), logits.nbytes());
  CpuRunner cpu;
  ops::edit_logits(cpu.context, edited, wishes);
  expect_like_the_cpu(edited, wishes, {plain[2].top1});
}

TEST(CudaRowStats, TextIsTheBestIdBehindAnyNumberOfControls) {
  const Tensor logits = random_tensor({5, 700}, 15, 2);
  const auto plain = on_cpu(logits, std::vector<RowSampling>(5), {});
  std::vector<int32_t> everything(700);
  std::iota(everything.begin(), everything.end(), 0);
  std::vector<std::vector<int32_t>> controls = {
      {plain[0].top1}, {plain[1].top1, plain[1].top2}, everything, {plain[3].top2}, everything};
  controls[4].erase(controls[4].begin() + 300);
  std::vector<RowSampling> wishes(5);
  for (size_t row = 0; row < 5; ++row) {
    std::sort(controls[row].begin(), controls[row].end());
    wishes[row].controls = controls[row];
  }
  expect_like_the_cpu(logits, wishes);
  expect_like_the_cpu(logits, wishes, {1, 300});
  const std::vector<int32_t> only = {0};
  const RowSampling alone{.controls = only};
  EXPECT_EQ(emulated(random_tensor({1, 1}, 1), {alone}, {})[0].text, -1);
}

TEST(CudaRowStats, RowsWithoutATokenOrANumberAreNotFiltered) {
  const std::vector<RowSampling> wishes(2, {.temperature = 1, .top_p = 0.5f, .top_k = 2, .filtered = true});
  Tensor logits = random_tensor({2, 3}, 4);
  expect_like_the_cpu(logits, wishes, {0, 1, 2});
  logits.data<float>()[1] = NAN;
  const auto stats = emulated(logits, wishes, {});
  EXPECT_FALSE(stats[0].finite);
  EXPECT_EQ(stats[0].token, -1);
  expect_same(stats[1], on_cpu(logits, wishes, {})[1]);
}

}  // namespace
}  // namespace pydllm
