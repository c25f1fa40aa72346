// The algorithms of block-causal models on worked examples of their originals, and their edges.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/errors.h"
#include "decode/algorithm.h"
#include "decode_driver.h"

namespace pydllm::decode {
namespace {

using Tokens = std::vector<int32_t>;
using Canvases = std::vector<Tokens>;
using Row = std::pair<int32_t, float>;  // token, confidence

constexpr int32_t M = -1;  // masked, as visible() shows it

// Table T1 of the field's references: four positions, arg-max and its probability.
constexpr std::array<Row, 4> kT1 = {{{0, .70f}, {1, .90f}, {0, .40f}, {2, .97f}}};
// Table E: two equal logits each, every confidence exactly one half.
constexpr std::array<Row, 4> kE = {{{0, .5f}, {1, .5f}, {0, .5f}, {0, .5f}}};

RowStats row_stats(const Row& row) {
  RowStats stats;
  stats.token = row.first;
  stats.confidence = row.second;
  stats.finite = true;
  return stats;
}

// The same table for every block of four, in every forward.
template <size_t N>
StatsOf table(const std::array<Row, N>& rows) {
  return [rows](int32_t position, int32_t) { return row_stats(rows[static_cast<size_t>(position) % N]); };
}

// Four prompt tokens, then one block of four.
Driver one_block(std::string_view algorithm, const ParamMap& params) {
  return Driver({.prompt = {9, 9, 9, 9}, .max_tokens = 4, .mask_id = 3, .block_length = 4}, algorithm, params);
}

Tokens block_of(const Driver& driver) {
  const Tokens all = visible(driver.canvas);
  return {all.end() - 4, all.end()};
}

// Offsets in the block that the first forward commits.
template <size_t N>
std::set<int32_t> first(std::string_view algorithm, const ParamMap& params, const std::array<Row, N>& rows) {
  Driver driver = one_block(algorithm, params);
  driver.step(table(rows));
  std::set<int32_t> out;
  for (int32_t i = 0; i < 4; ++i) {
    if (!driver.canvas.masked(4 + i)) out.insert(i);
  }
  return out;
}

using Set = std::set<int32_t>;

// --- low_confidence ---

TEST(LowConfidence, FirstForwardOnT1) {
  const auto at = [](double threshold) { return first("low_confidence", {{"threshold", threshold}}, kT1); };
  EXPECT_EQ(at(.95), (Set{3}));
  EXPECT_EQ(at(.98), (Set{3})) << "nothing passes: the surest position";
  EXPECT_EQ(at(.8), (Set{1, 3}));
  EXPECT_EQ(at(.6), (Set{0, 1, 3}));
  EXPECT_EQ(at(.3), (Set{0, 1, 2, 3}));
  EXPECT_EQ(first("LowConfidence", {}, kT1), at(.95));
}

TEST(LowConfidence, EqualityDoesNotPass) {
  EXPECT_EQ(first("low_confidence", {{"threshold", .5}}, kE), (Set{0})) << "the lowest position among equals";
}

TEST(LowConfidence, TheFallbackIsAmongMasksOnly) {
  Driver driver = one_block("low_confidence", {});
  driver.canvas.commit(4, 0, 1);
  driver.canvas.commit(7, 2, 1);
  driver.step(table(kT1));
  EXPECT_EQ(block_of(driver), (Tokens{0, 1, M, 2}));
}

TEST(LowConfidence, ThePromptsTailSharesABlockWithTheFirstTokens) {
  Driver driver({.prompt = {9, 9, 9, 9, 9}, .max_tokens = 4, .mask_id = 3, .block_length = 4}, "low_confidence",
                {{"threshold", 0.0}});
  EXPECT_EQ(canvases(driver, table(kT1)), (Canvases{{9, 9, 9, 9, 9, M, M, M, M, M, M, M},
                                                    {9, 9, 9, 9, 9, 1, 0, 2, M, M, M, M},
                                                    {9, 9, 9, 9, 9, 1, 0, 2, 0, 1, 0, 2}}));
  EXPECT_EQ(driver.canvas.answer_end(), 9);
}

TEST(LowConfidence, WhatLiesBehindTheAnswerNeedNotBeDenoised) {
  Driver driver({.prompt = {9}, .max_tokens = 1, .mask_id = 3, .block_length = 4}, "low_confidence", {});
  driver.step([](int32_t position, int32_t) { return row_stats({1, position == 1 ? 1.f : .5f}); });
  EXPECT_TRUE(driver.done());
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, 1, M, M}));
}

// --- sdar ---

TEST(Sdar, FirstForwardOnT1) {
  const auto at = [](const char* order, int64_t steps, double threshold) {
    return first("sdar", {{"order", std::string(order)}, {"steps_per_block", steps}, {"threshold", threshold}}, kT1);
  };
  EXPECT_EQ(at("dynamic", 4, .85), (Set{1, 3}));
  EXPECT_EQ(at("dynamic", 4, .98), (Set{3}));
  EXPECT_EQ(at("dynamic", 2, .98), (Set{1, 3})) << "fewer than the step's share pass: the best of the share";
  EXPECT_EQ(at("static", 4, .85), (Set{3}));
  EXPECT_EQ(at("static", 2, .85), (Set{1, 3}));
  EXPECT_EQ(at("sequential", 2, .85), (Set{0, 1}));
  EXPECT_EQ(first("sdar", {}, kT1), at("dynamic", 4, .85));
}

