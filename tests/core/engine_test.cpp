// What the engine answers, how a request ends, what its events say.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <thread>

#include "engine_harness.h"

namespace pydllm::engine {
namespace {

const std::vector<std::string> kAlgorithms = {"llada_schedule", "confidence_threshold", "entropy_threshold"};

// --- what a request produces ---

// Confidence threshold decoding written out from its definition, in float64, one request, no engine.
std::vector<int32_t> threshold_decode(std::vector<int32_t> canvas, int32_t prompt, int32_t block, double threshold) {
  const fake::Behaviour behaviour;
  const auto length = static_cast<int32_t>(canvas.size());
  std::vector<bool> masked(canvas.size(), false);
  std::fill(masked.begin() + prompt, masked.end(), true);
  for (int32_t begin = prompt; begin < length; begin += block) {
    const int32_t end = std::min(begin + block, length);
    while (std::any_of(masked.begin() + begin, masked.begin() + end, [](bool m) { return m; })) {
      const uint64_t hash = fake::hash_of(canvas);
      std::vector<std::pair<double, std::pair<int32_t, int32_t>>> found;  // confidence, (position, token)
      for (int32_t position = begin; position < end; ++position) {
        if (!masked[static_cast<size_t>(position)]) continue;
        double total = 0, best = -1;
        int32_t token = -1;
        for (int32_t id = 0; id < behaviour.vocab; ++id) {
          const double weight = std::exp(static_cast<double>(fake::logit(behaviour, hash, position, id)));
          total += weight;
          if (id != kMask && weight > best) best = weight, token = id;
        }
        found.push_back({best / total, {position, token}});
      }
      const double highest = std::max_element(found.begin(), found.end())->first;
      for (const auto& [confidence, write] : found) {
        if (confidence < threshold && confidence < highest) continue;
        canvas[static_cast<size_t>(write.first)] = write.second;
        masked[static_cast<size_t>(write.first)] = false;
      }
    }
  }
  return {canvas.begin() + prompt, canvas.end()};
}

TEST(Engine, DecodesWhatTheDefinitionOfTheAlgorithmSays) {
  Client client;
  for (const int32_t length : {1, 7, 8, 9, 30}) {
    std::vector<int32_t> canvas = {5, 17, 3, 3};
    canvas.resize(static_cast<size_t>(4 + length), kMask);
    const Stream stream = client.run(ask({5, 17, 3, 3}, length, "confidence_threshold",
                                         {{"block_length", int64_t{8}}, {"confidence_threshold", 0.6}}));
    EXPECT_EQ(stream.tokens(), threshold_decode(canvas, 4, 8, 0.6)) << length;
    EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  }
  client.expect_clean();
}

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<int32_t> block_ends;
  int32_t passes = 0;
  FinishReason reason = FinishReason::kLength;
  bool operator==(const Answer&) const = default;
};

Answer answer_of(const Stream& stream) {
  Answer answer{stream.tokens(), {}, stream.end().forward_passes, stream.end().finish_reason};
  for (const BlockDone& block : stream.blocks()) answer.block_ends.push_back(block.end);
  EXPECT_EQ(stream.end().kind, EventKind::kFinished) << stream.end().message;
  return answer;
}

TEST(Engine, AnAnswerIsTheSameAloneWithFifteenNeighboursAndAfterARestart) {
  std::vector<Answer> alone;
  Client single;
  for (uint32_t seed = 0; seed < 16; ++seed) alone.push_back(answer_of(single.run(random_request(seed))));
  for (const int32_t budget : {1, 64, 300, 4096}) {
    Gate gate;
    EngineOptions options = fake_options();
    options.max_batched_tokens = budget;
    options.pages = budget == 64 ? 40 : 256;  // also with requests waiting for pages
    options.max_logit_rows = budget == 300 ? 2 : 32;
    Client client(holding(gate), options);
    std::vector<RequestId> ids;
    for (uint32_t seed = 0; seed < 16; ++seed) ids.push_back(client.submit(random_request(seed)));
    gate.open();
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(answer_of(client.stream(ids[i])), alone[i]) << "request " << i << ", budget " << budget;
    }
    client.expect_clean();
  }
}

