// Each algorithm on worked examples (table T1 of the field's references), its edges and its failures.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/errors.h"
#include "decode/algorithm.h"
#include "decode_examples.h"

namespace pydllm::decode {
namespace {

// --- llada_schedule ---

TEST(LladaSchedule, FourStepsOnT1) {
  EXPECT_EQ(t1_run("llada_schedule", {{"steps", int64_t{4}}}),
            (Canvases{{0, M, M, M, M}, {0, M, M, M, 2}, {0, M, 1, M, 2}, {0, 0, 1, M, 2}, {0, 0, 1, 0, 2}}));
}

TEST(LladaSchedule, TwoStepsOnT1) {
  EXPECT_EQ(t1_run("llada_schedule", {{"steps", int64_t{2}}}),
            (Canvases{{0, M, M, M, M}, {0, M, 1, M, 2}, {0, 0, 1, 0, 2}}));
}

TEST(LladaSchedule, TwoBlocksOnT1) {
  EXPECT_EQ(t1_run("llada_schedule", {{"steps", int64_t{4}}, {"block_length", int64_t{2}}}),
            (Canvases{{0, M, M, M, M}, {0, M, 1, M, M}, {0, 0, 1, M, M}, {0, 0, 1, M, 2}, {0, 0, 1, 0, 2}}));
}

TEST(LladaSchedule, StepsDefaultToOnePerToken) {
  EXPECT_EQ(t1_run("llada_schedule", {}).size(), 5u);
}

TEST(LladaSchedule, RunsStepsThatCommitNothing) {
  const Canvases run = t1_run("llada_schedule", {{"steps", int64_t{7}}});
  ASSERT_EQ(run.size(), 8u);
  EXPECT_EQ(run[4], (Tokens{0, 0, 1, 0, 2}));
  EXPECT_EQ(run[7], run[4]);
}

TEST(LladaSchedule, IdleStepsAskForNoRows) {
  Driver driver({}, "llada_schedule", {{"steps", int64_t{6}}});
  for (int forward = 0; forward < 4; ++forward) driver.step(t1);
  EXPECT_FALSE(driver.done());
  driver.step(t1);
  EXPECT_TRUE(driver.plan.rows.empty());
  EXPECT_EQ(driver.plan.query_end, 5);
  driver.step(t1);
  EXPECT_TRUE(driver.done());
}

// Forwards spent in each block of a schedule.
std::vector<int32_t> steps_per_block(int32_t max_tokens, int64_t block_length, int64_t steps) {
  Driver driver({.max_tokens = max_tokens}, "llada_schedule", {{"steps", steps}, {"block_length", block_length}});
  const StatsOf stats = random_stats(5, 100, 3);
  std::vector<int32_t> spent;
  while (!driver.done() && driver.forwards < 1000) {
    const auto block = static_cast<size_t>(driver.decoding->progress().block_index);
    spent.resize(std::max(spent.size(), block + 1));
    ++spent[block];
    driver.step(stats);
  }
  return spent;
}

TEST(LladaSchedule, StepsAreSharedInProportionToTokens) {
  EXPECT_EQ(steps_per_block(64, 32, 64), (std::vector<int32_t>{32, 32}));
  EXPECT_EQ(steps_per_block(64, 16, 8), (std::vector<int32_t>{2, 2, 2, 2}));
  EXPECT_EQ(steps_per_block(10, 4, 10), (std::vector<int32_t>{4, 4, 2}));
  EXPECT_EQ(steps_per_block(10, 4, 5), (std::vector<int32_t>{2, 2, 1}));
  EXPECT_EQ(steps_per_block(33, 32, 2), (std::vector<int32_t>{1, 1}));
  EXPECT_EQ(steps_per_block(10, 4, 3), (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(steps_per_block(5, 1000000, 3), (std::vector<int32_t>{3}));
}

TEST(LladaSchedule, FewerStepsThanBlocksIsRefused) {
  const auto begin = [](int64_t steps) {
    Driver({.max_tokens = 10}, "llada_schedule", {{"steps", steps}, {"block_length", int64_t{4}}});
  };
  EXPECT_NO_THROW(begin(3));
  try {
    begin(2);
    FAIL() << "2 steps for 3 blocks were accepted";
  } catch (const InvalidRequest& error) {
    EXPECT_EQ(error.field(), "diffusion.extra.steps");
    EXPECT_STREQ(error.what(), "steps: expected at least one per block (3 blocks), got 2");
  }
}

TEST(LladaSchedule, GuidanceIsOnlyAskedForAboveZero) {
  Driver plain({}, "llada_schedule", {{"cfg_scale", 0.0}});
  plain.step(t1);
  EXPECT_FALSE(plain.plan.guided);
  EXPECT_EQ(plain.plan.guidance_scale, 0.f);
  Driver guided({}, "llada_schedule", {{"cfg_scale", 1.5}});
  guided.step(t1);
  EXPECT_TRUE(guided.plan.guided);
  EXPECT_EQ(guided.plan.guidance_scale, 1.5f);
}

// --- random remasking ---

int32_t first_random_pick(uint64_t seed) {
  Driver driver({.seed = seed}, "llada_schedule", {{"remasking", std::string("random")}});
  driver.step(t1);
  for (int32_t i = 1; i <= 4; ++i) {
    if (!driver.canvas.masked(i)) return i;
  }
  return 0;
}

TEST(RandomRemasking, PicksPositionsUniformly) {
  constexpr int kSeeds = 8000;
  int counts[5] = {};
  for (uint64_t seed = 0; seed < kSeeds; ++seed) ++counts[first_random_pick(seed)];
  double chi_square = 0;
  for (int i = 1; i <= 4; ++i) chi_square += std::pow(counts[i] - kSeeds / 4, 2) / (kSeeds / 4.0);
  EXPECT_EQ(counts[0], 0);
  EXPECT_LT(chi_square, 16.27);  // 99.9 % of a chi-square with 3 degrees of freedom; seeds are fixed
}

TEST(RandomRemasking, DrawsAnewInEveryForward) {
  // With a threshold no draw reaches, each forward commits its largest draw: a frozen ranking would always commit the
  // positions in the order of the first forward.
  int changed = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    Driver two({.seed = seed}, "llada_schedule", {{"remasking", std::string("random")}, {"steps", int64_t{2}}});
    Driver four({.seed = seed}, "llada_schedule", {{"remasking", std::string("random")}, {"steps", int64_t{4}}});
    two.step(t1);
    four.step(t1);
    four.step(t1);
    changed += visible(two.canvas) != visible(four.canvas);
  }
  EXPECT_GT(changed, 10);
  EXPECT_LT(changed, 50);
}

TEST(RandomRemasking, SameSeedSameRun) {
  for (const char* name : {"llada_schedule", "confidence_threshold", "entropy_threshold"}) {
    Driver a({.max_tokens = 40, .seed = 11}, name, {{"remasking", std::string("random")}});
    Driver b({.max_tokens = 40, .seed = 11}, name, {{"remasking", std::string("random")}});
    Driver c({.max_tokens = 40, .seed = 12}, name, {{"remasking", std::string("random")}});
    const StatsOf stats = random_stats(1, 50, 3);
    const Canvases run = canvases(a, stats);
    EXPECT_EQ(run, canvases(b, stats)) << name;
    EXPECT_NE(run, canvases(c, stats)) << name;
  }
}

TEST(RandomRemasking, ReplacesEntropyByAUniformDraw) {
  // Entropies of 50 nats would pass nothing; draws lie in (0, 1), so a threshold of 1 passes everything.
  const StatsOf hopeless = [](int32_t, int32_t) { return certain(1, .01f, 50); };
  Driver driver({}, "entropy_threshold", {{"remasking", std::string("random")}, {"threshold", 1.0}});
  driver.step(hopeless);
  EXPECT_TRUE(driver.done());
}

// --- confidence_threshold ---

TEST(ConfidenceThreshold, FirstForwardOnT1) {
  const auto first = [](double threshold) { return t1_first("confidence_threshold", {{"threshold", threshold}}); };
  EXPECT_EQ(first(.95), (std::set<int32_t>{3}));
  EXPECT_EQ(first(.9), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(first(.8), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(first(.6), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(first(0), (std::set<int32_t>{0, 1, 2, 3}));
}

TEST(ConfidenceThreshold, EqualityPasses) {
  const StatsOf halves = [](int32_t, int32_t) { return certain(1, .5f); };
  Driver at({}, "fast_dllm", {{"confidence_threshold", .5}});
  at.step(halves);
  EXPECT_TRUE(at.done());
  Driver above({}, "fast_dllm", {{"confidence_threshold", .5000001}});
  above.step(halves);
  EXPECT_EQ(visible(above.canvas), (Tokens{0, 1, M, M, M})) << "rank 0, ties at the lowest position";
}

TEST(ConfidenceThreshold, ThresholdMeansTheSameInSingleAndDoublePrecision) {
  const StatsOf edge = [](int32_t, int32_t) { return certain(1, .9f); };
  for (const double threshold : {.9, static_cast<double>(.9f)}) {
    Driver driver({}, "confidence_threshold", {{"confidence_threshold", threshold}});
    driver.step(edge);
    EXPECT_TRUE(driver.done()) << threshold;
  }
}

TEST(ConfidenceThreshold, BlocksAreDenoisedInOrder) {
  EXPECT_EQ(t1_run("confidence_threshold", {{"threshold", .6}, {"block_length", int64_t{2}}}),
            (Canvases{{0, M, M, M, M}, {0, 0, 1, M, M}, {0, 0, 1, M, 2}, {0, 0, 1, 0, 2}}));
}

// --- entropy_threshold ---

TEST(EntropyThreshold, FirstForwardOnT1) {
  const auto first = [](double threshold) { return t1_first("EntropyThreshold", {{"entropy_threshold", threshold}}); };
  EXPECT_EQ(first(.1), (std::set<int32_t>{3}));
  EXPECT_EQ(first(.3), (std::set<int32_t>{3}));
  EXPECT_EQ(first(.42), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(first(.5), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(first(.9), (std::set<int32_t>{0, 1, 3}));
  EXPECT_EQ(t1_first("entropy_threshold", {}), first(.5));
}

TEST(EntropyThreshold, EqualityPassesUnlessStrict) {
  const StatsOf rows = [](int32_t position, int32_t) {
    constexpr float kEntropies[] = {.5f, .5f, -1e-12f, 1.0986f};
    return certain(1, .5f, kEntropies[position - 1]);
  };
  const auto first = [&](const char* comparison) {
    Driver driver({}, "entropy_threshold", {{"threshold", .5}, {"comparison", std::string(comparison)}});
    driver.step(rows);
    return visible(driver.canvas);
  };
  EXPECT_EQ(first("le"), (Tokens{0, 1, 1, 1, M}));
  EXPECT_EQ(first("lt"), (Tokens{0, M, M, 1, M}));
}

// --- what the threshold rules share ---

TEST(ThresholdRules, LastAllowedStepCommitsTheRestOfTheBlock) {
  for (const char* name : {"confidence_threshold", "entropy_threshold"}) {
    const ParamMap params = {{"max_steps_per_block", int64_t{2}}, {"block_length", int64_t{3}}};
    Driver driver({.max_tokens = 5}, name, params);
    const StatsOf unsure = [](int32_t position, int32_t) {
      return certain(1, .1f - .01f * static_cast<float>(position), 3);
    };
    EXPECT_EQ(
        canvases(driver, unsure),
        (Canvases{{0, M, M, M, M, M}, {0, 1, M, M, M, M}, {0, 1, 1, 1, M, M}, {0, 1, 1, 1, 1, M}, {0, 1, 1, 1, 1, 1}}))
        << name;
  }
}

TEST(ThresholdRules, OneStepPerBlockCommitsWholeBlocks) {
  Driver driver({}, "confidence_threshold", {{"max_steps_per_block", int64_t{1}}, {"block_length", int64_t{3}}});
  EXPECT_EQ(canvases(driver, t1), (Canvases{{0, M, M, M, M}, {0, 0, 1, 0, M}, {0, 0, 1, 0, 2}}));
}

TEST(ThresholdRules, FilledBlocksCostNoForward) {
  for (const char* name : {"confidence_threshold", "entropy_threshold"}) {
    Driver driver({.max_tokens = 6}, name, {{"block_length", int64_t{2}}});
    for (const int32_t position : {1, 2, 3, 4}) driver.canvas.commit(position, 1, 0.5f);
    driver.step([](int32_t, int32_t) { return certain(2, 1.f); });
    EXPECT_EQ(driver.plan.rows, (Tokens{5, 6}));
    EXPECT_TRUE(driver.done());
    EXPECT_EQ(driver.decoding->progress().block_index, 2);
  }
}

TEST(ThresholdRules, AFilledCanvasIsDoneAtOnce) {
  Driver driver({.max_tokens = 1}, "confidence_threshold", {});
  driver.canvas.commit(1, 1, 0.5f);
  EXPECT_TRUE(driver.done());
}

// --- failures ---

TEST(Decoding, NeverCommitsARowWithoutAnAllowedToken) {
  for (const Algorithm* algorithm : algorithms()) {
    Driver driver({}, algorithm->name, {});
    EXPECT_THROW(canvases(driver, [](int32_t, int32_t) { return certain(-1, 0.f); }), InternalError) << algorithm->name;
  }
}

TEST(Decoding, NeverCommitsTheMask) {
  for (const Algorithm* algorithm : algorithms()) {
    Driver driver({}, algorithm->name, {});
    EXPECT_THROW(canvases(driver, [](int32_t, int32_t) { return certain(3, 1.f); }), InternalError) << algorithm->name;
  }
}

TEST(Decoding, RefusesNonFiniteRows) {
  for (const Algorithm* algorithm : algorithms()) {
    Driver driver({}, algorithm->name, {});
    const StatsOf broken = [](int32_t position, int32_t) {
      RowStats stats = certain(1, .9f);
      stats.finite = position != 3;
      return stats;
    };
    EXPECT_THROW(driver.step(broken), InternalError) << algorithm->name;
    EXPECT_EQ(driver.canvas.masked_count(), 4) << "nothing of a broken forward is written";
  }
}

TEST(Decoding, RefusesStatisticsOfAnotherPlan) {
  for (const Algorithm* algorithm : algorithms()) {
    Driver driver({}, algorithm->name, {});
    driver.decoding->plan(driver.canvas, driver.plan);
    EXPECT_THROW(driver.decoding->commit(std::vector<RowStats>(3), driver.canvas), InternalError) << algorithm->name;
  }
}

TEST(Decoding, AStalePlanIsOverwritten) {
  for (const Algorithm* algorithm : algorithms()) {
    SCOPED_TRACE(algorithm->name);
    Driver driver({}, algorithm->name, {});
    driver.plan = {.query_begin = 3,
                   .query_end = 77,
                   .rows = {9, 9},
                   .stale_context = true,
                   .block_length = 7,
                   .reconsidered = true,
                   .guided = true,
                   .guidance_scale = 4};
    driver.step(t1);
    const bool own_blocks = algorithm->attention.contains(AttentionKind::kPromptBlockCausal);
    EXPECT_EQ(driver.plan.query_begin, own_blocks ? 1 : 0);
    EXPECT_EQ(driver.plan.query_end, 5);
    EXPECT_EQ(driver.plan.rows, (Tokens{1, 2, 3, 4}));
    EXPECT_EQ(driver.plan.block_length, own_blocks ? 4 : 0);
    EXPECT_EQ(driver.plan.reconsidered, algorithm->name == "credit");
    EXPECT_FALSE(driver.plan.stale_context);
    EXPECT_FALSE(driver.plan.guided);
    EXPECT_EQ(driver.plan.guidance_scale, 0.f);
  }
}

TEST(Decoding, RunsFromDefaultsAlone) {
  for (const Algorithm* algorithm : algorithms()) {
    Driver driver({}, algorithm->name, {});
    driver.decoding->plan(driver.canvas, driver.plan);
    EXPECT_EQ(driver.plan.rows, (Tokens{1, 2, 3, 4})) << algorithm->name;
  }
}

}  // namespace
}  // namespace pydllm::decode
