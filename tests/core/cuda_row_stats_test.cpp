// The emulated row_stats kernels against the CPU op.
#include <algorithm>

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

std::vector<RowStats> emulated(const Tensor& logits, const std::vector<RowSampling>& sampling,
                               const std::vector<int32_t>& forbidden) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const auto x = on_device<float>("logits", logits);
  const auto wishes = on_device("sampling", sampling);
  const auto ids = on_device("forbidden", forbidden);
  Buffer<unsigned char> workspace(
      "workspace", static_cast<size_t>(rows * ops::cuda::row_stats_segments(vocab) * ops::cuda::kRowStatsPartBytes));
  Buffer<RowStats> out("out", sampling.size());
  ops::cuda::row_stats(x->data(), rows, vocab, wishes->data(), ids->data(), static_cast<int32_t>(forbidden.size()),
                       workspace.data(), out.data(), nullptr);
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

TEST(CudaRowStats, WhatTheKernelCannotDoIsRefusedByName) {
  const auto refused = [](const RowSampling& wish) {
    const std::vector<RowSampling> sampling{RowSampling{}, wish};
    return message_of<Unsupported>([&] { ops::cuda::check_row_sampling(sampling); });
  };
  EXPECT_EQ(refused({.top_k = 3}), "sampling[1].top_k: not supported by the CUDA kernel, got 3");
  EXPECT_EQ(refused({.top_p = 0.5f}), "sampling[1].top_p: not supported by the CUDA kernel, got 0.5");
  EXPECT_EQ(refused({.filtered = true}), "sampling[1].filtered: not supported by the CUDA kernel, got true");
  EXPECT_EQ(refused({.min_p = 0.5f}), "sampling[1].min_p: not supported by the CUDA kernel, got 0.5");
  const std::vector<LogitEdit> edits(2);
  const std::vector<int32_t> controls = {3};
  EXPECT_EQ(refused({.edits = edits}), "sampling[1].edits: not supported by the CUDA kernel, got 2");
  EXPECT_EQ(refused({.controls = controls}), "sampling[1].controls: not supported by the CUDA kernel, got 1");
  EXPECT_NO_THROW(ops::cuda::check_row_sampling(std::vector<RowSampling>(2)));
}

}  // namespace
}  // namespace pydllm
