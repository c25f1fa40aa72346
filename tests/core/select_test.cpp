// Selection rules: the tables of the field's reference examples, equality, ties, and a sort-based oracle.
#include "select/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace pydllm::select {
namespace {

using Rows = std::vector<int32_t>;

// Table T1: four rows over four ids; confidences and entropies follow from the probabilities.
constexpr double kT1[4][4] = {{.70, .20, .09, .01}, {.05, .90, .04, .01}, {.40, .35, .24, .01}, {.01, .01, .97, .01}};

std::vector<float> t1_confidence() {
  std::vector<float> out;
  for (const auto& row : kT1) out.push_back(static_cast<float>(*std::max_element(row, row + 4)));
  return out;
}

std::vector<float> t1_entropy() {
  std::vector<float> out;
  for (const auto& row : kT1) {
    double entropy = 0;
    for (const double p : row) entropy -= p * std::log(p);
    out.push_back(static_cast<float>(entropy));
  }
  return out;
}

constexpr int32_t kUntouched = -77;

// Runs a rule on an exactly sized buffer with a sentinel behind it; sorted, so that sets compare.
template <class Rule>
Rows ran(const std::vector<float>& values, Rule rule) {
  const auto count = static_cast<int32_t>(values.size());
  Rows chosen(values.size() + 1, kUntouched);
  const int32_t kept = rule(values.data(), count, chosen.data());
  EXPECT_EQ(chosen.back(), kUntouched);
  EXPECT_LE(kept, count);
  chosen.resize(static_cast<size_t>(kept));
  return chosen;
}

Rows by_confidence_threshold(const std::vector<float>& values, float threshold) {
  return ran(values,
             [=](const float* v, int32_t n, int32_t* out) { return confidence_threshold(v, n, threshold, out); });
}

Rows by_entropy_threshold(const std::vector<float>& values, float threshold, Comparison comparison) {
  return ran(values, [=](const float* v, int32_t n, int32_t* out) {
    return entropy_threshold(v, n, threshold, comparison, out);
  });
}

Rows by_top_confidence(const std::vector<float>& values, int32_t k) {
  return ran(values, [=](const float* v, int32_t n, int32_t* out) { return top_confidence(v, n, k, out); });
}

Rows by_lowest_entropy(const std::vector<float>& values, int32_t k) {
  return ran(values, [=](const float* v, int32_t n, int32_t* out) { return lowest_entropy(v, n, k, out); });
}

TEST(Select, ConfidenceThresholdOnT1) {
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), .95f), (Rows{3}));
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), .9f), (Rows{1, 3}));
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), .8f), (Rows{1, 3}));
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), .6f), (Rows{0, 1, 3}));
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), .3f), (Rows{0, 1, 2, 3}));
  EXPECT_EQ(by_confidence_threshold(t1_confidence(), 1.f), (Rows{3}));
}

TEST(Select, ConfidenceEqualToTheThresholdPasses) {
  const std::vector<float> halves(4, .5f);
  EXPECT_EQ(by_confidence_threshold(halves, .5f), (Rows{0, 1, 2, 3}));
  EXPECT_EQ(by_confidence_threshold(halves, std::nextafter(.5f, 1.f)), (Rows{0}));
}

TEST(Select, EntropyThresholdOnT1) {
  const auto at_most = [](float threshold) {
    return by_entropy_threshold(t1_entropy(), threshold, Comparison::kAtMost);
  };
  EXPECT_EQ(at_most(.1f), (Rows{3}));
  EXPECT_EQ(at_most(.3f), (Rows{3}));
  EXPECT_EQ(at_most(.42f), (Rows{1, 3}));
  EXPECT_EQ(at_most(.5f), (Rows{1, 3}));
  EXPECT_EQ(at_most(.9f), (Rows{0, 1, 3}));
}

TEST(Select, EntropyEqualToTheThresholdPassesOnlyWhenAllowed) {
  const std::vector<float> entropies = {.693147f, .693147f, -1e-12f, 1.0986f};
  EXPECT_EQ(by_entropy_threshold(entropies, .693147f, Comparison::kAtMost), (Rows{0, 1, 2}));
  EXPECT_EQ(by_entropy_threshold(entropies, .693147f, Comparison::kBelow), (Rows{2}));
}

TEST(Select, TopRulesAreBestFirst) {
  EXPECT_EQ(by_top_confidence(t1_confidence(), 3), (Rows{3, 1, 0}));
  EXPECT_EQ(by_lowest_entropy(t1_entropy(), 3), (Rows{3, 1, 0}));
  EXPECT_EQ(by_lowest_entropy(t1_entropy(), 4), (Rows{3, 1, 0, 2}));
}

