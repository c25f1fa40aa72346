// d2f in the engine: the mask that it asks for, what a forward feeds, and that what the pages keep never shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "base/errors.h"
#include "tiny_llada.h"
#include "uncached.h"

namespace pydllm::engine {
namespace {

decode::ParamMap params_of(int32_t block, double threshold, double add = .1) {
  return {{"block_length", int64_t{block}}, {"confidence_threshold", threshold}, {"block_add_threshold", add}};
}

Request ask_d2f(int32_t prompt, int32_t max_tokens, const decode::ParamMap& params) {
  return ask(std::vector<int32_t>(static_cast<size_t>(prompt), 5), max_tokens, "d2f", params);
}

struct Fed {
  int32_t begin;
  int32_t end;
  bool scored;
  bool operator==(const Fed&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Fed& fed) {
  return out << "[" << fed.begin << ", " << fed.end << (fed.scored ? ") scored" : ")");
}

std::vector<Fed> forwards_of(const Request& request, int32_t budget = 512, bool shift = false) {
  std::vector<Fed> all;
  fake::Behaviour behaviour;
  behaviour.logit_shift = shift;
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) {
      EXPECT_EQ(sequence.block_length, 4);
      EXPECT_EQ(sequence.block_origin, static_cast<int32_t>(request.prompt.size()));
      EXPECT_EQ(sequence.kv_length, sequence.query_position + sequence.query_length) << "nothing behind the window";
      all.push_back({sequence.query_position, sequence.kv_length, input.hidden_rows.size(0) > 0});
    }
  };
  EngineOptions options = fake_options();
  options.max_batched_tokens = budget;
  Client client(behaviour, options);
  EXPECT_TRUE(client.run(request).finished_with(FinishReason::kLength));
  return all;
}

TEST(D2fEngine, FinishedBlocksAndThePromptAreFedOnceMoreAndThenKept) {
  EXPECT_EQ(forwards_of(ask_d2f(5, 10, params_of(4, 0))),
            (std::vector<Fed>{{0, 9, true}, {5, 13, true}, {9, 15, true}}));
}

TEST(D2fEngine, TheCanvasGrowsBlockByBlock) {
  EXPECT_EQ(forwards_of(ask_d2f(5, 8, params_of(4, 1, 0))),
            (std::vector<Fed>{{0, 9, true},
                              {5, 13, true},
                              {5, 13, true},
                              {5, 13, true},
                              {5, 13, true},  // the first block once more: it is final, and the second is forced
                              {9, 13, true},
                              {9, 13, true},
                              {9, 13, true}}));
}

TEST(D2fEngine, AShiftedModelIsFedThePositionBeforeTheWindow) {
  EXPECT_EQ(forwards_of(ask_d2f(5, 6, params_of(4, 1, 1)), 512, true)[1], (Fed{4, 9, true}));
}

TEST(D2fEngine, APromptAboveTheBudgetIsEncodedInOnePiece) {
  EXPECT_EQ(forwards_of(ask_d2f(5, 6, params_of(4, 0)), 3),
            (std::vector<Fed>{{0, 5, false}, {5, 9, true}, {5, 9, false}, {9, 11, true}}));
}

// Every prompt length modulo the block, every remainder of the answer; greedy, sampled, and sampled from a nucleus.
std::vector<Request> requests_around(int32_t block) {
  std::vector<Request> requests;
  for (int32_t i = 1; i <= 4 * block + 1; ++i) {
    std::vector<int32_t> ids;
    for (int32_t k = 0; k < i; ++k) ids.push_back((7 * k + i) % 61);
    Request request = ask(ids, 1 + (5 * i) % 23, "d2f", params_of(block, i % 2 ? .3 : .05, i % 5 * .25));
    request.params.emplace_back("decoded_token_threshold", i % 4 * .3);
    request.seed = static_cast<uint64_t>(i);
    request.temperature = i % 3 == 0 ? 0.8f : 0.0f;
    if (i % 6 == 0) request.top_p = 0.7f;
    request.snapshots = true;
    requests.push_back(std::move(request));
  }
  return requests;
}

template <class MakeModel>
void expect_cached_equals_uncached(MakeModel make, int32_t block) {
  const std::vector<Request> requests = requests_around(block);
  std::vector<Answer> expected;
  for (Request request : requests) expected.push_back(uncached(*make(), request, false));
  for (const Setting& setting : kSettings) {
    EngineOptions options = options_of(setting);
    options.delete_token_id = options.split_token_id = -1;
    Client together(make(), options, setting.threads);
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(together.submit(request));
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(answer_of(together.stream(ids[i])), expected[i])
          << "prompt of " << requests[i].prompt.size() << ", budget " << setting.budget;
    }
    together.expect_clean();
  }
}

TEST(D2fEngine, CachedEqualsUncachedBitForBit) {
  for (const int32_t block : {1, 4, 7}) {
    for (const bool shift : {false, true}) {
      fake::Behaviour behaviour;
      behaviour.logit_shift = shift;
      expect_cached_equals_uncached([&] { return std::make_unique<fake::FakeModel>(behaviour); }, block);
    }
  }
}

TEST(D2fEngine, CachedEqualsUncachedBitForBitInARealNetwork) {
  const TinyLlada checkpoint;
  expect_cached_equals_uncached([&] { return checkpoint.load(DType::kF32); }, 4);
}

TEST(D2fEngine, RequestsOfBothAttentionsShareForwards) {
  const TinyLlada checkpoint;
  std::vector<Request> requests;
  for (int32_t i = 0; i < 10; ++i) {
    requests.push_back(ask({i, 3, 7}, 11 + i, i % 2 ? "d2f" : "confidence_threshold", {{"block_length", int64_t{4}}}));
  }
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) {
    alone.push_back(Client(checkpoint.load(DType::kF32), fake_options()).run(request).tokens());
  }
  Client together(checkpoint.load(DType::kF32), fake_options(), 2);
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(together.submit(request));
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(together.stream(ids[i]).tokens(), alone[i]) << i;
}

TEST(D2fEngine, BehindAnEndNothingIsTakenOn) {
  fake::Behaviour behaviour;
  behaviour.wanted = {{6, 7}};  // the third token of the first block
  int32_t furthest = 0;
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) furthest = std::max(furthest, sequence.kv_length);
  };
  Client client(behaviour);
  Request request = ask({1, 2, 3, 4}, 40, "d2f", params_of(4, .99, .25));
  request.eos_token_ids = {7};
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  EXPECT_EQ(stream.tokens().back(), 7);
  EXPECT_LE(furthest, 12);
}

TEST(D2fEngine, TextBehindAHoleIsRefusedByName) {
  Client client;
  Request request = ask({1}, 2, "d2f");
  request.rest = {-1, 5, -1};
  try {
    client.submit(request);
    ADD_FAILURE() << "accepted";
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "canvas");
    EXPECT_EQ(std::string(error.what()),
              "canvas: algorithm d2f does not see fixed text behind a hole, expected text and one hole at the end, or "
              "an algorithm that sees the whole canvas");
  }
}

TEST(D2fEngine, BlockCausalModelsHaveAMaskOfTheirOwn) {
  fake::Behaviour behaviour;
  behaviour.block_length = 4;
  Client client(behaviour);
  try {
    client.submit(ask({1}, 2, "d2f"));
    ADD_FAILURE() << "accepted";
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "diffusion.algorithm");
    EXPECT_EQ(std::string(error.what()).find("diffusion.algorithm 'd2f' cannot run on FakeModel, expected one of: "),
              0u);
  }
}

}  // namespace
}  // namespace pydllm::engine
