// Block-causal models: what the pages keep never shows. The reference decodes the same request without a cache: every
// step is one forward over the whole canvas on fresh pages.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>

#include "base/errors.h"
#include "engine_harness.h"
#include "tiny_llada.h"
#include "uncached.h"

namespace pydllm::engine {
namespace {

std::vector<const decode::Algorithm*> block_causal_algorithms() {
  std::vector<const decode::Algorithm*> found;
  for (const decode::Algorithm* algorithm : decode::algorithms()) {
    if (decode::runs_on(*algorithm, AttentionKind::kBlockCausal)) found.push_back(algorithm);
  }
  return found;
}

// Every prompt length modulo the block comes up, in its first blocks and later.
std::vector<Request> requests_around(int32_t block, std::string_view algorithm) {
  std::vector<Request> requests;
  for (int32_t prompt = 1; prompt <= 2 * block + 1; ++prompt) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < prompt + (prompt % 3 == 0 ? 3 * block : 0); ++i) ids.push_back((7 * i + prompt) % 61);
    Request request = ask(ids, 1 + (5 * prompt) % 19, std::string(algorithm));
    request.seed = static_cast<uint64_t>(prompt);
    request.temperature = prompt % 4 == 0 ? 0.8f : 0.0f;
    request.snapshots = true;
    requests.push_back(std::move(request));
  }
  return requests;
}

fake::Behaviour fake_blocks(int32_t block_length) {
  fake::Behaviour behaviour;
  behaviour.block_length = block_length;
  return behaviour;
}

// Requests of all algorithms share the forwards.
template <class MakeModel>
void expect_cached_equals_uncached(MakeModel make, int32_t block) {
  std::vector<Request> requests;
  for (const decode::Algorithm* algorithm : block_causal_algorithms()) {
    std::ranges::copy(requests_around(block, algorithm->name), std::back_inserter(requests));
  }
  std::vector<Answer> expected;
  for (const Request& request : requests) expected.push_back(uncached(*make(), request, true));
  for (const Setting& setting : kSettings) {
    Client together(make(), options_of(setting), setting.threads);
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(together.submit(request));
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(answer_of(together.stream(ids[i])), expected[i])
          << requests[i].algorithm << ", prompt of " << requests[i].prompt.size() << ", budget " << setting.budget;
    }
    together.expect_clean();
  }
}

TEST(BlockCausalEngine, CachedEqualsUncachedForEveryPromptLengthModuloTheBlock) {
  for (const int32_t block : {1, 4, 7}) {
    expect_cached_equals_uncached([=] { return std::make_unique<fake::FakeModel>(fake_blocks(block)); }, block);
  }
}

TEST(BlockCausalEngine, CachedEqualsUncachedWithShiftedLogits) {
  fake::Behaviour behaviour = fake_blocks(4);
  behaviour.logit_shift = true;
  expect_cached_equals_uncached([&] { return std::make_unique<fake::FakeModel>(behaviour); }, 4);
  const TinyLlada checkpoint;
  expect_cached_equals_uncached(
      [&] { return std::make_unique<BlockCausalLlada>(checkpoint.load(DType::kF32), 4, true); }, 4);
}

TEST(BlockCausalEngine, CachedEqualsUncachedBitForBitWithARealTransformer) {
  const TinyLlada checkpoint;
  expect_cached_equals_uncached([&] { return std::make_unique<BlockCausalLlada>(checkpoint.load(DType::kF32), 4); }, 4);
}

// Every forward: the positions fed, per sequence.
struct Fed {
  int32_t begin;
  int32_t end;
  bool scored;
  bool operator==(const Fed&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Fed& fed) {
  return out << "[" << fed.begin << ", " << fed.end << (fed.scored ? ") scored" : ")");
}

std::vector<Fed> forwards_of(const Request& request, int32_t budget) {
  std::vector<Fed> all;
  fake::Behaviour behaviour = fake_blocks(4);
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) {
      EXPECT_EQ(sequence.block_length, 4);
      all.push_back(
          {sequence.query_position, sequence.query_position + sequence.query_length, input.hidden_rows.size(0) > 0});
    }
  };
  EngineOptions options = fake_options();
  options.max_batched_tokens = budget;
  Client client(behaviour, options);
  EXPECT_TRUE(client.run(request).finished_with(FinishReason::kLength));
  return all;
}

