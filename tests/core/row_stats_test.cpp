#include "ops/row_stats.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

constexpr float kNever = -1e30f;  // finite, and e^(kNever - m) = 0

std::vector<RowStats> stats_of(const Tensor& logits, std::vector<RowSampling> sampling = {},
                               const std::vector<int32_t>& forbidden = {}, int threads = 1) {
  CpuRunner cpu(threads);
  const auto rows = static_cast<size_t>(logits.size(0));
  sampling.resize(rows);
  std::vector<RowStats> out(rows);
  ops::row_stats(cpu.context, logits, sampling, forbidden, out);
  return out;
}

RowStats stats_of_row(const std::vector<float>& logits, const RowSampling& sampling = {},
                      const std::vector<int32_t>& forbidden = {}) {
  const Tensor row = tensor_of(logits).view({1, static_cast<int64_t>(logits.size())});
  return stats_of(row, {sampling}, forbidden)[0];
}

std::vector<double> softmax(const float* logits, int64_t n) {
  std::vector<double> p(static_cast<size_t>(n));
  const double top = static_cast<double>(*std::max_element(logits, logits + n));
  for (int64_t i = 0; i < n; ++i) p[static_cast<size_t>(i)] = std::exp(static_cast<double>(logits[i]) - top);
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

double entropy_of(const std::vector<double>& p) {
  double h = 0;
  for (const double x : p) h -= x > 0 ? x * std::log(x) : 0;
  return h;
}

void expect_formula(const RowStats& stats, const float* logits, int64_t n) {
  const auto p = softmax(logits, n);
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  const auto first = static_cast<size_t>(order[0]);
  const double log_sum_exp = static_cast<double>(logits[first]) - std::log(p[first]);
  EXPECT_TRUE(stats.finite);
  EXPECT_EQ(stats.token, order[0]);
  EXPECT_EQ(stats.top1, order[0]);
  EXPECT_NEAR(stats.top1_probability, p[first], 5e-7 * p[first]);
  EXPECT_EQ(stats.confidence, stats.top1_probability);
  EXPECT_EQ(stats.top2, n > 1 ? order[1] : -1);
  const double second = n > 1 ? p[static_cast<size_t>(order[1])] : 0;
  EXPECT_NEAR(stats.top2_probability, second, 5e-7 * second);
  EXPECT_NEAR(stats.log_sum_exp, log_sum_exp, 3e-7 * std::abs(log_sum_exp) + 3e-7);
  EXPECT_NEAR(stats.entropy, entropy_of(p), 2e-6);
}

TEST(RowStats, MatchesTheFormulaForEveryVocabularySize) {
  for (const int64_t vocab :
       {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 1023, 1024, 1025, 5000, 32767, 32768, 32769, 126464}) {
    for (const float sigma : {0.01f, 3.0f, 30.0f}) {
      const Tensor logits = random_tensor({2, vocab}, static_cast<uint32_t>(vocab), sigma);
      const auto stats = stats_of(logits, {}, {}, 2);
      for (int64_t r = 0; r < 2; ++r)
        expect_formula(stats[static_cast<size_t>(r)], logits.data<float>() + r * vocab, vocab);
    }
  }
}

TEST(RowStats, CanonicalTableT1) {
  const std::vector<std::vector<double>> table{
      {.70, .20, .09, .01}, {.05, .90, .04, .01}, {.40, .35, .24, .01}, {.01, .01, .97, .01}};
  const int32_t argmax[] = {0, 1, 0, 2};
  const double confidence[] = {.70, .90, .40, .97}, margin[] = {.50, .85, .05, .96};
  const double entropy[] = {.834327, .419418, 1.122514, .167701};
  for (size_t i = 0; i < 4; ++i) {
    std::vector<float> logits;
    for (const double p : table[i]) logits.push_back(static_cast<float>(std::log(p)));
    const RowStats stats = stats_of_row(logits);
    EXPECT_EQ(stats.token, argmax[i]);
    EXPECT_NEAR(stats.confidence, confidence[i], 1e-7);
    EXPECT_NEAR(stats.top1_probability - stats.top2_probability, margin[i], 1e-7);
    EXPECT_NEAR(stats.entropy, entropy[i], 1e-6);
    EXPECT_NEAR(stats.log_sum_exp, 0, 1e-7);
  }
}

TEST(RowStats, TableETwoEqualLogitsGiveExactlyOneHalf) {
  const int32_t pairs[4][2] = {{0, 1}, {1, 2}, {0, 2}, {0, 1}};
  for (const int64_t vocab : {4, 64, 126464}) {
    for (const auto& pair : pairs) {
      for (const float value : {0.0f, -7.25f, 1234.5f}) {
        std::vector<float> logits(static_cast<size_t>(vocab), kNever);
        logits[static_cast<size_t>(pair[0])] = logits[static_cast<size_t>(pair[1])] = value;
        const RowStats stats = stats_of_row(logits);
        EXPECT_EQ(stats.token, pair[0]);
        EXPECT_EQ(stats.top2, pair[1]);
        EXPECT_EQ(stats.confidence, 0.5f);
        EXPECT_EQ(stats.top2_probability, 0.5f);
        EXPECT_FLOAT_EQ(stats.entropy, std::log(2.0f));
      }
    }
  }
}

TEST(RowStats, TiesGoToTheLowestIdsAcrossChunksAndSegments) {
  std::vector<float> logits(100000, 1.0f);
  RowStats stats = stats_of_row(logits);
  EXPECT_EQ(stats.top1, 0);
  EXPECT_EQ(stats.top2, 1);
  for (const size_t i : {99999u, 40000u, 1500u}) logits[i] = 2;
  stats = stats_of_row(logits);
  EXPECT_EQ(stats.top1, 1500);
  EXPECT_EQ(stats.top2, 40000);
  stats = stats_of_row(logits, {}, {1500});
  EXPECT_EQ(stats.top1, 40000);
  EXPECT_EQ(stats.top2, 99999);
}

TEST(RowStats, AscendingAndDescendingRowsFindTheirEnds) {
  std::vector<float> logits(70001);
  std::iota(logits.begin(), logits.end(), -35000.0f);
  RowStats stats = stats_of_row(logits);
  EXPECT_EQ(stats.top1, 70000);
  EXPECT_EQ(stats.top2, 69999);
  EXPECT_NEAR(stats.top1_probability, 1 - std::exp(-1.0), 1e-7);
  std::reverse(logits.begin(), logits.end());
  stats = stats_of_row(logits);
  EXPECT_EQ(stats.top1, 0);
  EXPECT_EQ(stats.top2, 1);
}

TEST(RowStats, ForbiddenIdsAreNeverChosenButStayInTheNormaliser) {
  const std::vector<float> logits{std::log(.1f), std::log(.6f), std::log(.3f)};
  RowStats stats = stats_of_row(logits, {}, {1});
  EXPECT_EQ(stats.token, 2);
  EXPECT_EQ(stats.top2, 0);
  EXPECT_NEAR(stats.confidence, .3, 1e-7);
  EXPECT_NEAR(stats.top2_probability, .1, 1e-7);
  EXPECT_NEAR(stats.entropy, entropy_of({.1, .6, .3}), 1e-6);
  stats = stats_of_row(logits, {}, {2, 0, 2});
  EXPECT_EQ(stats.token, 1);
  EXPECT_EQ(stats.top2, -1);
  EXPECT_EQ(stats.top2_probability, 0);
  for (const float temperature : {0.0f, 1.0f}) {
    RowSampling sampling;
    sampling.temperature = temperature;
    stats = stats_of_row(logits, sampling, {0, 1, 2});
    EXPECT_EQ(stats.token, -1);
    EXPECT_EQ(stats.top1, -1);
    EXPECT_TRUE(stats.finite);
  }
}

TEST(RowStats, TextIsTheBestIdBesideForbiddenOnesAndControls) {
  std::vector<float> logits(3000, 0.0f);
  logits[7] = 9;
  logits[11] = 8;
  logits[2500] = 7;
  logits[2600] = 7;
  const std::vector<int32_t> none, controls = {7, 11}, one = {11, 40};
  const auto p = softmax(logits.data(), 3000);
  const auto text = [&](const std::vector<int32_t>& ids, const std::vector<int32_t>& forbidden) {
    const RowStats stats = stats_of_row(logits, {.controls = ids}, forbidden);
    EXPECT_NEAR(stats.text_probability, p[static_cast<size_t>(stats.text)], 1e-6);
    return stats.text;
  };
  EXPECT_EQ(text(none, {}), 7);
  EXPECT_EQ(text(one, {}), 7);
  EXPECT_EQ(text(one, {7}), 2500) << "the lowest id on ties";
  EXPECT_EQ(text(controls, {}), 2500);
  EXPECT_EQ(text(controls, {2500}), 2600);
  EXPECT_EQ(stats_of_row({1, 2}, {.controls = none}, {0}).text, 1);
  const std::vector<int32_t> both = {0, 1};
  EXPECT_EQ(stats_of_row({1, 2}, {.controls = both}).text, -1);
}

TEST(RowStats, LogitsAtTheEndsOfTheRangeAreHandled) {
  constexpr float kMax = 3.4028235e38f;
  RowStats stats = stats_of_row({-kMax, kMax, 0});
  EXPECT_EQ(stats.token, 1);
  EXPECT_EQ(stats.confidence, 1);
  EXPECT_EQ(stats.entropy, 0);
  stats = stats_of_row({-kMax, -kMax, -kMax, -kMax});
  EXPECT_EQ(stats.token, 0);
  EXPECT_EQ(stats.confidence, 0.25f);
  EXPECT_TRUE(stats.finite);
  std::vector<float> late(40000, -kMax);
  late[39999] = kMax;  // another segment
  stats = stats_of_row(late);
  EXPECT_EQ(stats.token, 39999);
  EXPECT_EQ(stats.confidence, 1);
  EXPECT_EQ(stats.entropy, 0);
}

TEST(RowStats, NonFiniteRowsSaySoAndTouchNoNeighbour) {
  const Tensor clean = random_tensor({3, 40000}, 8);
  const auto expected = stats_of(clean);
  for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (const int64_t where : {0, 1, 1030, 39999}) {
      const Tensor logits = random_tensor({3, 40000}, 8);
      logits.data<float>()[40000 + where] = bad;
      for (const float temperature : {0.0f, 1.0f}) {
        std::vector<RowSampling> sampling(3);
        sampling[1].temperature = temperature;
        const auto stats = stats_of(logits, sampling);
        ASSERT_FALSE(stats[1].finite) << bad << " at " << where;
        ASSERT_EQ(stats[1].token, -1);
        ASSERT_EQ(stats[0].entropy, expected[0].entropy);
        ASSERT_EQ(stats[2].entropy, expected[2].entropy);
        ASSERT_TRUE(stats[0].finite && stats[2].finite);
      }
    }
  }
  EXPECT_FALSE(stats_of_row({-INFINITY, -INFINITY}).finite);
  EXPECT_FALSE(stats_of_row({NAN}).finite);
}