TEST(Engine, SnapshotsOnlyFillMasksAndEndAsTheFinalBlock) {
  Client client;
  for (uint32_t seed = 100; seed < 130; ++seed) {
    Request request = random_request(seed);
    request.snapshots = true;
    const int32_t max_tokens = request.max_tokens;
    const Stream stream = client.run(request);
    std::vector<int32_t> shown(static_cast<size_t>(max_tokens), -1);
    int32_t snapshots = 0;
    for (const Event& event : stream.events) {
      if (event.kind != EventKind::kStep) continue;
      ++snapshots;
      for (size_t i = 0; i < event.snapshot_tokens.size(); ++i) {
        int32_t& before = shown[static_cast<size_t>(event.snapshot_offset) + i];
        EXPECT_TRUE(before == -1 || before == event.snapshot_tokens[i]) << "a shown token changed";
        before = event.snapshot_tokens[i];
      }
    }
    EXPECT_EQ(snapshots, stream.end().forward_passes) << "one snapshot per step";
    const std::vector<int32_t> tokens = stream.tokens();
    shown.resize(tokens.size());
    EXPECT_EQ(shown, tokens);
    const BlockDone last = stream.blocks().back();
    const Event& step = stream.events[stream.events.size() - 2];
    EXPECT_EQ(step.snapshot_offset + static_cast<int32_t>(step.snapshot_tokens.size()), last.end);
    EXPECT_EQ(step.snapshot_step, last.denoise_steps - 1);
  }
}

// Softmax of the fake model's logits for one position of a canvas, in float64.
double probability(const std::vector<int32_t>& canvas, int32_t position, int32_t token) {
  const fake::Behaviour behaviour;
  const uint64_t hash = fake::hash_of(canvas);
  double total = 0;
  for (int32_t id = 0; id < behaviour.vocab; ++id) {
    total += std::exp(static_cast<double>(fake::logit(behaviour, hash, position, id)));
  }
  return std::exp(static_cast<double>(fake::logit(behaviour, hash, position, token))) / total;
}

TEST(Engine, ASnapshotsConfidencesAreTheProbabilitiesInTheForwardThatWroteEachToken) {
  Client client;
  int written = 0, kept = 0;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Request request = random_request(seed);
    if (!request.params.empty() && request.params.back().first == "cfg_scale") continue;
    request.frequency_penalty = 0, request.repetition_penalty = 1, request.logit_bias = {}, request.min_tokens = 0;
    request.snapshots = request.trace = true;
    const auto prompt = static_cast<int32_t>(request.prompt.size());
    const Stream stream = client.run(request);
    std::map<int32_t, float> shown;  // by position, of what was already there
    for (const Event& event : stream.events) {
      if (event.kind != EventKind::kStep) continue;
      ASSERT_EQ(event.snapshot_confidences.size(), event.snapshot_tokens.size());
      for (size_t i = 0; i < event.snapshot_tokens.size(); ++i) {
        const int32_t token = event.snapshot_tokens[i];
        const int32_t position = prompt + event.snapshot_offset + static_cast<int32_t>(i);
        const float confidence = event.snapshot_confidences[i];
        if (token < 0) {
          EXPECT_EQ(confidence, 0);
        } else if (shown.contains(position)) {
          EXPECT_EQ(confidence, shown[position]) << "it stays what it was";
          ++kept;
        } else {
          EXPECT_NEAR(confidence, probability(event.canvas_before, position, token), 1e-5) << "seed " << seed;
          shown[position] = confidence;
          ++written;
        }
      }
    }
  }
  EXPECT_GT(written, 100);
  EXPECT_GT(kept, 100);
}

TEST(Engine, BlocksAreReportedWithTheStepsTheyTook) {
  Client client;
  const Stream stream =
      client.run(ask({1}, 10, "llada_schedule", {{"block_length", int64_t{4}}, {"steps", int64_t{5}}}));
  const std::vector<BlockDone> blocks = stream.blocks();
  ASSERT_EQ(blocks.size(), 3u);
  EXPECT_EQ(blocks[1].block_index, 1);
  EXPECT_EQ(blocks[1].begin, 4);
  EXPECT_EQ(blocks[1].end, 8);
  EXPECT_EQ(blocks[2].end, 10);
  EXPECT_EQ(blocks[0].denoise_steps + blocks[1].denoise_steps + blocks[2].denoise_steps, 5);
  EXPECT_EQ(stream.end().forward_passes, 5);
  EXPECT_EQ(stream.end().denoise_steps, 5);
}