TEST(Select, TiesGoToTheLowestRow) {
  const std::vector<float> equal(7, .4f);
  EXPECT_EQ(by_top_confidence(equal, 3), (Rows{0, 1, 2}));
  EXPECT_EQ(by_lowest_entropy(equal, 3), (Rows{0, 1, 2}));
  EXPECT_EQ(by_confidence_threshold(equal, .9f), (Rows{0}));
  EXPECT_EQ(by_entropy_threshold(equal, .1f, Comparison::kAtMost), (Rows{0}));
}

TEST(Select, NothingEligibleChoosesNothing) {
  EXPECT_TRUE(by_top_confidence({}, 3).empty());
  EXPECT_TRUE(by_lowest_entropy({}, 3).empty());
  EXPECT_TRUE(by_confidence_threshold({}, 0.f).empty());
  EXPECT_TRUE(by_entropy_threshold({}, 9.f, Comparison::kBelow).empty());
}

TEST(Select, CountsOutsideTheRowsAreClamped) {
  EXPECT_EQ(by_top_confidence({.1f, .2f}, 5), (Rows{1, 0}));
  EXPECT_TRUE(by_top_confidence({.1f, .2f}, 0).empty());
  EXPECT_TRUE(by_lowest_entropy({.1f, .2f}, -1).empty());
}

// Oracle: a stable sort of all rows. Values come from few levels, so ties are everywhere.
TEST(Select, AgreesWithAStableSortOnRandomRows) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 4000; ++trial) {
    std::vector<float> values(random() % 70);
    const uint32_t levels = 1 + random() % 40;
    for (float& value : values) value = static_cast<float>(random() % levels) / static_cast<float>(levels);
    const auto n = static_cast<int32_t>(random() % (values.size() + 2));
    const float threshold = static_cast<float>(random() % levels) / static_cast<float>(levels);

    Rows down(values.size());
    std::iota(down.begin(), down.end(), 0);
    Rows up = down;
    const auto value = [&](int32_t row) { return values[static_cast<size_t>(row)]; };
    std::ranges::stable_sort(down, [&](int32_t a, int32_t b) { return value(a) > value(b); });
    std::ranges::stable_sort(up, [&](int32_t a, int32_t b) { return value(a) < value(b); });
    const auto first = [&](const Rows& order, auto keep) {
      Rows kept;
      for (size_t rank = 0; rank < order.size(); ++rank) {
        if (keep(rank, value(order[rank]))) kept.push_back(order[rank]);
      }
      return kept;
    };
    const auto sorted = [](Rows rows) {
      std::ranges::sort(rows);
      return rows;
    };
    const auto top = [&](size_t rank, float) { return rank < static_cast<size_t>(n); };

    EXPECT_EQ(by_top_confidence(values, n), first(down, top));
    EXPECT_EQ(by_lowest_entropy(values, n), first(up, top));
    EXPECT_EQ(by_confidence_threshold(values, threshold),
              sorted(first(down, [&](size_t rank, float v) { return rank == 0 || v >= threshold; })));
    EXPECT_EQ(by_entropy_threshold(values, threshold, Comparison::kAtMost),
              sorted(first(up, [&](size_t rank, float v) { return rank == 0 || v <= threshold; })));
    EXPECT_EQ(by_entropy_threshold(values, threshold, Comparison::kBelow),
              sorted(first(up, [&](size_t rank, float v) { return rank == 0 || v < threshold; })));
  }
}

std::vector<int64_t> schedule(int64_t masks, int64_t steps) {
  std::vector<int64_t> out;
  for (int64_t step = 0; step < steps; ++step) out.push_back(scheduled_commits(masks, steps, step));
  return out;
}

TEST(Select, ScheduleSpreadsMasksEvenlyAndEarly) {
  EXPECT_EQ(schedule(10, 4), (std::vector<int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(schedule(3, 4), (std::vector<int64_t>{1, 1, 1, 0}));
  EXPECT_EQ(schedule(0, 2), (std::vector<int64_t>{0, 0}));
  EXPECT_EQ(schedule(8, 1), (std::vector<int64_t>{8}));
}

TEST(Select, ScheduleCommitsEveryMaskExactlyOnce) {
  for (int64_t masks = 0; masks <= 40; ++masks) {
    for (int64_t steps = 1; steps <= 45; ++steps) {
      const std::vector<int64_t> counts = schedule(masks, steps);
      EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), masks);
      EXPECT_TRUE(std::ranges::is_sorted(counts, std::greater<>()));
      EXPECT_LE(counts.front() - counts.back(), 1);
    }
  }
}

// The rules run in constant expressions: no allocation, no library calls, no undefined behaviour.
constexpr int32_t best_of_three() {
  const float values[] = {.2f, .9f, .9f};
  int32_t chosen[3] = {};
  return top_confidence(values, 3, 1, chosen) == 1 ? chosen[0] : -1;
}
static_assert(best_of_three() == 1);

}  // namespace
}  // namespace pydllm::select