auto bits_of(const RowStats& s) {
  const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
  return std::vector<int64_t>{s.token,
                              bits(s.confidence),
                              s.top1,
                              bits(s.top1_probability),
                              s.top2,
                              bits(s.top2_probability),
                              bits(s.log_sum_exp),
                              bits(s.entropy),
                              s.finite};
}

TEST(RowStats, ARowIsTheSameAloneAndAmongFifteenNeighbours) {
  const int64_t vocab = 40007;
  const Tensor logits = random_tensor({16, vocab}, 77, 2);
  std::vector<RowSampling> sampling;
  for (uint32_t i = 0; i < 16; ++i) {
    sampling.push_back({i % 4 ? 0.7f : 0.0f, i % 3 ? 1.0f : 0.9f, i % 5 ? 0 : 50, i * 7u, i, 100 - i});
  }
  const auto one = stats_of(logits, sampling, {5}, 1), three = stats_of(logits, sampling, {5}, 3);
  for (size_t i = 0; i < 16; ++i) {
    const auto alone = stats_of(logits.rows(static_cast<int64_t>(i), 1), {sampling[i]}, {5});
    EXPECT_EQ(bits_of(alone[0]), bits_of(one[i]));
    EXPECT_EQ(bits_of(alone[0]), bits_of(three[i]));
  }
}

