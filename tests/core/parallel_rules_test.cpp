// confidence_factor, near_max and hierarchical on the executed examples of dInfer's decoders.
#include <gtest/gtest.h>

#include <string>

#include "decode_examples.h"

namespace pydllm::decode {
namespace {

using Offsets = std::set<int32_t>;

// One forward over masked positions of these confidences; a negative one stands for a committed position. They are one
// block, of a block-causal model together with the prompt.
Offsets first_commits_on(AttentionKind attention, std::string_view algorithm, const ParamMap& params,
                         const std::vector<float>& confidences) {
  const auto count = static_cast<int32_t>(confidences.size());
  Driver driver({.max_tokens = count, .block_length = count + 1, .attention = attention}, algorithm, params);
  Offsets before;
  for (size_t i = 0; i < confidences.size(); ++i) {
    if (confidences[i] >= 0) continue;
    driver.canvas.commit(static_cast<int32_t>(i) + 1, 0, 1);
    before.insert(static_cast<int32_t>(i));
  }
  driver.step([&](int32_t position, int32_t) { return certain(1, confidences[static_cast<size_t>(position - 1)]); });
  Offsets after = committed_offsets(driver.canvas);
  for (const int32_t offset : before) after.erase(offset);
  return after;
}

// The same on every kind of model.
Offsets first_commits(std::string_view algorithm, const ParamMap& params, const std::vector<float>& confidences) {
  const Algorithm& known = find_algorithm(algorithm);
  const Offsets first = first_commits_on(first_attention(known), algorithm, params, confidences);
  if (runs_on(known, AttentionKind::kBlockCausal)) {
    EXPECT_EQ(first_commits_on(AttentionKind::kBlockCausal, algorithm, params, confidences), first);
  }
  return first;
}

size_t by_factor(bool strict, const std::vector<float>& confidences) {
  return first_commits("confidence_factor", {{"factor_strict", strict}}, confidences).size();
}

TEST(ConfidenceFactor, CommitsWhileTheRankReachesItsThreshold) {
  for (const bool strict : {false, true}) {
    EXPECT_EQ(by_factor(strict, {.9f, .8f, .7f, .6f}), 2u);
    EXPECT_EQ(by_factor(strict, {.99f, .98f, .97f, .85f}), 4u);
    EXPECT_EQ(by_factor(strict, {.99f, .98f, .60f, .50f}), 2u);
    EXPECT_EQ(by_factor(strict, {.99f, .50f, .50f, .50f}), 1u);
    EXPECT_EQ(by_factor(strict, {.4f, .4f, .4f, .4f}), 1u);
    EXPECT_EQ(by_factor(strict, {.01f}), 1u);
  }
}

TEST(ConfidenceFactor, OnlyTheLooseRuleTakesAnUnsureLastPosition) {
  EXPECT_EQ(by_factor(false, {.99f, .98f, .97f, .50f}), 4u);
  EXPECT_EQ(by_factor(true, {.99f, .98f, .97f, .50f}), 3u);
}

TEST(ConfidenceFactor, FirstForwardOnT1) {
  const auto first = [](double factor, bool strict) {
    return t1_first("confidence_factor", {{"factor", factor}, {"factor_strict", strict}});
  };
  for (const bool strict : {false, true}) {
    EXPECT_EQ(first(1, strict), (Offsets{1, 3}));
    EXPECT_EQ(first(.5, strict), (Offsets{1, 3}));
  }
  EXPECT_EQ(first(2, false), (Offsets{0, 1, 2, 3}));
  EXPECT_EQ(first(2, true), (Offsets{0, 1, 3}));
}

TEST(NearMax, TakesEverythingWithinTheSlackOfTheBest) {
  EXPECT_EQ(first_commits("near_max", {{"threshold", .9}}, {.600000f, .599995f, .5999f, .5f}), (Offsets{0, 1}));
}

TEST(NearMax, RowsThatPreferTheMaskDoNotRaiseTheBar) {
  // The model gives the mask .7, .6 and .6 there; what is left for a token is less than position 1 has.
  EXPECT_EQ(first_commits("dinfer_threshold", {{"threshold", .65}}, {.2f, .5f, .3f, .3f}), (Offsets{1}));
}

TEST(NearMax, FirstForwardOnT1) {
  EXPECT_EQ(t1_first("near_max", {{"confidence_threshold", .95}}), (Offsets{3}));
  EXPECT_EQ(t1_first("near_max", {{"confidence_threshold", .8}}), (Offsets{1, 3}));
}

TEST(Hierarchical, TakesTheMaximumOfEveryRunOfMasks) {
  const std::vector<float> confidences = {.5f, .45f, -1, .35f, .92f, .60f};
  EXPECT_EQ(first_commits("hierarchical", {{"low_threshold", .4}, {"threshold", .9}}, confidences), (Offsets{0, 4}));
  EXPECT_EQ(first_commits("hierarchical", {{"low_threshold", .4}, {"threshold", .5}}, confidences), (Offsets{0, 4, 5}));
}

TEST(Hierarchical, TakesTheSurestPositionWhenNoMaximumIsHighEnough) {
  EXPECT_EQ(first_commits("dinfer_hierarchy", {}, {.35f, .34f, -1, .39f, .38f, .37f}), (Offsets{3}));
}

TEST(Hierarchical, TakesEqualMaximaTogether) {
  EXPECT_EQ(first_commits("hierarchical", {}, {.5f, .5f, .5f, .45f}), (Offsets{0, 1, 2}));
}

}  // namespace
}  // namespace pydllm::decode