// Threshold 0: a block takes one denoising step.
Request ask_blocks(int32_t prompt, int32_t max_tokens) {
  return ask(std::vector<int32_t>(static_cast<size_t>(prompt), 5), max_tokens, "low_confidence", {{"threshold", 0.0}});
}

TEST(BlockCausalEngine, TheCommitOfABlockRidesWithTheNextBlocksFirstStep) {
  EXPECT_EQ(forwards_of(ask_blocks(9, 10), 512), (std::vector<Fed>{{0, 12, true}, {8, 16, true}, {12, 20, true}}));
}

TEST(BlockCausalEngine, StepsWithinABlockFeedThatBlockOnly) {
  Request request = ask_blocks(4, 4);
  request.params = {{"threshold", 1.0}};
  EXPECT_EQ(forwards_of(request, 512), (std::vector<Fed>{{0, 8, true}, {4, 8, true}, {4, 8, true}, {4, 8, true}}));
}

TEST(BlockCausalEngine, APromptAboveTheBudgetIsEncodedInWholeBlocks) {
  EXPECT_EQ(forwards_of(ask_blocks(23, 3), 11),
            (std::vector<Fed>{{0, 8, false}, {8, 16, false}, {16, 24, true}, {20, 28, true}}));
  EXPECT_EQ(forwards_of(ask_blocks(9, 3), 3), (std::vector<Fed>{{0, 4, false}, {4, 8, false}, {8, 12, true}}));
}

TEST(BlockCausalEngine, TheAnswerIsCutAtMaxTokensExactly) {
  for (int32_t max_tokens = 1; max_tokens <= 13; ++max_tokens) {
    Client client(fake_blocks(4));
    Request request = ask({1, 2, 3, 4, 5}, max_tokens, "low_confidence");
    request.snapshots = true;
    const Stream stream = client.run(request);
    EXPECT_TRUE(stream.finished_with(FinishReason::kLength));
    EXPECT_EQ(stream.tokens().size(), static_cast<size_t>(max_tokens));
    for (const Event& event : stream.events) {
      EXPECT_LE(static_cast<size_t>(event.snapshot_offset) + event.snapshot_tokens.size(), stream.tokens().size());
    }
  }
}

TEST(BlockCausalEngine, AnEosEndsTheRequestOnceNothingBeforeItIsMasked) {
  fake::Behaviour behaviour = fake_blocks(4);
  behaviour.wanted = {{5, 7}};
  Client client(behaviour);
  Request request = ask({1, 2, 3, 4}, 12, "low_confidence");
  request.eos_token_ids = {7};
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStop));
  EXPECT_EQ(stream.tokens().back(), 7);
  EXPECT_LE(stream.tokens().size(), 2u);
}

TEST(BlockCausalEngine, EncodingForwardsAreCountedButSpendNoBudget) {
  EngineOptions options = fake_options();
  options.max_batched_tokens = 4;
  Client client(fake_blocks(4), options);
  Request request = ask_blocks(9, 8);
  request.max_forward_passes = 1;
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.finished_with(FinishReason::kStepLimit));
  EXPECT_EQ(stream.end().forward_passes, 3);
  EXPECT_EQ(stream.end().denoise_steps, 1);
  EXPECT_EQ(stream.tokens().size(), 3u);
}

TEST(BlockCausalEngine, ATraceHoldsTheLogitsOfTheFirstWindow) {
  EngineOptions options = fake_options();
  options.max_batched_tokens = 8;
  Client client(fake_blocks(4), options);
  Request request = ask_blocks(9, 8);
  request.trace = true;
  const Stream stream = client.run(request);
  std::vector<Tensor> logits;
  for (const Event& event : stream.events) {
    if (event.first_logits.defined()) logits.push_back(event.first_logits);
  }
  ASSERT_EQ(logits.size(), 1u);
  EXPECT_EQ(logits[0].size(0), 4);
  EXPECT_EQ(logits[0].size(1), 61);
}

