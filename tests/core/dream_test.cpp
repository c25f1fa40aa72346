// Whole-answer schedules: dream on the executed examples of its sampler, rnd1_entropy on its formula.
#include <gtest/gtest.h>

#include <string>

#include "decode_examples.h"

namespace pydllm::decode {
namespace {

const std::vector<std::string> kRanked = {"entropy", "maskgit_plus", "topk_margin"};

// Tokens that each forward commits.
std::vector<int32_t> commits_per_forward(Driver& driver, const StatsOf& stats) {
  std::vector<int32_t> out;
  while (!driver.done() && driver.forwards < 1000) {
    const int32_t before = driver.canvas.masked_count();
    driver.step(stats);
    out.push_back(before - driver.canvas.masked_count());
  }
  return out;
}

std::vector<int32_t> dream_schedule(int32_t max_tokens, int64_t steps, double eps = 1e-3) {
  Driver driver({.max_tokens = max_tokens}, "dream", {{"steps", steps}, {"eps", eps}});
  return commits_per_forward(driver, random_stats(7, 1000, 3));
}

TEST(Dream, CommitsTheSinglePrecisionScheduleOfTheOriginal) {
  EXPECT_EQ(dream_schedule(4, 4), (std::vector<int32_t>{0, 1, 1, 2}));
  EXPECT_EQ(dream_schedule(8, 4), (std::vector<int32_t>{1, 2, 2, 3}));
  EXPECT_EQ(dream_schedule(16, 4), (std::vector<int32_t>{3, 4, 4, 5}));
  EXPECT_EQ(dream_schedule(4, 8), (std::vector<int32_t>{0, 0, 0, 0, 0, 1, 1, 2}));
  EXPECT_EQ(dream_schedule(5, 1), (std::vector<int32_t>{5}));
}

TEST(Dream, CommitsAsManyTokensPerForwardAsTheRecordingsOfTheOriginal) {
  EXPECT_EQ(dream_schedule(16, 16), (std::vector<int32_t>{0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2}));
  EXPECT_EQ(dream_schedule(24, 8), (std::vector<int32_t>{2, 3, 3, 3, 3, 3, 3, 4}));
  EXPECT_EQ(dream_schedule(32, 5, .05), (std::vector<int32_t>{6, 6, 6, 6, 8}));
  EXPECT_EQ(dream_schedule(16, 8), (std::vector<int32_t>{1, 2, 2, 2, 2, 2, 2, 3}));
  std::vector<int32_t> late(29, 0);
  late.insert(late.end(), {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2});
  EXPECT_EQ(dream_schedule(12, 40), late);
}

TEST(Dream, EveryRankedOrderOnT1) {
  for (const std::string& order : kRanked) {
    EXPECT_EQ(t1_run("dream", {{"order", order}, {"steps", int64_t{4}}}),
              (Canvases{{0, M, M, M, M}, {0, M, M, M, M}, {0, M, M, M, 2}, {0, M, 1, M, 2}, {0, 0, 1, 0, 2}}))
        << order;
  }
}

// The position that is committed next, when those of `before` are: with eps 0 the first of 4, 2, 2 or 1 steps commits
// one of 4, 3, 2 or 1 masks.
int32_t best_after(const std::string& order, const std::vector<int32_t>& before) {
  constexpr double kRows[4][4] = {
      {.50, .49, .005, .005}, {.48, .18, .17, .17}, {.45, .25, .25, .05}, {.30, .25, .25, .20}};
  constexpr int64_t kSteps[] = {4, 2, 2, 1};
  Driver driver({}, "dream", {{"alg", order}, {"steps", kSteps[before.size()]}, {"eps", 0.0}});
  for (const int32_t offset : before) driver.canvas.commit(offset + 1, 0, 1);
  driver.step([&](int32_t position, int32_t) { return stats_of_probabilities(kRows[position - 1]); });
  std::set<int32_t> after = committed_offsets(driver.canvas);
  for (const int32_t offset : before) after.erase(offset);
  EXPECT_EQ(after.size(), 1u);
  return *after.begin();
}

std::vector<int32_t> ranking(const std::string& order) {
  std::vector<int32_t> out;
  while (out.size() < 4) out.push_back(best_after(order, out));
  return out;
}

TEST(Dream, OrdersRankDifferently) {
  EXPECT_EQ(ranking("maskgit_plus"), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(ranking("topk_margin"), (std::vector<int32_t>{1, 2, 3, 0}));
  EXPECT_EQ(ranking("entropy"), (std::vector<int32_t>{0, 2, 1, 3}));
}

TEST(Dream, RanksByTheFilteredDistribution) {
  for (const std::string& order : kRanked) {
    Driver driver({}, "dream", {{"order", order}, {"steps", int64_t{2}}});
    driver.step([](int32_t position, int32_t) {
      RowStats stats = certain(1, .9f - .1f * static_cast<float>(position), static_cast<float>(position));
      const float worth = .1f * static_cast<float>(position);
      stats.filtered = {worth, worth, 1 - worth};
      return stats;
    });
    EXPECT_TRUE(driver.plan.filtered);
    EXPECT_EQ(committed_offsets(driver.canvas), (std::set<int32_t>{3})) << order;
  }
}

TEST(Dream, OriginCommitsEachPositionWithTheShareOfTheStep) {
  // Two steps from 1 to 0.001: the first takes every position with probability 1 - 0.5005.
  Driver driver({.max_tokens = 20000, .seed = 5}, "dream", {{"order", std::string("origin")}, {"steps", int64_t{2}}});
  const std::vector<int32_t> commits = commits_per_forward(driver, [](int32_t, int32_t) { return certain(1, .5f); });
  ASSERT_EQ(commits.size(), 2u);
  EXPECT_NEAR(commits[0], 20000 * .4995, 4 * std::sqrt(20000 * .25));
  EXPECT_EQ(commits[0] + commits[1], 20000);
}

TEST(Dream, PositionTemperatureDrawsFromTheSoftmaxOfTheScores) {
  // Three positions, one of them is committed by the first of two forwards.
  constexpr double kScores[3] = {.9, .5, .2}, kTemperature = .4;
  constexpr int kSeeds = 6000;
  int counts[3] = {};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    Driver driver({.max_tokens = 3, .seed = seed}, "dream",
                  {{"order", std::string("maskgit_plus")}, {"steps", int64_t{2}}, {"alg_temp", kTemperature}});
    driver.step([&](int32_t position, int32_t) { return certain(1, static_cast<float>(kScores[position - 1])); });
    const std::set<int32_t> chosen = committed_offsets(driver.canvas);
    ASSERT_EQ(chosen.size(), 1u);
    ++counts[*chosen.begin()];
  }
  double total = 0, chi_square = 0;
  for (const double score : kScores) total += std::exp(score / kTemperature);
  for (int i = 0; i < 3; ++i) {
    const double expected = kSeeds * std::exp(kScores[i] / kTemperature) / total;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 13.82);  // 99.9 % of a chi-square with 2 degrees of freedom; seeds are fixed
}

TEST(Rnd1Entropy, KeepsTheShareOfHighestEntropyMasked) {
  // 10 masks, 4 steps: floor(10 * 3/4), floor(10 * 2/4), floor(10 / 4) and none stay masked.
  Driver driver({.max_tokens = 10}, "rnd1_entropy", {{"num_steps", int64_t{4}}});
  const StatsOf rising = [](int32_t position, int32_t) { return certain(1, .5f, static_cast<float>(position)); };
  EXPECT_EQ(commits_per_forward(driver, rising), (std::vector<int32_t>{3, 2, 3, 2}));
  Driver first({.max_tokens = 10}, "rnd1_entropy", {{"num_steps", int64_t{4}}});
  first.step(rising);
  EXPECT_EQ(committed_offsets(first.canvas), (std::set<int32_t>{0, 1, 2}));
}

TEST(Rnd1Entropy, EndsWhenNothingIsMasked) {
  Driver driver({.max_tokens = 2}, "rnd1_entropy", {{"num_steps", int64_t{5}}});
  EXPECT_EQ(commits_per_forward(driver, [](int32_t, int32_t) { return certain(1, .5f); }),
            (std::vector<int32_t>{1, 0, 1}));
}

}  // namespace
}  // namespace pydllm::decode