TEST(RowStats, ASampledTokenReportsItsPlainProbability) {
  const Tensor logits = random_tensor({64, 97}, 3, 1);
  std::vector<RowSampling> sampling;
  for (uint32_t i = 0; i < 64; ++i) sampling.push_back({2.0f, 0.99f, 40, 1, 0, i});
  const auto stats = stats_of(logits, sampling, {13});
  int other_than_top = 0;
  for (int64_t r = 0; r < 64; ++r) {
    const RowStats& row = stats[static_cast<size_t>(r)];
    const auto p = softmax(logits.data<float>() + r * 97, 97);
    ASSERT_NE(row.token, 13);
    EXPECT_NEAR(row.confidence, p[static_cast<size_t>(row.token)], 1e-7);
    other_than_top += row.token != row.top1;
  }
  EXPECT_GT(other_than_top, 32);
}

std::vector<LogitEdit> random_edits(uint32_t seed, int32_t vocab) {
  std::mt19937 random(seed);
  std::vector<LogitEdit> edits;
  for (int32_t id = 0; id < vocab; ++id) {
    if (random() % 3) continue;
    const float factor = random() % 2 ? 1.0f : static_cast<float>(random() % 1000 + 1) / 300;
    const float bias = random() % 4 ? static_cast<float>(random() % 20000) / 1000 - 10 : kBanned;
    edits.push_back({id, factor, bias});
  }
  return edits;
}