TEST(BlockCausalEngine, ABlockFinishedBeforeTheOneBeforeItIsReportedInItsPlace) {
  fake::Behaviour behaviour = fake_blocks(4);
  for (int32_t position = 8; position < 12; ++position) behaviour.wanted[position] = 7;
  Client client(behaviour);
  Request request =
      ask({1, 2, 3, 4}, 12, "multi_block", {{"confidence_threshold", 0.9999}, {"add_block_threshold", 0.0}});
  request.snapshots = true;
  const Stream stream = client.run(request);
  const std::vector<BlockDone> blocks = stream.blocks();
  ASSERT_EQ(blocks.size(), 3u);
  EXPECT_EQ(blocks[0].denoise_steps, 4);
  EXPECT_EQ(blocks[1].denoise_steps, 3) << "taken on with the second step, finished by it, final with the first block";
  EXPECT_EQ((std::pair{blocks[1].begin, blocks[1].end}), (std::pair{4, 8}));
  const auto second = std::ranges::find_if(stream.events, [](const Event& e) { return e.snapshot_step == 1; });
  ASSERT_NE(second, stream.events.end());
  EXPECT_EQ(second->snapshot_tokens.size(), 8u) << "both blocks are shown";
}

// --- fast_dllm_v2's block cache ---

Request ask_sub_blocks(std::vector<int32_t> prompt, int32_t max_tokens, bool block_cache, double threshold) {
  return ask(std::move(prompt), max_tokens, "fast_dllm_v2",
             {{"block_cache", block_cache}, {"sub_block_length", int64_t{4}}, {"threshold", threshold}});
}

TEST(BlockCache, StepsOfAnOpenSubBlockFeedItAlone) {
  std::vector<Fed> all;
  fake::Behaviour behaviour = fake_blocks(8);
  behaviour.logit_shift = true;
  std::vector<int32_t> visible;
  behaviour.on_forward = [&](const StepInput& input) {
    for (const ops::SequenceSpan& sequence : input.sequences) {
      all.push_back({sequence.query_position, sequence.query_position + sequence.query_length, true});
      visible.push_back(sequence.kv_length);
    }
  };
  Client client(behaviour);
  EXPECT_TRUE(client.run(ask_sub_blocks(std::vector<int32_t>(8, 5), 8, true, 1.0)).ended());
  EXPECT_EQ(all, (std::vector<Fed>{{0, 16, true},  // the first token
                                   {8, 16, true},  // its block once more, for K/V that saw it
                                   {8, 12, true},
                                   {8, 12, true},
                                   {8, 16, true},  // the second sub-block's first token is a mask
                                   {12, 16, true},
                                   {12, 16, true},
                                   {12, 16, true}}));
  EXPECT_EQ(visible, std::vector<int32_t>(8, 16)) << "the block's other K/V stay visible";
}

// Keys that depend on their own token only are never stale; the pages of a block fed in parts are never committed.
TEST(BlockCache, NothingChangesWhereKeysDependOnTheirOwnTokenOnly) {
  for (const bool shift : {false, true}) {
    fake::Behaviour behaviour = fake_blocks(8);
    behaviour.logit_shift = shift;
    for (int32_t prompt = 1; prompt <= 17; ++prompt) {
      EngineOptions options = fake_options();
      options.max_batched_tokens = prompt % 2 == 0 ? 9 : 512;
      Client client(behaviour, options);
      const std::vector<int32_t> ids(static_cast<size_t>(prompt), 5);
      const std::vector<int32_t> expected = client.run(ask_sub_blocks(ids, 30, false, .3)).tokens();
      EXPECT_EQ(client.run(ask_sub_blocks(ids, 30, true, .3)).tokens(), expected) << prompt;
      client.expect_clean();
    }
  }
}