TEST(Sdar, EqualityDoesNotPass) {
  EXPECT_EQ(first("sdar", {{"threshold", .5}}, kE), (Set{0}));
}

TEST(Sdar, UnevenSharesTakeTheRestFirst) {
  Driver driver = one_block("sdar", {{"order", std::string("sequential")}, {"denoising_steps", int64_t{3}}});
  const Canvases seen = canvases(driver, table(kT1));
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(Tokens(seen[1].end() - 4, seen[1].end()), (Tokens{0, 1, M, M}));
  EXPECT_EQ(Tokens(seen[2].end() - 4, seen[2].end()), (Tokens{0, 1, 0, M}));
}

TEST(Sdar, MoreStepsThanPositionsEndWithThePositions) {
  Driver driver = one_block("sdar", {{"order", std::string("static")}, {"steps_per_block", int64_t{9}}});
  canvases(driver, table(kT1));
  EXPECT_EQ(driver.forwards, 4);
}

// --- joint_threshold ---

const ParamMap kJoint = {{"threshold", .65}, {"edit_threshold", .5}};

TEST(JointThreshold, FillsAndEditsInOneStepUntilNothingChanges) {
  Driver driver = one_block("joint_threshold", kJoint);
  const std::array<Row, 4> later = {{{1, .70f}, {1, .90f}, {2, .74f}, {0, .45f}}};
  driver.step(table(kT1));
  EXPECT_EQ(block_of(driver), (Tokens{0, 1, M, 2}));
  EXPECT_EQ(driver.canvas.final_end(), 4) << "nothing is final while it may be edited";
  driver.step(table(later));
  EXPECT_EQ(block_of(driver), (Tokens{1, 1, 2, 2})) << "position 0 edited, 3 kept: .45 is not above .5";
  EXPECT_FALSE(driver.done());
  driver.step(table(later));
  EXPECT_EQ(block_of(driver), (Tokens{1, 1, 2, 2}));
  EXPECT_TRUE(driver.done());
  EXPECT_EQ(driver.canvas.final_end(), 8);
}

TEST(JointThreshold, AnOscillationEndsWithTheBudget) {
  Driver driver({.prompt = {9, 9}, .max_tokens = 2, .mask_id = 3, .block_length = 2}, "JointThreshold",
                {{"threshold", .5}, {"edit_threshold", 0.0}, {"max_post_edit_steps", int64_t{2}}});
  const StatsOf alternating = [](int32_t, int32_t forward) { return row_stats({forward % 2, .9f}); };
  EXPECT_EQ(canvases(driver, alternating),
            (Canvases{{9, 9, M, M}, {9, 9, 0, 0}, {9, 9, 1, 1}, {9, 9, 0, 0}, {9, 9, 0, 0}}));
  EXPECT_EQ(driver.forwards, 4);
}

TEST(JointThreshold, ThePromptIsNeverEdited) {
  Driver driver({.prompt = {0}, .max_tokens = 1, .mask_id = 3, .block_length = 2}, "joint_threshold",
                {{"edit_threshold", 0.0}});
  const StatsOf ones = [](int32_t, int32_t) { return row_stats({1, .9f}); };
  EXPECT_EQ(canvases(driver, ones).back(), (Tokens{0, 1}));
}

TEST(JointThreshold, WithoutEditsABlockIsFinalWhenItIsFilled) {
  Driver driver = one_block("joint_threshold", {{"allow_edits", false}, {"threshold", .3}});
  driver.step(table(kT1));
  EXPECT_TRUE(driver.done());
  EXPECT_EQ(block_of(driver), (Tokens{0, 1, 0, 2}));
}

TEST(JointThreshold, AZeroBudgetStillFillsEveryMask) {
  Driver driver = one_block("joint_threshold", {{"threshold", 1.0}, {"max_post_edit_steps", int64_t{0}}});
  canvases(driver, table(kT1));
  EXPECT_EQ(driver.forwards, 5) << "one per mask, and the one that finds the budget used up";
  EXPECT_EQ(driver.canvas.masked_count(), 0);
}

TEST(JointThreshold, TheBudgetIsPerBlock) {
  Driver driver({.prompt = {9, 9}, .max_tokens = 4, .mask_id = 3, .block_length = 2}, "joint_threshold",
                {{"threshold", .5}, {"edit_threshold", 0.0}, {"max_post_edit_steps", int64_t{2}}});
  canvases(driver, [](int32_t, int32_t forward) { return row_stats({forward % 2, .9f}); });
  EXPECT_EQ(driver.forwards, 8);
}

// --- multi_block ---

