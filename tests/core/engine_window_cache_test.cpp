// Windowed caches of full-attention models (Fast-dLLM's prefix and dual cache): what is fed, and that the answer is
// that of the original's loop written out.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine_harness.h"
#include "hand_run.h"
#include "tiny_llada.h"

namespace pydllm::engine {
namespace {

struct Fed {
  int32_t begin;
  int32_t end;
  int32_t visible;
  bool operator==(const Fed&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Fed& fed) {
  return out << "[" << fed.begin << ", " << fed.end << ") of " << fed.visible;
}

decode::ParamMap params_of(const char* cache, int32_t block, double threshold) {
  return {{"cache", std::string(cache)}, {"block_length", int64_t{block}}, {"confidence_threshold", threshold}};
}

std::vector<Fed> forwards_of(const char* cache) {
  std::vector<Fed> all;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) {
      EXPECT_EQ(sequence.block_length, 0);
      all.push_back({sequence.query_position, sequence.query_position + sequence.query_length, sequence.kv_length});
    }
  };
  Client client(behaviour);
  EXPECT_TRUE(client.run(ask({1, 2, 3}, 4, "confidence_threshold", params_of(cache, 2, 1.0))).ended());
  return all;
}

TEST(WindowCache, ABlocksFirstForwardFeedsTheCanvasAndTheOthersAWindow) {
  EXPECT_EQ(forwards_of("none"), (std::vector<Fed>{{0, 7, 7}, {0, 7, 7}, {0, 7, 7}, {0, 7, 7}}));
  EXPECT_EQ(forwards_of("prefix"), (std::vector<Fed>{{0, 7, 7}, {3, 7, 7}, {0, 7, 7}, {5, 7, 7}}));
  EXPECT_EQ(forwards_of("dual"), (std::vector<Fed>{{0, 7, 7}, {3, 5, 7}, {0, 7, 7}, {5, 7, 7}}));
}

// The fake model's K/V tell of their own token only, so that nothing is ever stale.
class WindowCacheOfModels : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(LogitShift, WindowCacheOfModels, ::testing::Bool());

TEST_P(WindowCacheOfModels, NothingChangesWhereKeysDependOnTheirOwnTokenOnly) {
  fake::Behaviour behaviour;
  behaviour.logit_shift = GetParam();
  for (const char* algorithm : {"confidence_threshold", "entropy_threshold", "llada_schedule"}) {
    for (const char* cache : {"prefix", "dual"}) {
      Client client(behaviour);
      Request request = ask({1, 2, 3}, 21, algorithm, {{"block_length", int64_t{5}}});
      const std::vector<int32_t> expected = client.run(request).tokens();
      request.params.emplace_back("cache", std::string(cache));
      EXPECT_EQ(client.run(request).tokens(), expected) << algorithm << ' ' << cache;
      client.expect_clean();
    }
  }
}

TEST_P(WindowCacheOfModels, TheDelayedCacheChangesNothingThereEither) {
  fake::Behaviour behaviour;
  behaviour.logit_shift = GetParam();
  for (const int64_t delay : {1, 2, 5}) {
    Client client(behaviour);
    Request request = ask({1, 2, 3}, 21, "multi_block_entropy", {{"block_length", int64_t{5}}, {"threshold", 2.5}});
    const std::vector<int32_t> expected = client.run(request).tokens();
    request.params.emplace_back("cache", std::string("delayed"));
    request.params.emplace_back("cache_delay_iter", delay);
    EXPECT_EQ(client.run(request).tokens(), expected) << delay;
    client.expect_clean();
  }
}

TEST(WindowCache, BothLanesOfAGuidedRequestFeedTheWindow) {
  Client client;
  Request request = ask({1, 2, 3}, 12, "llada_schedule", {{"block_length", int64_t{4}}, {"cfg_scale", 0.5}});
  const std::vector<int32_t> expected = client.run(request).tokens();
  request.params.emplace_back("cache", std::string("dual"));
  EXPECT_EQ(client.run(request).tokens(), expected);
}

// generate_with_prefix_cache and generate_with_dual_cache of Fast-dLLM, from their description.
std::vector<int32_t> original_loop(Model& model, const Request& request, bool dual, int32_t block, float threshold) {
  const auto prompt = static_cast<int32_t>(request.prompt.size()), length = prompt + request.max_tokens;
  std::vector<int32_t> x = request.prompt;
  x.resize(static_cast<size_t>(length), kMask);
  HandRun run(model, length, kMask);
  int32_t forwards = 0;
  for (int32_t begin = prompt; begin < length; begin += block) {
    const int32_t end = std::min(begin + block, length);
    for (bool opening = true;; opening = false) {
      std::vector<int32_t> masked;
      for (int32_t i = begin; i < end; ++i) {
        if (x[static_cast<size_t>(i)] == kMask) masked.push_back(i);
      }
      if (masked.empty()) break;
      const int32_t from = opening ? 0 : begin, to = opening || !dual ? length : end;
      const std::vector<RowStats> rows = run.step(x, from, to, length, masked, request, forwards++);
      const auto surest = std::ranges::max_element(rows, {}, &RowStats::confidence);
      for (size_t i = 0; i < rows.size(); ++i) {
        const bool sure = rows[i].confidence >= threshold || &rows[i] == &*surest;
        if (sure) x[static_cast<size_t>(masked[i])] = rows[i].token;
      }
    }
  }
  return {x.begin() + prompt, x.end()};
}

TEST(WindowCache, AnswersAreThoseOfTheOriginalsLoopAloneAndBatched) {
  const TinyLlada checkpoint;
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> expected;
  for (int32_t i = 0; i < 12; ++i) {
    const bool dual = i % 2 == 1;
    const int32_t block = 3 + i % 4;
    Request request = ask({}, 8 + 3 * i, "confidence_threshold", params_of(dual ? "dual" : "prefix", block, 0.06));
    for (int32_t k = 0; k <= 2 * i; ++k) request.prompt.push_back((11 * k + i) % 60);
    expected.push_back(original_loop(*checkpoint.load(DType::kF32), request, dual, block, 0.06f));
    requests.push_back(std::move(request));
  }
  EngineOptions options = fake_options();
  options.max_batched_tokens = 100;
  Client client(checkpoint.load(DType::kF32), options, 2);
  std::vector<RequestId> ids;
  for (const Request& request : requests) ids.push_back(client.submit(request));
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(client.stream(ids[i]).tokens(), expected[i]) << "request " << i;
  client.expect_clean();
}

TEST(WindowCache, TheCacheIsAnApproximationThatCanShow) {
  const TinyLlada checkpoint;
  Client client(checkpoint.load(DType::kF32), fake_options());
  int different = 0;
  for (int32_t i = 0; i < 8; ++i) {
    Request request = ask({i, 5, 9}, 40, "confidence_threshold", {{"block_length", int64_t{20}}});
    const std::vector<int32_t> exact = client.run(request).tokens();
    request.params.emplace_back("cache", std::string("dual"));
    different += client.run(request).tokens() != exact;
  }
  EXPECT_GT(different, 0) << "else these tests compare nothing";
}

}  // namespace
}  // namespace pydllm::engine