// batch_sample with use_block_cache, from its description, on a prompt of whole blocks.
std::vector<int32_t> original_block_cache(Model& model, const Request& request, int32_t block, int32_t sub,
                                          float threshold) {
  const auto prompt = static_cast<int32_t>(request.prompt.size()), length = prompt + request.max_tokens;
  std::vector<int32_t> x = request.prompt;
  x.resize(static_cast<size_t>(length), kMask);
  HandRun run(model, length, kMask);
  int32_t forwards = 0;
  for (int32_t begin = prompt; begin < length; begin += block) {
    const int32_t end = begin + block;
    x[static_cast<size_t>(begin)] = run.step(x, 0, end, end, {begin}, request, forwards++)[0].token;
    bool stored = false;
    for (int32_t from = begin; from < end; from += sub) {
      for (;;) {
        std::vector<int32_t> masked;
        for (int32_t i = from; i < from + sub; ++i) {
          if (x[static_cast<size_t>(i)] == kMask) masked.push_back(i);
        }
        if (masked.empty()) break;
        const bool whole = !stored || x[static_cast<size_t>(from)] == kMask;
        const std::vector<RowStats> rows = whole ? run.step(x, 0, end, end, masked, request, forwards++)
                                                 : run.step(x, from, from + sub, end, masked, request, forwards++);
        stored = true;
        const auto surest = std::ranges::max_element(rows, {}, &RowStats::confidence);
        for (size_t i = 0; i < rows.size(); ++i) {
          const bool sure = rows[i].confidence > threshold || &rows[i] == &*surest;
          if (sure) x[static_cast<size_t>(masked[i])] = rows[i].token;
        }
      }
    }
  }
  return {x.begin() + prompt, x.end()};
}

TEST(BlockCache, AnswersAreThoseOfTheOriginalsLoop) {
  const TinyLlada checkpoint;
  int different = 0;
  for (int32_t i = 0; i < 12; ++i) {
    std::vector<int32_t> prompt;
    for (int32_t k = 0; k < 16 * (1 + i % 3); ++k) prompt.push_back((11 * k + 5 * i) % 60);
    BlockCausalLlada reference(checkpoint.load(DType::kF32), 16, true);
    const Request request = ask_sub_blocks(prompt, 48, true, .9);
    Client client(std::make_unique<BlockCausalLlada>(checkpoint.load(DType::kF32), 16, true), fake_options());
    const std::vector<int32_t> tokens = client.run(request).tokens();
    EXPECT_EQ(tokens, original_block_cache(reference, request, 16, 4, .9f)) << i;
    different += tokens != client.run(ask_sub_blocks(prompt, 48, false, .9)).tokens();
  }
  EXPECT_GT(different, 0) << "else the cache is no approximation and these tests compare nothing";
}

template <class Run>
std::string unsupported(Run run) {
  try {
    run();
  } catch (const Unsupported& error) {
    return error.what();
  }
  return "accepted";
}

TEST(BlockCausalEngine, AnAlgorithmForOtherAttentionIsRefusedWithTheNamesThatWork) {
  Client blocks(fake_blocks(4)), full;
  EXPECT_EQ(unsupported([&] { blocks.submit(ask({1}, 2)); })
                .find("diffusion.algorithm 'confidence_threshold' cannot run "
                      "on FakeModel, expected one of: near_max, credit, hierarchical, low_confidence"),
            0u);
  EXPECT_EQ(unsupported([&] {
              full.submit(ask({1}, 2, "low_confidence"));
            }).find("diffusion.algorithm 'low_confidence' cannot run on FakeModel, expected one of: llada_schedule"),
            0u);
}

TEST(BlockCausalEngine, EditingByControlTokensNeedsThem) {
  Client client(fake_blocks(4));
  EXPECT_EQ(unsupported([&] { client.submit(ask({1}, 2, "levenshtein")); }),
            "levenshtein: expected a model with delete_token_id and split_token_id in config.json, got none");
}

TEST(BlockCausalEngine, TheModelsPositionsMustHoldWholeBlocks) {
  fake::Behaviour behaviour = fake_blocks(7);
  behaviour.max_positions = 33;
  EngineOptions options = fake_options();
  options.max_model_len = 29;
  EXPECT_THROW(Client(behaviour, options), InvalidRequest);
  options.max_model_len = 28;
  Client client(behaviour, options);
  EXPECT_EQ(client.run(ask({1}, 27, "low_confidence")).tokens().size(), 27u);
}

}  // namespace
}  // namespace pydllm::engine