// Blocks of two behind a prompt of two; every token's confidence by position.
Driver two_by_two(int32_t max_tokens, const ParamMap& params) {
  return Driver({.prompt = {9, 9}, .max_tokens = max_tokens, .mask_id = 3, .block_length = 2}, "multi_block", params);
}

StatsOf confidences(std::vector<float> by_position) {
  return
      [by_position](int32_t position, int32_t) { return row_stats({1, by_position[static_cast<size_t>(position)]}); };
}

TEST(MultiBlock, TakesOnTheNextBlockWhenTheLastOneIsFilledFarEnough) {
  Driver driver = two_by_two(6, {{"add_block_threshold", .5}});
  const StatsOf unsure = confidences({0, 0, .5f, .4f, .3f, .2f, .1f, .05f});
  driver.step(unsure);
  EXPECT_EQ(driver.plan.query_end, 4) << "nothing of the first block is filled";
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, 9, 1, M, M, M, M, M})) << "the first block always commits one";
  driver.step(unsure);
  EXPECT_EQ(driver.plan.query_begin, 2);
  EXPECT_EQ(driver.plan.query_end, 6) << "half of the first block is filled";
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, 9, 1, 1, M, M, M, M}))
      << "block 1 is not forced: block 0 was half filled";
}

TEST(MultiBlock, ALaterBlockIsForcedBehindASemiCompleteOne) {
  Driver driver = two_by_two(4, {{"semi_complete_threshold", .5}});
  const StatsOf unsure = confidences({0, 0, .5f, .4f, .3f, .2f});
  driver.step(unsure);
  driver.step(unsure);
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, 9, 1, 1, 1, M}));
}

TEST(MultiBlock, ALaterBlockMayBeFinishedFirst) {
  Driver driver = two_by_two(6, {});
  const StatsOf stats = confidences({0, 0, .5f, .4f, 1, 1, .3f, .2f});
  driver.step(stats);
  driver.step(stats);
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, 9, 1, 1, 1, 1, M, M}));
  EXPECT_EQ(driver.decoding->progress().block_index, 2);
  driver.step(stats);
  EXPECT_EQ(driver.plan.query_begin, 6);
}

TEST(MultiBlock, TheBufferHoldsFinishedBlocksUntilTheyAreCommitted) {
  const StatsOf sure = confidences(std::vector<float>(14, 1));
  Driver driver = two_by_two(12, {{"buffer_size", int64_t{2}}, {"add_block_threshold", 0.0}});
  driver.step(sure);
  EXPECT_EQ(driver.plan.query_end, 4);
  driver.step(sure);
  EXPECT_EQ((std::pair{driver.plan.query_begin, driver.plan.query_end}), (std::pair{4, 6}));
  Driver slow = two_by_two(12, {{"buffer_size", int64_t{3}}, {"add_block_threshold", 0.0}, {"accept_threshold", 1.0}});
  for (int32_t forward = 0; forward < 4; ++forward) {
    slow.step(sure);
    EXPECT_LE(slow.plan.query_end - slow.plan.query_begin, 6);
  }
}

TEST(MultiBlock, APlanMadeTwiceIsTheSame) {
  Driver driver = two_by_two(8, {{"add_block_threshold", 0.0}});
  for (int32_t i = 0; i < 3; ++i) driver.decoding->plan(driver.canvas, driver.plan);
  EXPECT_EQ(driver.plan.query_end, 4);
}

// --- fast_dllm_v2 ---

TEST(FastDllmV2, ABlockStartsWithItsFirstTokenAlone) {
  Driver driver = one_block("fast_dllm_v2", {{"threshold", 0.0}});
  driver.step(table(kT1));
  EXPECT_EQ(driver.plan.rows, (Tokens{4}));
  EXPECT_EQ(block_of(driver), (Tokens{0, M, M, M}));
  driver.step(table(kT1));
  EXPECT_EQ(driver.plan.rows, (Tokens{5, 6, 7}));
  EXPECT_TRUE(driver.done());
}

TEST(FastDllmV2, ABlockThatThePromptBeginsNeedsNoFirstToken) {
  Driver driver({.prompt = {9}, .max_tokens = 3, .mask_id = 3, .block_length = 4}, "fast_dllm_v2", {});
  driver.step(table(kT1));
  EXPECT_EQ(driver.plan.rows, (Tokens{1, 2, 3}));
  EXPECT_EQ(visible(driver.canvas), (Tokens{9, M, M, 2})) << ".90 is not above .9";
}

TEST(FastDllmV2, SubBlocksAreFinishedFromLeftToRight) {
  Driver driver = one_block("fast_dllm_v2", {{"threshold", .95}, {"sub_block_length", int64_t{2}}});
  EXPECT_EQ(canvases(driver, table(kT1)), (Canvases{{9, 9, 9, 9, M, M, M, M},
                                                    {9, 9, 9, 9, 0, M, M, M},
                                                    {9, 9, 9, 9, 0, 1, M, M},
                                                    {9, 9, 9, 9, 0, 1, M, 2},
                                                    {9, 9, 9, 9, 0, 1, 0, 2}}));
}

}  // namespace
}  // namespace pydllm::decode
