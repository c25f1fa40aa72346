// The emulated router against the CPU op, which is held against the formulas: the same experts, weights to the last bit
// but one.
#include <bit>

#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/moe_router.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using ops::RouterRule;
using ops::RouterScore;

struct Routed {
  Tensor experts, weights;
};

Routed on_cpu(const Tensor& logits, const Tensor& bias, const RouterRule& rule) {
  CpuRunner cpu;
  const auto tokens = static_cast<int32_t>(logits.size(0));
  Routed out{Tensor::empty({tokens, rule.experts_per_token}, DType::kI32),
             Tensor::empty({tokens, rule.experts_per_token}, DType::kF32)};
  const ops::SequenceSpan whole{0, tokens, tokens, {}, 0, rule.block_length};
  ops::route(cpu.context, logits, bias, rule, {&whole, 1}, out.experts, out.weights);
  return out;
}

Routed emulated(const Tensor& logits, const Tensor& bias, const RouterRule& rule) {
  const int64_t tokens = logits.size(0), experts = logits.size(1), kept = rule.experts_per_token;
  const auto x = on_device<float>("logits", logits);
  const auto device_bias = bias.defined() ? on_device<float>("bias", bias) : nullptr;
  Buffer<int32_t> choice("choice", static_cast<size_t>(tokens * kept));
  Buffer<float> weights("weights", static_cast<size_t>(tokens * kept));
  ops::cuda::moe_router(x->data(), bias.defined() ? device_bias->data() : nullptr, tokens, experts, rule, choice.data(),
                        weights.data(), nullptr);
  return {to_host(choice, {tokens, kept}), to_host(weights, {tokens, kept})};
}

bool within_one_ulp(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) == std::isnan(b);
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - int64_t{std::bit_cast<int32_t>(b)}) <= 1;
}

void expect_like_the_cpu(const Tensor& logits, const Tensor& bias, const RouterRule& rule) {
  const Routed expected = on_cpu(logits, bias, rule), actual = emulated(logits, bias, rule);
  for (int64_t i = 0; i < expected.experts.numel(); ++i) {
    ASSERT_EQ(actual.experts.data<int32_t>()[i], expected.experts.data<int32_t>()[i])
        << "choice " << i << " of " << logits.size(0) << " x " << logits.size(1);
    ASSERT_TRUE(within_one_ulp(actual.weights.data<float>()[i], expected.weights.data<float>()[i]))
        << "weight " << i << ": " << at(actual.weights, i) << ", expected " << at(expected.weights, i);
  }
}

// Values of a few steps only, so that many scores are exactly equal.
Tensor coarse(Tensor x, float step) {
  for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = step * std::round(x.data<float>()[i] / step);
  return x;
}

RouterRule with_blocks(int32_t capacity, int32_t length) {
  return {.score = RouterScore::kSigmoid,
          .experts_per_token = 4,
          .normalize = true,
          .scale = 2.5f,
          .block_capacity = capacity,
          .block_length = length};
}

TEST(CudaMoeRouter, ChoosesAndWeighsLikeTheCpuForEveryNumberOfExperts) {
  for (const int32_t experts : {1, 2, 31, 32, 33, 64, 65, 300}) {
    const Tensor logits = random_tensor({19, experts}, 3, 2), bias = random_tensor({experts}, 4, 0.3f);
    for (const RouterScore score : {RouterScore::kSoftmax, RouterScore::kSigmoid}) {
      const int32_t kept = std::min(8, experts);
      expect_like_the_cpu(logits, {}, {.score = score, .experts_per_token = kept});
      expect_like_the_cpu(logits, bias, {.score = score, .experts_per_token = kept, .normalize = true, .scale = 2.5f});
    }
  }
}

TEST(CudaMoeRouter, EveryNumberOfRowsAndOfChosenExperts) {
  for (const int64_t tokens : {1, 7, 8, 9, 20}) {
    for (const int32_t kept : {1, 40}) {
      expect_like_the_cpu(random_tensor({tokens, 40}, 5), {}, {.experts_per_token = kept, .normalize = true});
    }
  }
}

