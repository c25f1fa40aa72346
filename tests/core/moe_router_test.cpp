// Routers against their formulas in float64, one token (or block) at a time, and the properties that are promised.
#include "ops/moe_router.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using ops::RouterRule;
using ops::RouterScore;
using ops::SequenceSpan;

struct Routed {
  Tensor experts, weights;
  std::vector<int32_t> row(int64_t t) const {
    const int32_t* first = experts.data<int32_t>() + t * experts.size(1);
    return {first, first + experts.size(1)};
  }
};

Routed route(const Tensor& logits, const RouterRule& rule, const Tensor& bias = {},
             const std::vector<SequenceSpan>& sequences = {}, int threads = 1) {
  CpuRunner cpu(threads);
  Routed out{Tensor::empty({logits.size(0), rule.experts_per_token}, DType::kI32),
             Tensor::empty({logits.size(0), rule.experts_per_token}, DType::kF32)};
  ops::route(cpu.context, logits, bias, rule, sequences, out.experts, out.weights);
  return out;
}

std::vector<double> scores_of(const Tensor& logits, int64_t row, RouterScore score) {
  std::vector<double> out;
  double sum = 0;
  for (int64_t e = 0; e < logits.size(1); ++e) {
    const double x = at(logits, row * logits.size(1) + e);
    out.push_back(score == RouterScore::kSoftmax ? std::exp(x) : 1 / (1 + std::exp(-x)));
    sum += out.back();
  }
  for (double& value : out) value = score == RouterScore::kSoftmax ? value / sum : value;
  return out;
}

// The k largest by selection, the earliest of equals first.
std::vector<int32_t> largest(std::vector<double> values, int k) {
  std::vector<int32_t> out;
  for (int i = 0; i < k; ++i) {
    out.push_back(static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin()));
    values[static_cast<size_t>(out.back())] = -std::numeric_limits<double>::infinity();
  }
  return out;
}

void expect_weights(const Routed& routed, int64_t t, const std::vector<double>& scores, const RouterRule& rule) {
  double sum = 0;
  for (const int32_t expert : routed.row(t)) sum += scores[static_cast<size_t>(expert)];
  for (int64_t i = 0; i < rule.experts_per_token; ++i) {
    const double score = scores[static_cast<size_t>(routed.row(t)[static_cast<size_t>(i)])];
    const double expected = score / (rule.normalize ? sum : 1) * static_cast<double>(rule.scale);
    ASSERT_NEAR(at(routed.weights, t * rule.experts_per_token + i), expected, 3e-7 * expected);
  }
}

class SoftmaxRouter : public ::testing::TestWithParam<bool> {};

TEST_P(SoftmaxRouter, TakesTheLargestProbabilitiesWithOrWithoutRenormalisation) {
  const RouterRule rule{.experts_per_token = 8, .normalize = GetParam(), .scale = 1.5f};
  const Tensor logits = random_tensor({19, 128}, 3, 2);
  const Routed routed = route(logits, rule);
  for (int64_t t = 0; t < 19; ++t) {
    const std::vector<double> scores = scores_of(logits, t, RouterScore::kSoftmax);
    ASSERT_EQ(routed.row(t), largest(scores, 8));
    expect_weights(routed, t, scores, rule);
  }
}
INSTANTIATE_TEST_SUITE_P(Renormalised, SoftmaxRouter, ::testing::Bool());

// LLaDA2.0 and 2.1: sigmoid, bias for the choice only, 4 of 8 groups by the sum of their two best.
TEST(SigmoidRouter, ChoosesWithinTheBestGroupsByBiasedScoresAndWeighsByUnbiasedOnes) {
  const RouterRule rule{RouterScore::kSigmoid, 8, true, 2.5f, 8, 4};
  const Tensor logits = random_tensor({23, 64}, 5), bias = random_tensor({64}, 6, 0.3f);
  const Routed routed = route(logits, rule, bias);
  for (int64_t t = 0; t < 23; ++t) {
    const std::vector<double> scores = scores_of(logits, t, RouterScore::kSigmoid);
    std::vector<double> choice = scores, groups;
    for (size_t e = 0; e < 64; ++e) choice[e] += at(bias, static_cast<int64_t>(e));
    for (size_t g = 0; g < 8; ++g) {
      std::vector<double> members(choice.begin() + static_cast<std::ptrdiff_t>(8 * g),
                                  choice.begin() + static_cast<std::ptrdiff_t>(8 * g + 8));
      std::sort(members.rbegin(), members.rend());
      groups.push_back(members[0] + members[1]);
    }
    const std::vector<int32_t> kept = largest(groups, 4);
    for (size_t e = 0; e < 64; ++e) {
      if (std::find(kept.begin(), kept.end(), static_cast<int32_t>(e / 8)) == kept.end()) choice[e] = -1e9;
    }
    ASSERT_EQ(routed.row(t), largest(choice, 8));
    expect_weights(routed, t, scores, rule);
  }
}