// The row after its edits in float64, rounded once; banned ids at minus infinity.
std::vector<double> edited(const float* logits, int64_t n, std::span<const LogitEdit> edits) {
  std::vector<double> row(logits, logits + n);
  for (const LogitEdit& edit : edits) {
    double& x = row[static_cast<size_t>(edit.id)];
    x = (x > 0 ? x / static_cast<double>(edit.factor) : x * static_cast<double>(edit.factor)) +
        static_cast<double>(edit.bias);
    x = static_cast<double>(static_cast<float>(x));
  }
  return row;
}

RowStats edited_stats(const Tensor& row, RowSampling sampling, const std::vector<int32_t>& forbidden = {}) {
  CpuRunner cpu;
  Tensor copy = Tensor::from<float>({row.data<float>(), static_cast<size_t>(row.numel())}).view({1, row.numel()});
  ops::edit_logits(cpu.context, copy, {&sampling, 1});
  return stats_of(copy, {sampling}, forbidden)[0];
}

TEST(EditLogits, StatisticsAreThoseOfTheEditedRowInFloat64) {
  for (const int32_t vocab : {2, 17, 1025, 40000}) {
    for (uint32_t seed = 0; seed < 5; ++seed) {
      const Tensor logits = random_tensor({vocab}, seed, 3);
      const std::vector<LogitEdit> edits = random_edits(seed, vocab);
      RowSampling sampling;
      sampling.edits = edits;
      const RowStats stats = edited_stats(logits, sampling);
      const std::vector<double> row = edited(logits.data<float>(), vocab, edits);
      const auto best = std::max_element(row.begin(), row.end());
      if (*best == -INFINITY) {
        EXPECT_EQ(stats.token, -1);
        continue;
      }
      std::vector<double> p;
      for (const double x : row) p.push_back(std::exp(x - *best));
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& x : p) x /= sum;
      EXPECT_EQ(stats.token, best - row.begin());
      EXPECT_NEAR(stats.confidence, 1 / sum, 2e-6 / sum);
      EXPECT_NEAR(stats.entropy, entropy_of(p), 4e-6);
      EXPECT_TRUE(stats.finite);
    }
  }
}

TEST(EditLogits, ABannedIdIsOutsideTheSoftmaxAForbiddenOneInside) {
  const Tensor logits = tensor_of<float>({std::log(.1f), std::log(.6f), std::log(.3f)});
  const std::vector<LogitEdit> ban = {{1, 1, kBanned}};
  RowSampling sampling;
  sampling.edits = ban;
  RowStats stats = edited_stats(logits, sampling);
  EXPECT_EQ(stats.token, 2);
  EXPECT_NEAR(stats.confidence, .75, 1e-6);
  EXPECT_NEAR(stats.top2_probability, .25, 1e-6);
  stats = edited_stats(logits, sampling, {2});
  EXPECT_EQ(stats.token, 0);
  EXPECT_EQ(stats.top2, -1);
  EXPECT_NEAR(stats.confidence, .25, 1e-6);
  for (const float temperature : {0.0f, 2.0f}) {
    sampling.temperature = temperature;
    EXPECT_EQ(edited_stats(logits, sampling, {0, 2}).token, -1) << "nothing is left";
  }
}

TEST(EditLogits, BannedIdsAreOutsideTheFilteredDistribution) {
  const Tensor logits = tensor_of<float>({std::log(.4f), std::log(.3f), std::log(.2f), std::log(.1f)});
  const std::vector<LogitEdit> ban = {{1, 1, kBanned}};
  RowSampling sampling;
  sampling.edits = ban;
  sampling.top_k = 2;
  sampling.filtered = true;
  const RowStats stats = edited_stats(logits, sampling, {0});
  EXPECT_EQ(stats.token, 2);
  EXPECT_NEAR(stats.filtered.confidence, 1 / 3., 1e-6) << "of ids 0 and 2";
}