TEST(CudaMoeRouter, KeepsTheBestGroupsByTheirTwoBestExperts) {
  for (const int32_t groups : {2, 4, 8, 32}) {
    const int32_t kept = std::max(1, groups / 2);
    const RouterRule rule{RouterScore::kSigmoid, 8, true, 2.5f, groups, kept};
    expect_like_the_cpu(random_tensor({40, 64}, 5), random_tensor({64}, 6, 0.3f), rule);
    expect_like_the_cpu(random_tensor({40, 64}, 7), {}, rule);
  }
  // More groups than a warp has lanes.
  expect_like_the_cpu(random_tensor({5, 132}, 8), {}, {RouterScore::kSigmoid, 5, false, 1, 66, 40});
}

TEST(CudaMoeRouter, ABlockOfTokensKeepsTheExpertsThatRankBestInIt) {
  for (const int32_t length : {1, 7, 8, 9, 32}) {
    expect_like_the_cpu(random_tensor({3 * length, 70}, 9), random_tensor({70}, 10, 0.2f), with_blocks(12, length));
  }
  expect_like_the_cpu(random_tensor({32, 256}, 9), {}, with_blocks(48, 32));
  expect_like_the_cpu(random_tensor({32, 24}, 9), {}, with_blocks(24, 16));
}

TEST(CudaMoeRouter, ExactTiesGoToTheLowerExpertAndGroup) {
  const Tensor logits = coarse(random_tensor({64, 64}, 11), 1), bias = coarse(random_tensor({64}, 12, 0.3f), 0.25f);
  for (const Tensor& used : {Tensor{}, bias}) {
    expect_like_the_cpu(logits, used, {.experts_per_token = 8});
    expect_like_the_cpu(logits, used, {RouterScore::kSigmoid, 8, true, 2.5f, 8, 4});
    expect_like_the_cpu(logits, used, with_blocks(20, 16));
  }
  const Routed equal = emulated(Tensor::zeros({1, 16}, DType::kF32), {}, {RouterScore::kSigmoid, 5, true, 1, 4, 2});
  for (int32_t i = 0; i < 5; ++i) EXPECT_EQ(equal.experts.data<int32_t>()[i], i);
}

TEST(CudaMoeRouter, WhatIsNoNumberRanksLastAndStaysInItsRow) {
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    Tensor logits = random_tensor({32, 12}, 13);
    for (int64_t e = 0; e < 11; ++e) logits.data<float>()[12 + e] = value;
    logits.data<float>()[24] = logits.data<float>()[47] = value;
    expect_like_the_cpu(logits, {}, {.experts_per_token = 3, .normalize = true});
    expect_like_the_cpu(logits, {}, {RouterScore::kSigmoid, 3});
    expect_like_the_cpu(logits, {}, {RouterScore::kSigmoid, 3, true, 1, 4, 2});
    expect_like_the_cpu(logits, {}, with_blocks(6, 8));
  }
}

TEST(CudaMoeRouter, ARowIsTheSameAloneAndInABatch) {
  const RouterRule rule{RouterScore::kSoftmax, 8, true};
  const Tensor logits = random_tensor({50, 128}, 14);
  const Routed all = emulated(logits, {}, rule);
  for (const int64_t t : {0, 23, 49}) {
    const Routed alone = emulated(logits.rows(t, 1), {}, rule);
    EXPECT_TRUE(same_bits(alone.experts, all.experts.rows(t, 1)));
    EXPECT_TRUE(same_bits(alone.weights, all.weights.rows(t, 1)));
  }
}

TEST(CudaMoeRouter, AsManyExpertsAsAModelMayHaveFitInSharedMemory) {
  expect_like_the_cpu(random_tensor({2, 4096}, 15), {}, {.score = RouterScore::kSigmoid, .experts_per_token = 2});
  expect_like_the_cpu(random_tensor({1, 4096}, 15), {}, {RouterScore::kSigmoid, 2, true, 1, 256, 1});
}

TEST(CudaMoeRouter, PartialBlocksAndTooManyExpertsAreInternalErrors) {
  EXPECT_INTERNAL_ERROR(emulated(random_tensor({9, 8}, 1), {}, with_blocks(4, 8)),
                        "moe_router: expected whole blocks of 8 tokens, got 9");
  EXPECT_INTERNAL_ERROR(emulated(random_tensor({1, 8192}, 1), {}, {}), "with 8192 experts");
}

}  // namespace
}  // namespace pydllm
