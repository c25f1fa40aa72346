// levenshtein on traces that SGLang's JointThresholdInDel gave (mode cumulative), and on its schedule (mode reference).
// Ids: 0 to 2 text, 3 mask, 4 DELETE, 5 SPLIT.
#include <gtest/gtest.h>

#include <array>

#include "base/errors.h"
#include "decode_driver.h"

namespace pydllm::decode {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int32_t M = -1;  // masked, as visible() shows it
constexpr int32_t kDelete = 4, kSplit = 5;

struct Prediction {
  int32_t token;
  float probability;
  int32_t next = -1;  // second choice, and the text in place of a control token
};
using Predictions = std::array<Prediction, 4>;  // of the open block

RowStats row_stats(const Prediction& prediction) {
  RowStats stats;
  stats.token = stats.top1 = prediction.token;
  stats.confidence = stats.top1_probability = prediction.probability;
  stats.top2 = prediction.next;
  stats.top2_probability = prediction.probability / 8;
  const bool control = prediction.token == kDelete || prediction.token == kSplit;
  stats.text = control ? prediction.next : prediction.token;
  stats.text_probability = control ? stats.top2_probability : stats.confidence;
  stats.finite = true;
  return stats;
}

StatsOf of(const Predictions& predictions) {
  return [predictions](int32_t position, int32_t) { return row_stats(predictions[static_cast<size_t>(position) % 4]); };
}

ParamMap params_of(const char* mode, int64_t max_post = 16) {
  return {{"mode", std::string(mode)}, {"max_post_edit_steps", max_post}};
}

// The block that the prompt ends in, with `prompt` of its four slots.
Driver one_block(const Tokens& prompt, const ParamMap& params) {
  Tokens all = {2, 2, 2, 2};
  all.insert(all.end(), prompt.begin(), prompt.end());
  return Driver({.prompt = all, .max_tokens = static_cast<int32_t>(4 - prompt.size()), .block_length = 4},
                "levenshtein", params);
}

Tokens step(Driver& driver, const Predictions& predictions) {
  driver.step(of(predictions));
  const Tokens all = visible(driver.canvas);
  return {all.end() - 4, all.end()};
}

TEST(Levenshtein, TheTraceOfTheOriginal) {
  Driver driver = one_block({0}, params_of("cumulative"));
  EXPECT_EQ(step(driver, {{{2, .9f}, {1, .9f}, {2, .8f}, {0, .4f}}}), (Tokens{0, 1, 2, M}));
  EXPECT_EQ(step(driver, {{{2, .9f}, {kDelete, .9f}, {2, .8f}, {0, .6f}}}), (Tokens{0, 2, 0, M}));
  EXPECT_EQ(step(driver, {{{2, .9f}, {2, .9f}, {0, .9f}, {1, .4f}}}), (Tokens{0, 2, 0, 1}))
      << "no mask is left that the block began with: the introduced one is filled below the threshold";
  EXPECT_EQ(step(driver, {{{2, .9f}, {kSplit, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{0, M, 2, 0}));
  const Predictions last = {{{2, .9f}, {1, .9f}, {2, .9f}, {0, .9f}}};
  EXPECT_EQ(step(driver, last), (Tokens{0, 1, 2, 0}));
  EXPECT_EQ(driver.canvas.final_end(), 5) << "nothing is final while it may be edited";
  EXPECT_EQ(step(driver, last), (Tokens{0, 1, 2, 0}));
  EXPECT_TRUE(driver.done());
}

TEST(Levenshtein, WithoutPostStepsControlsBecomeTextAtOnce) {
  Driver driver = one_block({0}, params_of("cumulative", 0));
  EXPECT_EQ(step(driver, {{{2, .9f}, {kDelete, .9f, 1}, {2, .8f}, {kSplit, .6f, 2}}}), (Tokens{0, 1, 2, 2}));
  EXPECT_TRUE(driver.done());
}

// The originals let a mask predict itself; here a row's token is its best other one, with its own probability.
TEST(Levenshtein, TheSurestMaskIsFilledWhenNonePasses) {
  Driver driver = one_block({}, params_of("cumulative"));
  EXPECT_EQ(step(driver, {{{1, .06f}, {2, .15f}, {0, .03f}, {0, .02f}}}), (Tokens{M, 2, M, M}));
}

TEST(Levenshtein, EditsOfTheOriginalsScan) {
  const auto edited = [](const Predictions& wanted) {
    Driver driver = one_block({}, {{"mode", std::string("cumulative")}, {"threshold", 0.0}});
    EXPECT_EQ(step(driver, {{{1, .9f}, {2, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{1, 2, 0, 1}));
    return step(driver, wanted);
  };
  EXPECT_EQ(edited({{{1, .9f}, {kDelete, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{1, 0, 1, M}));
  EXPECT_EQ(edited({{{1, .9f}, {kSplit, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{1, M, 2, 0}));
  EXPECT_EQ(edited({{{kDelete, .9f}, {2, .9f}, {kSplit, .9f}, {1, .9f}}}), (Tokens{2, M, 0, 1}));
  EXPECT_EQ(edited({{{kDelete, .9f}, {kDelete, .9f}, {kDelete, .9f}, {kDelete, .9f}}}), (Tokens{M, M, M, M}));
  EXPECT_EQ(edited({{{1, .9f}, {2, .9f}, {0, .9f}, {kSplit, .9f}}}), (Tokens{1, 2, 0, M})) << "its token is pushed out";
}

TEST(Levenshtein, AMaskThatIsDeletedOrSplitIsNoOriginalAnyMore) {
  Driver driver = one_block({}, {{"mode", std::string("cumulative")}, {"threshold", .5}});
  EXPECT_EQ(step(driver, {{{1, .9f}, {kDelete, .9f}, {0, .9f}, {1, .1f}}}), (Tokens{1, 0, M, M}));
  EXPECT_EQ(step(driver, {{{1, .9f}, {0, .9f}, {2, .1f}, {2, .2f}}}), (Tokens{1, 0, 2, 2}))
      << "one original and one introduced: both are due";
  Driver split = one_block({}, {{"mode", std::string("cumulative")}, {"threshold", .5}});
  EXPECT_EQ(step(split, {{{kSplit, .9f}, {1, .9f}, {1, .9f}, {1, .9f}}}), (Tokens{M, M, 1, 1}))
      << "the mask that stood there stays behind the new one";
}

TEST(Levenshtein, MasksThatEditsPutInAreFilledTogether) {
  Driver driver = one_block({}, params_of("cumulative"));
  EXPECT_EQ(step(driver, {{{1, .9f}, {2, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{1, 2, 0, 1}));
  EXPECT_EQ(step(driver, {{{kSplit, .9f}, {kSplit, .9f}, {0, .9f}, {1, .9f}}}), (Tokens{M, 1, M, 2}));
  EXPECT_EQ(step(driver, {{{0, .1f}, {1, .9f}, {0, .2f}, {2, .9f}}}), (Tokens{0, 1, 0, 2}));
}

TEST(Levenshtein, AnOscillationIsLeftByTheLeastSureSlotsSecondChoice) {
  Driver driver = one_block({}, params_of("cumulative", 8));
  const auto all = [](int32_t token) {
    return Predictions{{{token, .9f, 0}, {token, .9f, 0}, {token, .9f, 0}, {token, .8f, 2}}};
  };
  EXPECT_EQ(step(driver, all(0)), (Tokens{0, 0, 0, 0}));
  EXPECT_EQ(step(driver, all(1)), (Tokens{1, 1, 1, 1}));
  EXPECT_EQ(step(driver, all(0)), (Tokens{0, 0, 0, 0}));
  EXPECT_EQ(step(driver, all(1)), (Tokens{1, 1, 1, 2}));
  EXPECT_EQ(step(driver, all(0)), (Tokens{0, 0, 0, 0}));
  while (!driver.done()) step(driver, all(driver.forwards % 2));
  EXPECT_EQ(driver.forwards, 9) << "the budget of eight steps after the first";
}

TEST(Levenshtein, ThePromptIsNeverEditedAndItsControlTokensAreData) {
  Driver driver = one_block({kDelete, kSplit}, params_of("reference"));
  const Predictions ones = {{{1, .9f}, {1, .9f}, {1, .9f}, {1, .9f}}};
  EXPECT_EQ(step(driver, ones), (Tokens{kDelete, kSplit, 1, 1}));
  EXPECT_EQ(step(driver, ones), (Tokens{kDelete, kSplit, 1, 1}));
  EXPECT_TRUE(driver.done());
}

// --- mode reference ---

TEST(Levenshtein, TheScheduleSaysHowManyMasksAreFilledAtLeast) {
  const Predictions t1 = {{{0, .70f}, {1, .90f}, {0, .40f}, {2, .97f}}};
  const auto run = [&](int64_t steps, double threshold) {
    Driver driver = one_block({}, {{"steps_per_block", steps}, {"threshold", threshold}});
    std::vector<Tokens> seen;
    while (!driver.done()) seen.push_back(step(driver, t1));
    return seen;
  };
  EXPECT_EQ(run(4, .98), (std::vector<Tokens>{{M, M, M, 2}, {M, 1, M, 2}, {0, 1, M, 2}, {0, 1, 0, 2}, {0, 1, 0, 2}}));
  EXPECT_EQ(run(2, .98), (std::vector<Tokens>{{M, 1, M, 2}, {0, 1, 0, 2}, {0, 1, 0, 2}}));
  EXPECT_EQ(run(4, .6), (std::vector<Tokens>{{0, 1, M, 2}, {0, 1, 0, 2}, {0, 1, 0, 2}}));
  EXPECT_EQ(run(1, .98), (std::vector<Tokens>{{0, 1, 0, 2}, {0, 1, 0, 2}}));
}

TEST(Levenshtein, IntroducedMasksAreDueAtOnce) {
  Driver driver = one_block({0, 0}, {{"steps_per_block", int64_t{4}}, {"threshold", .98}});
  const Predictions unsure = {{{1, .5f}, {1, .5f}, {1, .5f}, {1, .6f}}};
  EXPECT_EQ(step(driver, unsure), (Tokens{0, 0, M, 1}));
  EXPECT_EQ(step(driver, unsure), (Tokens{0, 0, 1, 1}));
  Driver idle = one_block({0, 0, 0}, {{"steps_per_block", int64_t{3}}, {"threshold", .98}});
  EXPECT_EQ(step(idle, {{{0, 0}, {0, 0}, {0, 0}, {kDelete, .5f}}}), (Tokens{0, 0, 0, M}));
  EXPECT_EQ(step(idle, {{{0, 0}, {0, 0}, {0, 0}, {1, .5f}}}), (Tokens{0, 0, 0, 1}))
      << "an introduced mask is due at once";
}

TEST(Levenshtein, TheCapResolvesEverything) {
  Driver driver = one_block({}, {{"max_steps_per_block", int64_t{2}}, {"threshold", .98}});
  EXPECT_EQ(step(driver, {{{0, .7f}, {1, .9f}, {0, .4f}, {2, .97f}}}), (Tokens{M, M, M, 2}));
  EXPECT_EQ(step(driver, {{{0, .7f}, {kSplit, .9f, 1}, {0, .4f}, {kDelete, .97f, 2}}}), (Tokens{0, 1, 0, 2}));
  EXPECT_TRUE(driver.done());
}

TEST(Levenshtein, NeedsAModelWithControlTokens) {
  for (const auto& [remove, split] : {std::pair{-1, -1}, std::pair{4, -1}, std::pair{-1, 5}}) {
    try {
      Driver({.delete_id = remove, .split_id = split}, "levenshtein", {});
      ADD_FAILURE() << "accepted";
    } catch (const Unsupported& error) {
      EXPECT_EQ(error.field(), "diffusion.algorithm");
    }
  }
}

}  // namespace
}  // namespace pydllm::decode
