// What the engine promises of every registered algorithm, on each kind of model that it runs on, with and without
// shifted logits: it finishes at every length, also where the model wants the mask; a budget of forwards cuts the same
// answer short, and so does a deadline; edits are counted.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <tuple>
#include <utility>

#include "engine_harness.h"
#include "on_models.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kBlock = 4;

std::vector<std::pair<int32_t, int32_t>> ends_of(const std::vector<BlockDone>& blocks) {
  std::vector<std::pair<int32_t, int32_t>> ends;
  for (const BlockDone& block : blocks) ends.emplace_back(block.end, block.denoise_steps);
  return ends;
}

class EveryAlgorithmInTheEngine : public ::testing::TestWithParam<std::tuple<decode::OnModel, bool>> {
 protected:
  const decode::OnModel& on() const { return std::get<0>(GetParam()); }
  const decode::Algorithm& algorithm() const { return *on().algorithm; }

  Client client(int32_t loved_token = -1, std::function<void(const StepInput&)> on_forward = {}) const {
    fake::Behaviour behaviour;
    behaviour.block_length = on().block_causal() ? kBlock : 0;
    behaviour.logit_shift = std::get<1>(GetParam());
    behaviour.loved_token = loved_token;
    behaviour.on_forward = std::move(on_forward);
    EngineOptions options = fake_options();
    options.delete_token_id = kDelete;
    options.split_token_id = kSplit;
    return Client(behaviour, options);
  }

  Request request(int32_t prompt, int32_t max_tokens) const {
    Request request =
        ask(std::vector<int32_t>(static_cast<size_t>(prompt), 3), max_tokens, std::string(algorithm().name));
    if (on().has_param("block_length")) request.params = {{"block_length", int64_t{kBlock}}};
    return request;
  }
};

TEST_P(EveryAlgorithmInTheEngine, AModelThatLovesTheMaskFinishesWithoutOneAtEveryLength) {
  Client loving = client(kMask);
  for (int32_t prompt = 1; prompt <= kBlock; ++prompt) {
    for (int32_t max_tokens = 1; max_tokens <= 3 * kBlock; ++max_tokens) {
      const Stream stream = loving.run(request(prompt, max_tokens));
      const std::vector<int32_t> tokens = stream.tokens();
      ASSERT_TRUE(stream.finished_with(FinishReason::kLength));
      ASSERT_EQ(tokens.size(), static_cast<size_t>(max_tokens));
      EXPECT_EQ(std::ranges::count(tokens, kMask), 0);
    }
  }
  loving.expect_clean();
}

TEST_P(EveryAlgorithmInTheEngine, ABudgetReturnsWhatIsFinalByThenAtEveryValue) {
  Client plain = client();
  for (int32_t prompt = 1; prompt <= kBlock; ++prompt) {
    Request asked = request(prompt, 2 * kBlock + 1);
    asked.snapshots = true;  // an event per step
    const Stream full = plain.run(asked);
    const int32_t steps = full.end().denoise_steps;
    ASSERT_TRUE(full.finished_with(FinishReason::kLength));
    asked.snapshots = false;
    std::vector<int32_t> prefix;
    for (int32_t limit = 1; limit <= steps; ++limit) {
      for (const Event& event : full.events) {
        if (event.kind == EventKind::kStep && event.denoise_steps == limit) {
          prefix.insert(prefix.end(), event.final_tokens.begin(), event.final_tokens.end());
        }
      }
      asked.max_forward_passes = limit;
      const Stream stream = plain.run(asked);
      EXPECT_EQ(stream.tokens(), prefix) << limit;
      EXPECT_EQ(stream.end().denoise_steps, limit);
      const bool whole = prefix.size() == static_cast<size_t>(asked.max_tokens);
      EXPECT_TRUE(stream.finished_with(whole ? FinishReason::kLength : FinishReason::kStepLimit)) << limit;
    }
  }
}

// A deadline that passes during the second forward; a longer one where the engine did not get that far.
TEST_P(EveryAlgorithmInTheEngine, ADeadlineEndsAsABudgetOfTheForwardsUntilThen) {
  Request asked = request(3, 3 * kBlock + 1);
  asked.snapshots = true;
  int forwards = 0;
  Client slow = client(-1, [&](const StepInput&) {
    if (++forwards == 2) std::this_thread::sleep_until(*asked.deadline);
  });
  Stream cut;
  for (auto budget = std::chrono::milliseconds(20); cut.events.empty() || cut.end().denoise_steps < 2; budget *= 2) {
    ASSERT_LT(budget, std::chrono::seconds(20));
    forwards = 0;
    asked.deadline = Clock::now() + budget;
    cut = slow.run(asked);
  }
  Request limited = asked;
  limited.deadline.reset();
  limited.max_forward_passes = cut.end().denoise_steps;
  const Stream expected = client().run(limited);
  EXPECT_EQ(cut.end().denoise_steps, 2);
  EXPECT_EQ(cut.end().kind, EventKind::kFinished);
  EXPECT_EQ(cut.end().finish_reason, expected.end().finish_reason);
  EXPECT_EQ(cut.end().forward_passes, expected.end().forward_passes);
  EXPECT_EQ(cut.tokens(), expected.tokens());
  EXPECT_EQ(ends_of(cut.blocks()), ends_of(expected.blocks()));
  const Event& shown = cut.events.rbegin()[1];
  const Event& wanted = expected.events.rbegin()[1];
  EXPECT_EQ(shown.snapshot_offset, wanted.snapshot_offset);
  EXPECT_EQ(shown.snapshot_step, wanted.snapshot_step);
  EXPECT_EQ(shown.snapshot_tokens, wanted.snapshot_tokens);
  slow.expect_clean();
}

// The canvases of a trace show them: a token of the answer that is another one, or a mask again, after a step.
TEST_P(EveryAlgorithmInTheEngine, EditsAreTheWrittenTokensThatChange) {
  Client plain = client();
  int32_t total = 0;
  for (int32_t prompt = 1; prompt <= 2 * kBlock; ++prompt) {
    Request asked = request(prompt, 3 * kBlock - 1);
    asked.trace = true;
    const Stream stream = plain.run(asked);
    std::vector<std::vector<int32_t>> answers;
    for (const Event& event : stream.events) {
      if (event.canvas_before.empty()) continue;
      const auto begin = event.canvas_before.begin() + prompt;
      answers.emplace_back(begin, begin + asked.max_tokens);
    }
    answers.push_back(stream.tokens());
    int32_t edits = 0;
    for (size_t step = 1; step < answers.size(); ++step) {
      for (size_t i = 0; i < answers[step].size(); ++i) {
        edits += answers[step - 1][i] != kMask && answers[step - 1][i] != answers[step][i];
      }
    }
    EXPECT_EQ(stream.end().edited_tokens, edits);
    total += edits;
  }
  EXPECT_EQ(total > 0, algorithm().finality == decode::Finality::kSettled);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryAlgorithmInTheEngine,
                         ::testing::Combine(::testing::ValuesIn(decode::algorithms_on_models()), ::testing::Bool()),
                         [](const auto& tested) {
                           return std::get<0>(tested.param).name() + (std::get<1>(tested.param) ? "_shifted" : "");
                         });

}  // namespace
}  // namespace pydllm::engine
