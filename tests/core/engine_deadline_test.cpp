// A deadline is a budget of time: when a running request ends, and with what.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "engine/step_times.h"
#include "engine_harness.h"

namespace pydllm::engine {
namespace {

using std::chrono::milliseconds;

// --- how long a step is expected to take ---

StepTimes times(const std::vector<std::pair<int64_t, int>>& steps) {
  StepTimes times;
  for (const auto& [tokens, duration] : steps) times.add(tokens, milliseconds(duration));
  return times;
}

TEST(StepTimes, NothingIsExpectedOfTheFirstStep) {
  EXPECT_EQ(StepTimes().expected(100), Clock::duration::zero());
}

TEST(StepTimes, TheLongestOfTheLastFourOfEqualSizeCounts) {
  EXPECT_EQ(times({{8, 90}, {8, 10}, {8, 30}, {8, 20}}).expected(8), milliseconds(90));
  EXPECT_EQ(times({{8, 90}, {8, 10}, {8, 30}, {8, 20}, {8, 10}}).expected(8), milliseconds(30));
}

TEST(StepTimes, ASmallerStepIsScaledUpAndALargerOneIsNotScaledDown) {
  EXPECT_EQ(times({{8, 10}}).expected(32), milliseconds(40));
  EXPECT_EQ(times({{32, 40}}).expected(8), milliseconds(40));
}

TEST(StepTimes, StepsOfAnotherSizeDoNotCountWhereFourAreNearer) {
  const StepTimes mixed = times({{8, 10}, {8, 11}, {8, 12}, {8, 13}, {4096, 2000}, {4096, 2100}});
  EXPECT_EQ(mixed.expected(8), milliseconds(13));
  EXPECT_EQ(mixed.expected(16), milliseconds(26));
}

TEST(StepTimes, StepsLongAgoAreForgotten) {
  StepTimes steps = times({{8, 500}, {8, 500}, {8, 500}, {8, 500}});
  for (int i = 0; i < 16; ++i) steps.add(1000, milliseconds(1));
  EXPECT_EQ(steps.expected(8), milliseconds(1));
}

// --- what it means for a request ---

// Its forward number `slow` ends at `until` at the earliest; the others take no time.
struct SlowForward {
  int slow = 1;
  Clock::time_point until;
  std::atomic<int> forwards{0};

