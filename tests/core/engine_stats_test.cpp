// The engine's counters say what its requests did.
#include <gtest/gtest.h>

#include <numeric>

#include "engine_harness.h"

namespace pydllm::engine {
namespace {

TEST(EngineStats, OneRequestsStepsBlocksAndPositionsAddUp) {
  Client client;
  const Stream stream =
      client.run(ask({1, 2, 3}, 10, "llada_schedule", {{"block_length", int64_t{4}}, {"steps", int64_t{5}}}));
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.steps, 5u);
  EXPECT_EQ(stats.request_forwards, 5u);
  EXPECT_EQ(stats.denoise_steps, 5u);
  EXPECT_EQ(stats.blocks_finished, 3u);
  EXPECT_EQ(stats.final_tokens, 10u);
  uint64_t positions = 0;  // blocks of 4, 4 and 2, each as often as it was worked on
  for (const BlockDone& block : stream.blocks()) {
    positions += static_cast<uint64_t>(block.denoise_steps * (block.end - block.begin));
  }
  EXPECT_EQ(stats.canvas_positions, positions);
}

TEST(EngineStats, AnIdleStepOfAScheduleWorksOnTheLastBlock) {
  Client client;
  client.run(ask({1}, 4, "llada_schedule", {{"steps", int64_t{9}}}));
  EXPECT_EQ(client.engine().stats().denoise_steps, 9u);
  EXPECT_EQ(client.engine().stats().canvas_positions, 36u);
  EXPECT_EQ(client.engine().stats().blocks_finished, 1u);
}

TEST(EngineStats, ABlockCutByAnEosIsFinishedAndItsWholeWidthWasWorkedOn) {
  fake::Behaviour behaviour;
  for (int32_t i = 0; i < 8; ++i) behaviour.wanted[1 + i] = 20 + i;
  Client client(behaviour);
  Request request = ask({1}, 8, "confidence_threshold", {{"block_length", int64_t{6}}});
  request.eos_token_ids = {22};
  EXPECT_EQ(client.run(request).tokens().size(), 3u);
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.blocks_finished, 1u);
  EXPECT_EQ(stats.final_tokens, 3u);
  EXPECT_EQ(stats.canvas_positions, 6u);
}

TEST(EngineStats, AStepThatFailedDenoisedNothing) {
  fake::Behaviour behaviour;
  behaviour.nan_token = 13;
  Client client(behaviour);
  EXPECT_TRUE(client.run(ask({13}, 4)).failed_with(FailReason::kInternal));
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.request_forwards, 1u);
  EXPECT_EQ(stats.denoise_steps, 0u);
  EXPECT_EQ(stats.canvas_positions, 0u);
  EXPECT_EQ(stats.forward_batch_sizes[0], 1u) << "the forward itself ran";
}

TEST(EngineStats, AGuidedForwardCountsOnce) {
  Client client;
  client.run(ask({1}, 6, "llada_schedule", {{"cfg_scale", 1.0}}));
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.denoise_steps, 6u);
  EXPECT_EQ(stats.canvas_positions, 36u);
  EXPECT_EQ(stats.forward_batch_sizes[0], 6u);
}

// The bucket of a batch: the smallest power of two that holds it, the last one for what is above 128.
size_t bucket_of(size_t requests) {
  size_t bucket = 0;
  for (size_t bound = 1; bound < requests && bucket < 8; bound *= 2) ++bucket;
  return bucket;
}

TEST(EngineStats, EveryForwardIsInTheBucketOfItsBatchSize) {
  constexpr int32_t kRequests = 130;  // request i takes i steps: the batch shrinks from 130 to 1
  std::vector<size_t> sizes;
  Gate gate;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput& input) {
    gate.pass();
    sizes.push_back(input.sequences.size());
  };
  EngineOptions options = fake_options();
  options.max_model_len = 256;
  options.max_batched_tokens = 1 << 20;
  options.max_running_requests = kRequests;
  options.pages = 4096;
  options.debug_checks = false;
  Client client(behaviour, options);
  std::vector<RequestId> ids;
  for (int32_t i = 1; i <= kRequests; ++i) {
    ids.push_back(client.submit(ask({1}, i, "llada_schedule", {{"block_length", int64_t{1}}})));
  }
  gate.open();
  for (const RequestId id : ids) client.stream(id);
  client.engine().stop();  // the log is the engine thread's until here
  decltype(EngineStats::forward_batch_sizes) expected = {};
  for (const size_t size : sizes) ++expected[bucket_of(size)];
  const EngineStats stats = client.engine().stats();
  EXPECT_EQ(stats.forward_batch_sizes, expected);
  for (const uint64_t count : expected) EXPECT_GT(count, 0u) << "the test covers every bucket";
  EXPECT_EQ(std::accumulate(expected.begin(), expected.end(), uint64_t{0}), stats.steps);
  EXPECT_EQ(std::accumulate(sizes.begin(), sizes.end(), uint64_t{0}), stats.request_forwards);
  EXPECT_EQ(stats.denoise_steps, stats.request_forwards);
  EXPECT_EQ(stats.blocks_finished, static_cast<uint64_t>(kRequests * (kRequests + 1) / 2));
}

}  // namespace
}  // namespace pydllm::engine