TEST(EditLogits, TouchesOnlyItsIdsAndHidesNoBrokenNumber) {
  CpuRunner cpu(2);
  const float largest = std::numeric_limits<float>::max();
  Tensor logits = tensor_of<float>({1, NAN, 3, largest, -2, 6, 7, 8}).view({2, 4});
  const std::vector<LogitEdit> edits = {{1, 1, kBanned}, {3, 0.5f, 10}};
  std::vector<RowSampling> sampling(2);
  sampling[0].edits = edits;
  ops::edit_logits(cpu.context, logits, sampling);
  EXPECT_EQ(at(logits, 0), 1);
  EXPECT_TRUE(std::isnan(at(logits, 1))) << "a ban does not make it a number";
  EXPECT_EQ(at(logits, 3), static_cast<double>(largest)) << "stays finite";
  for (int64_t i = 4; i < 8; ++i) EXPECT_EQ(at(logits, i), (std::vector<double>{-2, 6, 7, 8})[size_t(i - 4)]);
}

// Filtered softmax in float64, by sorting: what the sampler must draw from.
std::vector<double> filtered(const std::vector<float>& logits, const RowSampling& sampling,
                             const std::vector<int32_t>& forbidden) {
  const size_t n = logits.size();
  std::vector<size_t> order;
  for (size_t i = 0; i < n; ++i) {
    if (std::find(forbidden.begin(), forbidden.end(), static_cast<int32_t>(i)) == forbidden.end()) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (sampling.top_k > 0 && static_cast<size_t>(sampling.top_k) < order.size()) {
    const float kth = logits[order[static_cast<size_t>(sampling.top_k) - 1]];
    while (logits[order.back()] < kth) order.pop_back();
  }
  std::vector<double> p(n);
  double sum = 0, before = 0;
  for (const size_t i : order) {
    sum += p[i] = std::exp((static_cast<double>(logits[i]) - static_cast<double>(logits[order[0]])) /
                           static_cast<double>(sampling.temperature));
  }
  double kept = 0;
  for (const size_t i : order) {
    const double weight = p[i];
    if (before > static_cast<double>(sampling.top_p) * sum) p[i] = 0;
    if (weight < static_cast<double>(sampling.min_p)) p[i] = 0;  // the largest weight is 1
    before += weight;
    kept += p[i];
  }
  for (double& x : p) x /= kept;
  return p;
}

// Upper tail of the chi-square distribution (Wilson and Hilferty, 1931).
double chi_square_tail(double statistic, double degrees) {
  const double spread = 2 / (9 * degrees);
  const double z = (std::cbrt(statistic / degrees) - (1 - spread)) / std::sqrt(spread);
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

// Draws over positions and steps of one seed. Outcomes expected fewer than five times are counted together.
double goodness_of_fit(const std::vector<float>& logits, RowSampling sampling, const std::vector<int32_t>& forbidden) {
  constexpr int kDraws = 20000, kBatch = 500;
  const auto vocab = static_cast<int64_t>(logits.size());
  const Tensor rows = Tensor::empty({kBatch, vocab}, DType::kF32);
  for (int64_t r = 0; r < kBatch; ++r) std::copy(logits.begin(), logits.end(), rows.data<float>() + r * vocab);
  std::vector<int> counts(logits.size());
  for (uint32_t step = 0; step < kDraws / kBatch; ++step) {
    std::vector<RowSampling> samplings(kBatch, sampling);
    for (uint32_t r = 0; r < kBatch; ++r) samplings[r].step = step, samplings[r].position = r;
    for (const RowStats& stats : stats_of(rows, samplings, forbidden)) ++counts[static_cast<size_t>(stats.token)];
  }
  const auto p = filtered(logits, sampling, forbidden);
  double statistic = 0, rest_expected = 0, rest_count = 0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * kDraws, count = counts[i];
    EXPECT_TRUE(p[i] > 0 || counts[i] == 0) << "filtered id " << i << " was drawn";
    if (expected < 5) {
      rest_expected += expected;
      rest_count += count;
      continue;
    }
    statistic += (count - expected) * (count - expected) / expected;
    ++cells;
  }
  if (rest_expected >= 5) {
    statistic += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++cells;
  }
  const double p_value = chi_square_tail(statistic, cells - 1);
  std::printf("chi-square p %.3f over %d cells\n", p_value, cells);
  return p_value;
}

std::vector<float> sampled_logits() {
  const Tensor random = random_tensor({61}, 12, 1.5f);
  std::vector<float> logits(random.data<float>(), random.data<float>() + 61);
  logits[40] = logits[20];
  return logits;
}

TEST(Sampling, FrequenciesMatchTheTemperedSoftmax) {
  for (const float temperature : {0.3f, 1.0f, 2.5f}) {
    EXPECT_GT(goodness_of_fit(sampled_logits(), {temperature, 1, 0, 42}, {3}), 1e-4) << temperature;
  }
}

TEST(Sampling, FrequenciesMatchTopK) {
  EXPECT_GT(goodness_of_fit(sampled_logits(), {1.0f, 1, 7, 43}, {3}), 1e-4);
  EXPECT_GT(goodness_of_fit(sampled_logits(), {1.7f, 1, 60, 44}, {}), 1e-4);
}

TEST(Sampling, FrequenciesMatchTopP) {
  EXPECT_GT(goodness_of_fit(sampled_logits(), {1.0f, 0.8f, 0, 45}, {3}), 1e-4);
  EXPECT_GT(goodness_of_fit(sampled_logits(), {0.7f, 0.99f, 0, 46}, {}), 1e-4);
}

RowSampling with_min_p(RowSampling sampling, float min_p) {
  sampling.min_p = min_p;
  return sampling;
}

TEST(Sampling, FrequenciesMatchMinP) {
  EXPECT_GT(goodness_of_fit(sampled_logits(), with_min_p({1.0f, 1, 0, 50}, 0.05f), {3}), 1e-4);
  EXPECT_GT(goodness_of_fit(sampled_logits(), with_min_p({2.5f, 1, 0, 51}, 0.3f), {}), 1e-4);
  EXPECT_GT(goodness_of_fit(sampled_logits(), with_min_p({1.2f, 0.9f, 30, 52}, 0.1f), {3}), 1e-4);
}

TEST(Sampling, FrequenciesMatchTopKThenTopP) {
  EXPECT_GT(goodness_of_fit(sampled_logits(), {1.2f, 0.7f, 12, 47}, {3}), 1e-4);
}

// The drawn set over many positions must be exactly the float64 support; flat rows make every survivor appear.
TEST(FilteredStats, MatchTheFormulaOverTheFilteredSoftmax) {
  const std::vector<float> logits = sampled_logits();
  const int32_t top = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  for (RowSampling sampling : {RowSampling{0, 1, 5}, RowSampling{0, .7f, 0}, RowSampling{.3f, .9f, 20},
                               RowSampling{2, 1, 0}, RowSampling{1, 1, 0}, RowSampling{}}) {
    sampling.filtered = true;
    const RowStats stats = stats_of_row(logits, sampling, {});
    if (sampling.temperature == 0) sampling.temperature = 1;
    std::vector<double> p = filtered(logits, sampling, {});
    EXPECT_NEAR(stats.filtered.confidence, p[static_cast<size_t>(stats.token)], 1e-6);
    EXPECT_NEAR(stats.filtered.entropy, entropy_of(p), 2e-6);
    std::sort(p.rbegin(), p.rend());
    EXPECT_NEAR(stats.filtered.margin, p[0] - p[1], 1e-6);
    EXPECT_EQ(stats.top1, top);
  }
}

TEST(FilteredStats, ForbiddenIdsTakePart) {
  const std::vector<float> logits = {std::log(.6f), std::log(.3f), std::log(.1f)};
  RowSampling sampling{0, 1, 2};
  sampling.filtered = true;
  const RowStats stats = stats_of_row(logits, sampling, {0});
  EXPECT_EQ(stats.token, 1);
  EXPECT_NEAR(stats.filtered.confidence, 1 / 3., 1e-6);
  EXPECT_NEAR(stats.filtered.margin, 1 / 3., 1e-6);
  sampling.top_k = 1;
  EXPECT_EQ(stats_of_row(logits, sampling, {0}).filtered.confidence, 0.f) << "the filters leave the token out";
}

TEST(FilteredStats, AreOnlyMadeWhenAskedFor) {
  EXPECT_EQ(stats_of_row({1, 2, 3}, {0, .5f, 0}).filtered.confidence, 0.f);
}

TEST(Sampling, TheSupportOfLargeVocabulariesIsExact) {
  const Tensor random = random_tensor({9001}, 5, 6);
  const std::vector<float> logits(random.data<float>(), random.data<float>() + 9001);
  for (const RowSampling& sampling : {RowSampling{3, 0.9f, 0, 1}, {3, 1, 25, 2}, {3, 0.5f, 60, 3}, {1, 0.05f, 0, 4}}) {
    const auto p = filtered(logits, sampling, {7});
    const Tensor rows = Tensor::empty({512, 9001}, DType::kF32);
    for (int64_t r = 0; r < 512; ++r) std::copy(logits.begin(), logits.end(), rows.data<float>() + r * 9001);
    std::vector<RowSampling> samplings(512, sampling);
    for (uint32_t r = 0; r < 512; ++r) samplings[r].position = r;
    std::vector<bool> seen(9001);
    for (const RowStats& stats : stats_of(rows, samplings, {7}, 2)) {
      ASSERT_GT(p[static_cast<size_t>(stats.token)], 0) << stats.token;
      seen[static_cast<size_t>(stats.token)] = true;
    }
    for (size_t i = 0; i < p.size(); ++i) {
      EXPECT_TRUE(seen[i] || p[i] < 0.03) << i;
    }
  }
}

std::vector<bool> support(const std::vector<float>& logits, RowSampling sampling,
                          const std::vector<int32_t>& forbidden = {}) {
  std::vector<bool> seen(logits.size());
  for (uint32_t position = 0; position < 300; ++position) {
    sampling.position = position;
    seen[static_cast<size_t>(stats_of_row(logits, sampling, forbidden).token)] = true;
  }
  return seen;
}

TEST(Sampling, TiesAtTheKthValueAllSurvive) {
  EXPECT_EQ(support({1, 2, 1, 0, 1}, {1, 1, 2, 9}), (std::vector<bool>{true, true, true, false, true}));
  EXPECT_EQ(support({1, 2, 1, 0, 1}, {1, 1, 1, 9}), (std::vector<bool>{false, true, false, false, false}));
}

TEST(Sampling, TheTokenThatCrossesTheMassIsKept) {
  const std::vector<float> logits{std::log(.70f), std::log(.20f), std::log(.09f), std::log(.01f)};
  EXPECT_EQ(support(logits, {1, 0.8f, 0, 9}), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(support(logits, {1, 0.6f, 0, 9}), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(support(logits, {1, 0.95f, 0, 9}), (std::vector<bool>{true, true, true, false}));
  EXPECT_EQ(support(logits, {1, 1e-6f, 0, 9}), (std::vector<bool>{true, false, false, false}));
}

TEST(Sampling, MinPKeepsIdsAtExactlyTheShareOfTheLargest) {
  const std::vector<float> logits{0, std::log(.5f), std::log(.25f), std::log(.01f)};
  EXPECT_EQ(support(logits, with_min_p({1, 1, 0, 9}, 0.4f)), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(support(logits, with_min_p({1, 1, 0, 9}, 0.2f)), (std::vector<bool>{true, true, true, false}));
  EXPECT_EQ(support(logits, with_min_p({2, 1, 0, 9}, 0.4f)), (std::vector<bool>{true, true, true, false}))
      << "after the temperature";
  EXPECT_EQ(support({1, 2, 2, 0}, with_min_p({1, 1, 0, 9}, 1)), (std::vector<bool>{false, true, true, false}));
  EXPECT_EQ(support(logits, with_min_p({1, 1, 0, 9}, 0.4f), {0}), (std::vector<bool>{false, true, true, false}))
      << "of the largest that may be drawn";
  EXPECT_EQ(stats_of_row(logits, with_min_p({0, 1, 0, 9}, 0.4f)).token, 0) << "greedy as ever";
}

TEST(Sampling, ForbiddenIdsAreRemovedBeforeTheFilters) {
  const std::vector<float> logits{std::log(.70f), std::log(.20f), std::log(.09f), std::log(.01f)};
  EXPECT_EQ(support(logits, {1, 1, 1, 9}, {0}), (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ(support(logits, {1, 0.6f, 0, 9}, {0}), (std::vector<bool>{false, true, false, false}));
}

TEST(Sampling, DrawsDependOnSeedStepAndPositionOnly) {
  const std::vector<float> logits(1000, 0.0f);
  const auto draw = [&](uint64_t seed, uint32_t step, uint32_t position) {
    return stats_of_row(logits, {1, 1, 0, seed, step, position}).token;
  };
  const int32_t token = draw(1, 2, 3);
  EXPECT_EQ(draw(1, 2, 3), token);
  EXPECT_NE(draw(2, 2, 3), token);
  EXPECT_NE(draw(1, 3, 3), token);
  EXPECT_NE(draw(1, 2, 4), token);
  EXPECT_NE(draw(1ull << 40, 2, 3), draw(2ull << 40, 2, 3));
}

TEST(Sampling, ExtremeTemperaturesAndSingleTokensStillDraw) {
  EXPECT_EQ(stats_of_row({1, 3, 2}, {1e-38f, 1, 0, 5}).token, 1);
  EXPECT_EQ(stats_of_row({1, 3, 2}, {1e-38f, 0.5f, 2, 5}).token, 1);
  EXPECT_EQ(stats_of_row({7}, {1, 0.5f, 1, 5}).token, 0);
  const RowStats hot = stats_of_row({1, 3, 2}, {3e38f, 0.9f, 0, 5});
  EXPECT_TRUE(hot.token >= 0 && hot.token < 3);
}

TEST(RowStats, BadArgumentsAreInternalErrors) {
  const Tensor logits = random_tensor({1, 8}, 1);
  CpuRunner cpu;
  std::vector<RowStats> one(1), two(2);
  const std::vector<RowSampling> plain(1), both(2);
  EXPECT_INTERNAL_ERROR(ops::row_stats(cpu.context, logits, both, {}, one), "sampling: expected 1 rows, got 2");
  EXPECT_INTERNAL_ERROR(ops::row_stats(cpu.context, logits, plain, {}, two), "out: expected 1 rows, got 2");
  EXPECT_INTERNAL_ERROR(ops::row_stats(cpu.context, logits.view({8}), plain, {}, one), "logits");
  EXPECT_INTERNAL_ERROR(ops::row_stats(cpu.context, Tensor::empty({1, 0}, DType::kF32), plain, {}, one), "logits");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {}, {8}), "forbidden: expected 0 <= id < 8, got 8");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {}, {-1}), "forbidden");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {{-1, 1, 0}}), "sampling[0].temperature");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {{NAN, 1, 0}}), "sampling[0].temperature");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {{1, 0, 0}}), "sampling[0].top_p");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {{1, NAN, 0}}), "sampling[0].top_p");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {{1, 1, -1}}), "sampling[0].top_k");
  EXPECT_INTERNAL_ERROR(stats_of(logits, {with_min_p({1, 1, 0}, 1.5f)}), "sampling[0].min_p");
  const auto edited = [&](std::vector<LogitEdit> edits) {
    RowSampling sampling;
    sampling.edits = edits;
    Tensor row = logits;
    ops::edit_logits(cpu.context, row, {&sampling, 1});
  };
  EXPECT_INTERNAL_ERROR(edited({{8, 1, 0}}), "sampling[0].edits: expected");
  EXPECT_INTERNAL_ERROR(edited({{3, 1, 0}, {3, 1, 0}}), "sampling[0].edits: expected");
  EXPECT_INTERNAL_ERROR(edited({{3, 0, 0}}), "sampling[0].edits: expected");
  EXPECT_INTERNAL_ERROR(edited({{3, 1, INFINITY}}), "sampling[0].edits: expected");
}

TEST(Guide, ExtrapolatesFromTheUnconditionalLogits) {
  CpuRunner cpu(2);
  Tensor conditional = random_tensor({3, 9000}, 1);
  const Tensor before = random_tensor({3, 9000}, 1), unconditional = random_tensor({3, 9000}, 2);
  ops::guide(cpu.context, conditional, unconditional, 1.5f);
  for (int64_t i = 0; i < conditional.numel(); ++i) {
    ASSERT_NEAR(at(conditional, i), at(unconditional, i) + 2.5 * (at(before, i) - at(unconditional, i)), 2e-6);
  }
  EXPECT_INTERNAL_ERROR(ops::guide(cpu.context, conditional, random_tensor({3, 8999}, 2), 1), "unconditional");
  EXPECT_INTERNAL_ERROR(ops::guide(cpu.context, conditional, unconditional, INFINITY), "scale");
}

}  // namespace
}  // namespace pydllm