// LLaDA2.2: the experts of a block are the `capacity` ones with the best maximum over its tokens.
TEST(BlockRouter, ChoosesAmongTheExpertsThatTheBlockKeeps) {
  const RouterRule rule{RouterScore::kSigmoid, 4, true, 2.5f, 1, 1, 6, 8};
  const Tensor logits = random_tensor({32, 24}, 7), bias = random_tensor({24}, 8, 0.2f);
  const std::vector<SequenceSpan> spans = {{0, 24, 24, {}, 0, 8}, {24, 8, 16, {}, 8, 8}};
  const Routed routed = route(logits, rule, bias, spans);
  for (int64_t block = 0; block < 4; ++block) {
    std::vector<double> maximum(24, -1e9);
    for (int64_t t = 8 * block; t < 8 * block + 8; ++t) {
      for (size_t e = 0; e < 24; ++e) {
        const double r = scores_of(logits, t, rule.score)[e] + at(bias, static_cast<int64_t>(e));
        maximum[e] = std::max(maximum[e], r);
      }
    }
    const std::vector<int32_t> allowed = largest(maximum, 6);
    for (int64_t t = 8 * block; t < 8 * block + 8; ++t) {
      const std::vector<double> scores = scores_of(logits, t, rule.score);
      std::vector<double> choice(24, -1e9);
      for (const int32_t e : allowed) choice[static_cast<size_t>(e)] = scores[static_cast<size_t>(e)] + at(bias, e);
      ASSERT_EQ(routed.row(t), largest(choice, 4));
      expect_weights(routed, t, scores, rule);
    }
  }
}

TEST(Router, ExactTiesGoToTheLowerExpertAndGroup) {
  const Tensor equal = Tensor::zeros({1, 16}, DType::kF32);
  EXPECT_EQ(route(equal, {.experts_per_token = 3}).row(0), (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(route(equal, {RouterScore::kSigmoid, 5, true, 1, 4, 2}).row(0), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  const std::vector<SequenceSpan> span = {{0, 1, 1, {}, 0, 1}};
  EXPECT_EQ(route(equal, {RouterScore::kSigmoid, 2, true, 1, 1, 1, 3, 1}, {}, span).row(0),
            (std::vector<int32_t>{0, 1}));
}

TEST(Router, ARowIsTheSameAloneAndInABatchOnAnyNumberOfThreads) {
  const RouterRule rule{RouterScore::kSigmoid, 8, true, 2.5f, 8, 4};
  const Tensor logits = random_tensor({200, 256}, 9);
  const Routed all = route(logits, rule, {}, {}, 3);
  for (const int64_t t : {0, 77, 199}) {
    const Routed alone = route(logits.rows(t, 1), rule);
    EXPECT_TRUE(same_bits(alone.experts, all.experts.rows(t, 1)));
    EXPECT_TRUE(same_bits(alone.weights, all.weights.rows(t, 1)));
  }
}

TEST(Router, WhatIsNoNumberRanksLastAndStaysInItsRow) {
  Tensor logits = random_tensor({3, 8}, 10);
  const Routed clean = route(logits, {RouterScore::kSigmoid, 2});
  for (int64_t e = 8; e < 15; ++e) logits.data<float>()[e] = NAN;
  const Routed spoilt = route(logits, {RouterScore::kSigmoid, 2});
  EXPECT_EQ(spoilt.row(1), (std::vector<int32_t>{7, 0}));
  EXPECT_EQ(spoilt.row(0), clean.row(0));
  EXPECT_EQ(spoilt.row(2), clean.row(2));
}

TEST(Router, BadRulesAndPartialBlocksAreInternalErrors) {
  const Tensor logits = random_tensor({8, 12}, 11);
  EXPECT_INTERNAL_ERROR(route(logits, {.experts_per_token = 13}), "experts_per_token: expected 1 to 12");
  EXPECT_INTERNAL_ERROR(route(logits, {.groups = 5}), "groups: expected a divisor of 12");
  EXPECT_INTERNAL_ERROR(route(logits, {.groups = 12}), "groups: expected at least 2");
  EXPECT_INTERNAL_ERROR(route(logits, {.experts_per_token = 4, .groups = 4}), "groups_kept: expected 1 to 4");
  const RouterRule blocks{.experts_per_token = 2, .block_capacity = 3, .block_length = 4};
  EXPECT_INTERNAL_ERROR(route(logits, blocks, {}, {{{0, 8, 8, {}, 2, 4}}}), "expected whole blocks of 4");
  EXPECT_INTERNAL_ERROR(route(logits, blocks, {}, {{{0, 4, 4, {}, 0, 4}}}), "expected 8 tokens, got 4");
}

}  // namespace
}  // namespace pydllm