TEST(Engine, AFixedScheduleRunsItsIdleStepsAndReportsNoBlockTwice) {
  Client client;
  const Stream stream = client.run(ask({1}, 4, "llada_schedule", {{"steps", int64_t{9}}}));
  EXPECT_EQ(stream.end().forward_passes, 9);
  EXPECT_EQ(stream.blocks().size(), 1u);
  EXPECT_EQ(stream.tokens().size(), 4u);
}

// --- how a request ends ---

// Everything is decided in the first forward: generated tokens 20, 21, 22, ...
fake::Behaviour counting(int32_t prompt, int32_t max_tokens) {
  fake::Behaviour behaviour;
  for (int32_t i = 0; i < max_tokens; ++i) behaviour.wanted[prompt + i] = 20 + i;
  return behaviour;
}

Stream run_counting(std::vector<int32_t> eos, std::vector<int32_t> stop, decode::ParamMap params = {}) {
  Client client(counting(3, 8));
  Request request = ask({22, kMask, 23}, 8, "confidence_threshold", std::move(params));
  request.eos_token_ids = std::move(eos);
  request.stop_token_ids = std::move(stop);
  return client.run(request);
}

TEST(Engine, TheFirstEosAmongFinalTokensEndsTheRequestAndIsTheLastToken) {
  const Stream stream = run_counting({24, 22}, {});
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  EXPECT_EQ(stream.end().stop_token_id, 22);
  EXPECT_EQ(stream.tokens(), (std::vector<int32_t>{20, 21, 22}));
}

TEST(Engine, AStopIdEndsTheRequestWithItsOwnReason) {
  const Stream stream = run_counting({24}, {21, 23});
  EXPECT_TRUE(stream.finished_with(FinishReason::kStopToken));
  EXPECT_EQ(stream.end().stop_token_id, 21);
  EXPECT_EQ(stream.tokens(), (std::vector<int32_t>{20, 21}));
}

TEST(Engine, AnIdThatIsBothEosAndStopCountsAsEos) {
  EXPECT_TRUE(run_counting({21}, {21}).finished_with(FinishReason::kStop));
}

TEST(Engine, WithoutEosIdsTheWholeCanvasIsReturned) {
  const Stream stream = run_counting({}, {});
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  EXPECT_EQ(stream.end().stop_token_id, -1);
  EXPECT_EQ(stream.tokens(), (std::vector<int32_t>{20, 21, 22, 23, 24, 25, 26, 27}));
}

TEST(Engine, AStopInsideABlockCutsTheBlockThere) {
  const Stream stream = run_counting({24}, {}, {{"block_length", int64_t{3}}});
  const std::vector<BlockDone> blocks = stream.blocks();
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[1].begin, 3);
  EXPECT_EQ(blocks[1].end, 5);
}

TEST(Engine, AnEosAfterAMaskDoesNotEndTheRequestYet) {
  fake::Behaviour behaviour;
  behaviour.wanted[1 + 7] = 33;  // the surest position is the last one
  Client client(behaviour);
  Request request = ask({1}, 8, "llada_schedule");
  request.eos_token_ids = {33};
  const Stream stream = client.run(request);
  const std::vector<int32_t> tokens = stream.tokens();
  const auto first = std::find(tokens.begin(), tokens.end(), 33);
  ASSERT_NE(first, tokens.end());
  EXPECT_EQ(first + 1, tokens.end()) << "tokens after the EOS";
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  EXPECT_GT(stream.end().forward_passes, 1);
}

TEST(Engine, MaskAndEosIdsInThePromptAreData) {
  Client client;
  Request request = ask({7, kMask, 9, kMask}, 6);
  request.eos_token_ids = {7, 9};
  std::vector<int32_t> canvas = request.prompt;
  canvas.resize(10, kMask);
  const std::vector<int32_t> expected = threshold_decode(canvas, 4, 32, 0.9);
  if (std::ranges::find(expected, 7) != expected.end() || std::ranges::find(expected, 9) != expected.end()) {
    FAIL() << "the fake model generated an EOS: choose another prompt";
  }
  EXPECT_EQ(client.run(request).tokens(), expected);
}

TEST(Engine, AModelThatLovesTheMaskFinishesWithoutOne) {
  fake::Behaviour behaviour;
  behaviour.loved_token = kMask;
  Client client(behaviour);
  for (const std::string& algorithm : kAlgorithms) {
    const Stream stream = client.run(ask({1, 2}, 20, algorithm));
    const std::vector<int32_t> tokens = stream.tokens();
    EXPECT_TRUE(stream.finished_with(FinishReason::kLength)) << algorithm;
    EXPECT_EQ(tokens.size(), 20u);
    EXPECT_EQ(std::ranges::find(tokens, kMask), tokens.end()) << algorithm;
    EXPECT_LE(stream.end().forward_passes, 20);
  }
}