  fake::Behaviour behaviour() {
    fake::Behaviour behaviour;
    behaviour.on_forward = [this](const StepInput&) {
      if (++forwards == slow) std::this_thread::sleep_until(until);
    };
    return behaviour;
  }
};

Request schedule(int32_t max_tokens) {
  return ask({1}, max_tokens, "llada_schedule", {{"block_length", int64_t{1}}});  // a final token per forward
}

std::vector<int32_t> first_tokens(size_t count) {
  Client client;
  std::vector<int32_t> tokens = client.run(schedule(20)).tokens();
  tokens.resize(count);
  return tokens;
}

TEST(EngineDeadline, PassingDuringAForwardItKeepsWhatTheForwardBrought) {
  for (const int forwards : {1, 3}) {
    SlowForward slow{.slow = forwards, .until = Clock::now() + milliseconds(300)};
    Client client(slow.behaviour());
    Request request = schedule(20);
    request.deadline = slow.until;
    const Stream stream = client.run(request);
    const auto count = static_cast<size_t>(forwards);
    EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
    EXPECT_EQ(stream.end().forward_passes, forwards);
    EXPECT_EQ(stream.end().denoise_steps, forwards);
    EXPECT_EQ(stream.tokens(), first_tokens(count));
    EXPECT_EQ(stream.blocks().size(), count);
    const EngineStats stats = client.engine().stats();
    EXPECT_EQ(stats.requests_finished, 1u);
    EXPECT_EQ(stats.final_tokens, count);
    EXPECT_EQ(stats.blocks_finished, count);
    client.expect_clean();
  }
}

TEST(EngineDeadline, AForwardThatWouldEndTooLateIsNotBegun) {
  const auto deadline = Clock::now() + milliseconds(600);
  SlowForward slow{.until = deadline - milliseconds(200)};  // 400 ms for a forward, 200 ms are left
  Client client(slow.behaviour());
  Request request = schedule(20);
  request.deadline = deadline;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(stream.tokens(), first_tokens(1));
  client.engine().stop();
  EXPECT_EQ(slow.forwards, 1);
}

TEST(EngineDeadline, TheFirstForwardIsTriedWhateverStepsTookBefore) {
  SlowForward slow{.until = Clock::now() + milliseconds(400)};
  Client client(slow.behaviour());
  client.run(schedule(1));
  Request request = schedule(20);
  request.deadline = Clock::now() + milliseconds(300);  // less than the step before took
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(stream.tokens(), first_tokens(1));
}

TEST(EngineDeadline, PassingBeforeTheFirstDenoisingForwardItIsAnError) {
  SlowForward slow{.until = Clock::now() + milliseconds(300)};
  fake::Behaviour behaviour = slow.behaviour();
  behaviour.block_length = 4;
  EngineOptions options = fake_options();
  options.max_batched_tokens = 8;  // the prompt goes in pieces
  Client client(behaviour, options);
  Request request = ask(std::vector<int32_t>(40, 3), 8, "low_confidence");
  request.deadline = slow.until;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.failed_with(FailReason::kDeadlineExceeded));
  EXPECT_EQ(stream.end().message, "the deadline passed before the request's first denoising forward");
  EXPECT_EQ(stream.end().forward_passes, 1);
  client.expect_clean();
}

TEST(EngineDeadline, ARequestThatWaitsForItsTurnEndsInTimeAndTheOthersGoOn) {
  SlowForward slow{.slow = 3, .until = Clock::now() + milliseconds(400)};
  EngineOptions options = fake_options();
  options.max_batched_tokens = 21;  // one request per forward
  Gate both;
  fake::Behaviour behaviour = slow.behaviour();
  behaviour.on_forward = [&both, sleep = behaviour.on_forward](const StepInput& input) {
    both.pass();
    sleep(input);
  };
  Client client(behaviour, options);
  client.submit(schedule(1));  // its forward lasts until both have come, so that they take turns from the start
  both.await_arrival();
  Request hasty = schedule(20);
  hasty.deadline = slow.until;
  const RequestId first = client.submit(hasty);
  const RequestId second = client.submit(schedule(20));
  both.open();
  EXPECT_TRUE(client.stream(first).finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(client.stream(first).tokens(), first_tokens(1));
  EXPECT_TRUE(client.stream(second).finished_with(FinishReason::kLength));
  EXPECT_EQ(client.stream(second).tokens(), first_tokens(20));
  client.expect_clean();
}

TEST(EngineDeadline, AnEndIsToldBeforeTheNextForwardOfOthers) {
  const auto deadline = Clock::now() + milliseconds(300);
  Gate both, third;
  std::atomic<int> forwards{0};
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput&) {
    both.pass();
    if (++forwards == 2) std::this_thread::sleep_until(deadline);
    if (forwards == 3) third.pass();
  };
  Client client(behaviour);
  Request hasty = schedule(20);
  hasty.deadline = deadline;
  const RequestId first = client.submit(hasty);
  const RequestId second = client.submit(schedule(20));
  both.open();
  third.await_arrival();
  EXPECT_TRUE(client.stream(first).finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(client.engine().stats().requests_finished, 1u);
  third.open();
  EXPECT_TRUE(client.stream(second).finished_with(FinishReason::kLength));
  client.expect_clean();
}

TEST(EngineDeadline, OneThatOnlyCutsIdleStepsIsNoCut) {
  SlowForward slow{.slow = 6, .until = Clock::now() + milliseconds(300)};
  Client client(slow.behaviour());
  Request request = ask({1}, 4, "llada_schedule", {{"steps", int64_t{9}}});
  request.deadline = slow.until;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  EXPECT_EQ(stream.end().forward_passes, 6);
  EXPECT_EQ(stream.tokens().size(), 4u);
}

TEST(EngineDeadline, ATraceEndsWithTheCanvasesOfItsForwards) {
  SlowForward slow{.slow = 2, .until = Clock::now() + milliseconds(300)};
  Client client(slow.behaviour());
  Request request = schedule(20);
  request.trace = true;
  request.deadline = slow.until;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
  int canvases = 0;
  for (const Event& event : stream.events) canvases += event.canvas_before.empty() ? 0 : 1;
  EXPECT_EQ(canvases, 2);
  EXPECT_EQ(stream.tokens(), first_tokens(2));
}

}  // namespace
}  // namespace pydllm::engine
