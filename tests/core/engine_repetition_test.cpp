// max_repetition_run: a request ends after so many equal generated tokens in a row.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "engine_harness.h"

namespace pydllm::engine {
namespace {

using Tokens = std::vector<int32_t>;

// Generates `answer` whatever the algorithm and whatever the order of its commits.
fake::Behaviour saying(const Tokens& answer, int32_t prompt_length) {
  fake::Behaviour behaviour;
  for (size_t i = 0; i < answer.size(); ++i) behaviour.wanted[prompt_length + static_cast<int32_t>(i)] = answer[i];
  return behaviour;
}

Request limited(const Tokens& prompt, const Tokens& answer, int32_t run) {
  Request request = ask(prompt, static_cast<int32_t>(answer.size()));
  request.max_repetition_run = run;
  return request;
}

Stream run(const Tokens& prompt, const Tokens& answer, int32_t run) {
  Client client(saying(answer, static_cast<int32_t>(prompt.size())));
  return client.run(limited(prompt, answer, run));
}

TEST(Repetition, TheRunsLastTokenIsTheLastToken) {
  const Stream stream = run({1}, {9, 4, 4, 4, 4, 4, 8}, 3);
  EXPECT_TRUE(stream.finished_with(FinishReason::kRepetition));
  EXPECT_EQ(stream.tokens(), (Tokens{9, 4, 4, 4}));
  EXPECT_EQ(stream.end().stop_token_id, -1);
}

TEST(Repetition, AShorterRunEndsNothing) {
  const Tokens answer = {4, 4, 9, 4, 4, 9, 9, 4, 4};
  const Stream stream = run({1}, answer, 3);
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  EXPECT_EQ(stream.tokens(), answer);
}

TEST(Repetition, ZeroDisables) {
  const Tokens answer(20, 4);
  const Stream stream = run({4, 4}, answer, 0);
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  EXPECT_EQ(stream.tokens(), answer);
}

TEST(Repetition, PromptTokensNeverCount) {
  const Tokens answer = {4, 4, 9, 9};
  EXPECT_EQ(run({4, 4, 4}, answer, 3).tokens(), answer);
  EXPECT_EQ(run({4, 4, 4}, {4, 4, 4, 9}, 3).tokens(), (Tokens{4, 4, 4}));
}

TEST(Repetition, ARunThatFillsTheCanvasIsARepetition) {
  const Stream stream = run({1}, {9, 4, 4}, 2);
  EXPECT_TRUE(stream.finished_with(FinishReason::kRepetition));
  EXPECT_EQ(stream.tokens(), (Tokens{9, 4, 4}));
}

TEST(Repetition, ARunLongerThanTheAnswerEndsNothing) {
  EXPECT_TRUE(run({1}, {4, 4, 4}, 2147483647).finished_with(FinishReason::kLength));
}

TEST(Repetition, WhatComesFirstEnds) {
  const Tokens answer = {4, 4, 7, 5, 5, 5, 6};
  Client client(saying(answer, 1));
  Request request = limited({1}, answer, 3);
  request.eos_token_ids = {7};
  Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  EXPECT_EQ(stream.tokens(), (Tokens{4, 4, 7}));
  request.eos_token_ids = {6};
  stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kRepetition));
  EXPECT_EQ(stream.tokens(), (Tokens{4, 4, 7, 5, 5, 5}));
  request.stop_token_ids = {5};
  stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStopToken)) << "the stop id comes before its own run is complete";
  EXPECT_EQ(stream.tokens(), (Tokens{4, 4, 7, 5}));
}

TEST(Repetition, ASnapshotShowsTheBlockUpToTheRunsEnd) {
  const Tokens answer = {9, 4, 4, 4, 4, 8};
  Client client(saying(answer, 1));
  Request request = limited({1}, answer, 3);
  request.snapshots = true;
  const Stream stream = client.run(request);
  ASSERT_TRUE(stream.finished_with(FinishReason::kRepetition));
  EXPECT_EQ(stream.events[stream.events.size() - 2].snapshot_tokens, (Tokens{9, 4, 4, 4}));
}

// The definition, over the whole answer.
Tokens cut_by_definition(const Tokens& answer, int32_t run) {
  const auto length = static_cast<std::ptrdiff_t>(answer.size());
  for (std::ptrdiff_t end = run; end <= length; ++end) {
    const auto last = answer.begin() + end;
    if (std::all_of(last - run, last, [&](int32_t token) { return token == last[-1]; })) return {answer.begin(), last};
  }
  return answer;
}

TEST(Repetition, RunsAreFoundAcrossStepsAndBlocksInWhateverOrderPositionsBecomeFinal) {
  std::mt19937 random(11);
  int found = 0;
  for (int trial = 0; trial < 120; ++trial) {
    const auto run = static_cast<int32_t>(2 + random() % 6);
    Tokens answer(12 + random() % 30);
    for (int32_t& token : answer) token = random() % 4 == 0 ? 5 : 4;
    Client client(saying(answer, 2));
    Request request = limited({4, 4}, answer, run);
    request.seed = random();
    if (trial % 2 == 0) {
      request.algorithm = "llada_schedule";
      request.params = {{"block_length", static_cast<int64_t>(1 + random() % 9)}, {"remasking", std::string("random")}};
    } else {
      request.params = {{"block_length", static_cast<int64_t>(1 + random() % 9)}};
    }
    const Tokens expected = cut_by_definition(answer, run);
    const bool cut = expected.size() < answer.size();
    const Stream stream = client.run(request);
    EXPECT_EQ(stream.tokens(), expected) << "run " << run;
    EXPECT_TRUE(stream.finished_with(cut ? FinishReason::kRepetition : FinishReason::kLength));
    found += cut ? 1 : 0;
  }
  EXPECT_GT(found, 40);
}

}  // namespace
}  // namespace pydllm::engine