TEST(Engine, AStepLimitReturnsThePrefixThatIsFinalAtEveryValue) {
  Client client;
  Request request = ask({4, 5}, 12, "llada_schedule", {{"block_length", int64_t{6}}});
  request.snapshots = true;  // an event per step
  const Stream full = client.run(request);
  ASSERT_EQ(full.end().forward_passes, 12);
  request.snapshots = false;
  std::vector<int32_t> prefix;
  for (int32_t limit = 1; limit <= 13; ++limit) {
    for (const Event& event : full.events) {
      if (event.kind == EventKind::kStep && event.forward_passes == limit) {
        prefix.insert(prefix.end(), event.final_tokens.begin(), event.final_tokens.end());
      }
    }
    request.max_forward_passes = limit;
    const Stream stream = client.run(request);
    EXPECT_EQ(stream.tokens(), prefix) << limit;
    EXPECT_EQ(stream.end().forward_passes, std::min(limit, 12));
    EXPECT_TRUE(stream.finished_with(limit < 12 ? FinishReason::kStepLimit : FinishReason::kLength)) << limit;
  }
}

TEST(Engine, AStepLimitThatCutsIdleStepsOnlyIsNoCut) {
  Client client;
  Request request = ask({1}, 4, "llada_schedule", {{"steps", int64_t{9}}});
  request.max_forward_passes = 6;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
  EXPECT_EQ(stream.end().forward_passes, 6);
  EXPECT_EQ(stream.tokens().size(), 4u);
}

// --- events and traces ---

bool readable(int fd) {
  pollfd poll_fd{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll_fd, 1, 0) == 1;
}

TEST(Engine, TheDescriptorIsReadableExactlyWhileEventsWait) {
  Client client;
  Engine& engine = client.engine();
  EXPECT_FALSE(readable(engine.event_fd()));
  EXPECT_FALSE(engine.wait(0));
  engine.submit(ask({1}, 4));
  EXPECT_TRUE(engine.wait(60));
  EXPECT_TRUE(readable(engine.event_fd()));
  engine.stop();
  EXPECT_FALSE(engine.drain().empty());
  EXPECT_FALSE(readable(engine.event_fd()));
  EXPECT_TRUE(engine.drain().empty());
}

TEST(Engine, ManyStepsWakeAReaderWhoIsAwayOnce) {
  Client client;
  Request request = ask({1}, 20, "llada_schedule");
  request.snapshots = true;
  client.submit(request);
  while (client.engine().stats().requests_finished == 0) std::this_thread::yield();
  client.engine().stop();
  uint64_t writes = 0;
  ASSERT_EQ(::read(client.engine().event_fd(), &writes, sizeof writes), static_cast<ssize_t>(sizeof writes));
  EXPECT_EQ(writes, 1u);
  EXPECT_EQ(client.engine().drain().size(), 22u);  // started, 20 steps, finished
}

TEST(Engine, ATraceShowsTheCanvasBeforeEveryForwardAndTheFirstLogitsOnce) {
  Client client;
  Request request = ask({3, 4}, 10, "llada_schedule", {{"cfg_scale", 1.0}, {"block_length", int64_t{5}}});
  request.trace = true;
  const Stream stream = client.run(request);
  std::vector<int32_t> canvas = {3, 4};
  canvas.resize(12, kMask);
  int32_t forwards = 0;
  for (const Event& event : stream.events) {
    if (event.kind != EventKind::kStep) continue;
    EXPECT_EQ(event.first_logits.defined(), forwards == 0);
    if (forwards == 0) {
      EXPECT_EQ(event.canvas_before, canvas);
      EXPECT_EQ(event.first_logits.shape(), (std::vector<int64_t>{12, 61}));
    }
    int changes = 0;
    for (size_t i = 0; i < canvas.size(); ++i) changes += event.canvas_before[i] != canvas[i] ? 1 : 0;
    EXPECT_EQ(changes, forwards == 0 ? 0 : 1) << "one commit per step of this schedule";
    canvas = event.canvas_before;
    ++forwards;
  }
  EXPECT_EQ(forwards, 10);
  EXPECT_EQ(stream.end().forward_passes, 10);
}

}  // namespace
}  // namespace pydllm::engine
