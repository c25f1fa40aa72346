// Infilling: canvases with fixed text between and behind holes, against a decode written out by hand.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/errors.h"
#include "engine_harness.h"
#include "hand_run.h"
#include "tiny_llada.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kHole = -1;

Request fill(std::vector<int32_t> prompt, std::vector<int32_t> rest, std::string algorithm = "confidence_threshold",
             decode::ParamMap params = {}) {
  const auto holes = static_cast<int32_t>(std::ranges::count(rest, kHole));
  Request request = ask(std::move(prompt), holes, std::move(algorithm), std::move(params));
  request.rest = std::move(rest);
  return request;
}

// The answer: from the first hole to the end of the last one.
std::vector<int32_t> answer_of(const Request& request, const std::vector<int32_t>& canvas) {
  size_t last = 0;
  for (size_t i = 0; i < request.rest.size(); ++i) {
    if (request.rest[i] == kHole) last = i + 1;
  }
  const auto begin = canvas.begin() + static_cast<std::ptrdiff_t>(request.prompt.size());
  return {begin, begin + static_cast<std::ptrdiff_t>(last)};
}

// Fast-dLLM's loop over a canvas with holes: blocks of the answer's positions, those without a hole passed over.
std::vector<int32_t> decoded_by_hand(Model& model, const Request& request, const std::string& cache, int32_t block,
                                     float threshold) {
  std::vector<int32_t> x = request.prompt;
  std::vector<bool> open(x.size(), false);
  for (const int32_t token : request.rest) {
    open.push_back(token == kHole);
    x.push_back(token == kHole ? kMask : token);
  }
  const auto prompt = static_cast<int32_t>(request.prompt.size()), length = static_cast<int32_t>(x.size());
  const int32_t answer_end = prompt + static_cast<int32_t>(answer_of(request, x).size());
  HandRun run(model, length, kMask);
  int32_t forwards = 0;
  for (int32_t begin = prompt; begin < answer_end; begin += block) {
    const int32_t end = std::min(begin + block, answer_end);
    for (bool opening = true;; opening = false) {
      std::vector<int32_t> holes;
      for (int32_t i = begin; i < end; ++i) {
        if (open[static_cast<size_t>(i)]) holes.push_back(i);
      }
      if (holes.empty()) break;
      const bool whole = opening || cache == "none";
      const std::vector<RowStats> rows =
          run.step(x, whole ? 0 : begin, whole || cache == "prefix" ? length : end, length, holes, request, forwards++);
      const auto surest = std::ranges::max_element(rows, {}, &RowStats::confidence);
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].confidence < threshold && &rows[i] != &*surest) continue;
        x[static_cast<size_t>(holes[i])] = rows[i].token;
        open[static_cast<size_t>(holes[i])] = false;
      }
    }
  }
  return answer_of(request, x);
}

std::vector<int32_t> random_rest(int32_t seed) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  std::vector<int32_t> rest = {kHole};
  for (uint32_t stretch = 0; stretch < 2 + random() % 4; ++stretch) {
    rest.insert(rest.end(), 1 + random() % 9, kHole);
    for (uint32_t i = random() % 8; i > 0; --i) rest.push_back(static_cast<int32_t>(random() % 61));  // the mask, too
  }
  return rest;
}

TEST(Infill, AnswersAreThoseOfADecodeByHandAloneAndBatched) {
  const TinyLlada checkpoint;
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (int32_t i = 0; i < 18; ++i) {
    const std::string cache = std::vector<std::string>{"none", "prefix", "dual"}[static_cast<size_t>(i % 3)];
    const int32_t block = 2 + i % 5;
    requests.push_back(fill({1, kMask, i}, random_rest(i), "confidence_threshold",
                            {{"cache", cache}, {"block_length", int64_t{block}}, {"confidence_threshold", 0.06}}));
    if (i % 4 == 3) requests.back().temperature = 0.8f, requests.back().seed = 7 + static_cast<uint64_t>(i);
    expected.push_back(decoded_by_hand(*checkpoint.load(DType::kF32), requests.back(), cache, block, 0.06f));
  }
  EngineOptions options = fake_options();
  options.max_batched_tokens = 150;
  Client client(checkpoint.load(DType::kF32), options, 2);
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(client.submit(request));
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(client.stream(ids[i]).tokens(), expected[i]) << "request " << i;
    EXPECT_TRUE(client.stream(ids[i]).finished_with(FinishReason::kLength));
  }
  client.expect_clean();
}

TEST(Infill, TextBehindTheHoleIsSeen) {
  const TinyLlada checkpoint;
  for (const char* cache : {"none", "prefix", "dual"}) {
    Client client(checkpoint.load(DType::kF32), fake_options());
    int different = 0;
    for (int32_t i = 0; i < 8; ++i) {
      Request request = fill({i, 5}, std::vector<int32_t>(12, kHole), "confidence_threshold",
                             {{"cache", std::string(cache)}, {"block_length", int64_t{4}}});
      request.rest.insert(request.rest.end(), {3, 4});
      const std::vector<int32_t> one = client.run(request).tokens();
      request.rest.back() = 40 + i;
      different += client.run(request).tokens() != one;
    }
    EXPECT_GT(different, 4) << cache;
  }
}

// The unconditional lane of guidance hides what was given, behind the hole as well (LLaDA's prompt_index).
TEST(Infill, GuidanceHidesAllFixedTokens) {
  std::vector<std::vector<int32_t>> fed;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) {
      const int32_t* tokens = input.tokens.data<int32_t>() + sequence.query_begin;
      fed.emplace_back(tokens, tokens + sequence.query_length);
    }
  };
  Client client(behaviour);
  client.run(fill({1, 2}, {kHole, 3, kHole, 4}, "llada_schedule", {{"cfg_scale", 0.5}, {"steps", int64_t{1}}}));
  ASSERT_EQ(fed.size(), 2u);
  EXPECT_EQ(fed[0], (std::vector<int32_t>{1, 2, kMask, 3, kMask, 4}));
  EXPECT_EQ(fed[1], std::vector<int32_t>(6, kMask));
}

// Token 9 wins everywhere.
Client eager_to_end() {
  fake::Behaviour behaviour;
  behaviour.loved_token = 9;
  return Client(behaviour);
}

TEST(Infill, AHoleWithTextBehindItTakesNoEnd) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const decode::Algorithm* algorithm : decode::algorithms()) {
      if (!algorithm->attention.contains(AttentionKind::kFull)) continue;
      Client client = eager_to_end();
      Request request = fill({1}, {kHole, kHole, 9, kHole, kHole, 5}, std::string(algorithm->name));
      request.eos_token_ids = {9};
      request.temperature = temperature;
      const Stream stream = client.run(request);
      ASSERT_TRUE(stream.finished_with(FinishReason::kLength)) << algorithm->name;
      const std::vector<int32_t> tokens = stream.tokens();
      ASSERT_EQ(tokens.size(), 5u);
      EXPECT_EQ(std::ranges::count(tokens, 9), 1) << algorithm->name << ": the fixed one is data";
      EXPECT_EQ(tokens[2], 9);
    }
  }
}

TEST(Infill, AnEndInAnOpenLastHoleEndsTheAnswer) {
  Client client = eager_to_end();
  Request request = fill({1}, {kHole, 5, kHole, kHole, kHole});
  request.eos_token_ids = {9};
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  const std::vector<int32_t> tokens = stream.tokens();
  ASSERT_EQ(tokens.size(), 3u);
  EXPECT_NE(tokens[0], 9);
  EXPECT_EQ(tokens[1], 5);
  EXPECT_EQ(tokens[2], 9);
}

TEST(Infill, IgnoreEosFillsHolesWithWhateverTheModelSays) {
  Client client = eager_to_end();
  const Stream stream = client.run(fill({1}, {kHole, kHole, 5}));
  EXPECT_EQ(stream.tokens(), (std::vector<int32_t>{9, 9}));
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
}

TEST(Infill, AStopTokenEndsTheAnswerInAnyHoleAndIsDataInFixedText) {
  Client client = eager_to_end();
  Request request = fill({1}, {kHole, kHole, 9, kHole, 5});
  request.stop_token_ids = {9};
  EXPECT_TRUE(client.run(request).finished_with(FinishReason::kStopToken));
  request.stop_token_ids = {5};
  EXPECT_TRUE(client.run(request).finished_with(FinishReason::kLength));
}

TEST(Infill, FixedTokensBelongToNoRepetition) {
  Client client = eager_to_end();
  Request request = fill({9}, {kHole, kHole, 9, kHole, kHole, 9});
  request.max_repetition_run = 3;
  EXPECT_TRUE(client.run(request).finished_with(FinishReason::kLength));
  request.max_repetition_run = 2;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kRepetition));
  EXPECT_EQ(stream.tokens().size(), 2u);
}

TEST(Infill, StatisticsCountGeneratedTokens) {
  Client client = eager_to_end();
  client.run(fill({1}, {kHole, 5, 5, 5, kHole, 6}));
  EXPECT_EQ(client.engine().stats().final_tokens, 2u);
}

TEST(Infill, AForwardBudgetEndsTheAnswerWithWhatIsFinal) {
  Client client;
  Request request = fill({1}, {kHole, 5, kHole, kHole, 6}, "llada_schedule", {{"block_length", int64_t{1}}});
  request.max_forward_passes = 1;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(stream.tokens().size(), 2u) << "the first hole and the fixed token behind it";
}

TEST(Infill, SnapshotsShowFixedTokensBetweenHoles) {
  Client client;
  Request request = fill({1}, {kHole, 5, kHole, 6}, "llada_schedule");
  request.snapshots = true;
  const Stream stream = client.run(request);
  for (const Event& event : stream.events) {
    if (event.kind != EventKind::kStep) continue;
    ASSERT_EQ(event.snapshot_tokens.size(), 3u);
    EXPECT_EQ(event.snapshot_tokens[1], 5);
    EXPECT_EQ(event.snapshot_confidences[1], 0);
  }
}

TEST(Infill, BlockCausalModelsRefuseItByName) {
  fake::Behaviour behaviour;
  behaviour.block_length = 4;
  Client client(behaviour);
  try {
    client.submit(fill({1}, {kHole, 5}, "low_confidence"));
    FAIL() << "accepted";
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "canvas");
    EXPECT_NE(std::string(error.what()).find("full attention"), std::string::npos);
  }
}

}  // namespace
}  // namespace pydllm::engine
