// What the engine refuses, and by which name.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "base/errors.h"
#include "engine/prepare.h"
#include "engine_harness.h"
#include "models/registry.h"

namespace pydllm::engine {
namespace {

std::string refused_field(Client& client, const Request& request) {
  try {
    client.submit(request);
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.field();
  }
  return "accepted";
}

// Bans every id from `first` on, the mask aside.
void ban_from(int32_t first, Request& request) {
  for (int32_t id = first; id < kMask; ++id) request.logit_bias.push_back({id, -100});
}

TEST(EngineValidation, OneTokenToChooseIsEnough) {
  Client client;
  Request narrow = ask({1}, 5);
  ban_from(1, narrow);
  EXPECT_EQ(client.run(narrow).tokens(), std::vector<int32_t>(5, 0));
  narrow = ask({1}, 3);
  ban_from(2, narrow);
  narrow.eos_token_ids = {1};
  narrow.min_tokens = 3;
  narrow.temperature = 1;
  EXPECT_EQ(client.run(narrow).tokens(), std::vector<int32_t>(3, 0));
}

TEST(EngineValidation, RefusesEveryBadFieldByName) {
  EngineOptions options = fake_options();
  options.pages = 12;
  Client client(fake::Behaviour{}, options);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  struct Case {
    std::string field;
    std::function<void(Request&)> spoil;
  };
  const std::vector<Case> cases = {
      {"prompt_token_ids", [](Request& r) { r.prompt.clear(); }},
      {"prompt_token_ids", [](Request& r) { r.prompt = {1, 61}; }},
      {"prompt_token_ids", [](Request& r) { r.prompt = {-1}; }},
      {"sampling.max_tokens", [](Request& r) { r.max_tokens = 0; }},
      {"sampling.max_tokens", [](Request& r) { r.max_tokens = -5; }},
      {"sampling.max_tokens", [](Request& r) { r.max_tokens = 128; }},
      {"sampling.max_tokens", [](Request& r) { r.max_tokens = std::numeric_limits<int32_t>::max(); }},
      {"sampling.max_tokens", [](Request& r) { r.prompt.resize(200, 1); }},
      {"sampling.max_tokens", [](Request& r) { r.max_tokens = 96; }},  // 97 tokens, 96 in all pages
      {"canvas", [](Request& r) { r.rest = {7, -1}, r.max_tokens = 1; }},
      {"canvas", [](Request& r) { r.rest = {-1, 7, -1}, r.max_tokens = 1; }},
      {"canvas", [](Request& r) { r.rest = {-1, 61}, r.max_tokens = 1; }},
      {"canvas", [](Request& r) { r.rest = {-1, -2}, r.max_tokens = 1; }},
      {"canvas", [](Request& r) { r.rest.assign(200, 7), r.rest[0] = -1, r.max_tokens = 1; }},
      {"sampling.temperature", [nan](Request& r) { r.temperature = nan; }},
      {"sampling.temperature", [infinity](Request& r) { r.temperature = infinity; }},
      {"sampling.temperature", [](Request& r) { r.temperature = -0.1f; }},
      {"sampling.temperature", [](Request& r) { r.temperature = 100.5f; }},
      {"sampling.top_p", [](Request& r) { r.top_p = 0; }},
      {"sampling.top_p", [](Request& r) { r.top_p = 1.01f; }},
      {"sampling.top_p", [nan](Request& r) { r.top_p = nan; }},
      {"sampling.top_k", [](Request& r) { r.top_k = -1; }},
      {"sampling.min_p", [](Request& r) { r.min_p = -0.1f; }},
      {"sampling.min_p", [](Request& r) { r.min_p = 1.1f; }},
      {"sampling.min_p", [nan](Request& r) { r.min_p = nan; }},
      {"sampling.repetition_penalty", [](Request& r) { r.repetition_penalty = 0; }},
      {"sampling.repetition_penalty", [](Request& r) { r.repetition_penalty = 100.5f; }},
      {"sampling.repetition_penalty", [nan](Request& r) { r.repetition_penalty = nan; }},
      {"sampling.presence_penalty", [](Request& r) { r.presence_penalty = 2.1f; }},
      {"sampling.presence_penalty", [nan](Request& r) { r.presence_penalty = nan; }},
      {"sampling.frequency_penalty", [](Request& r) { r.frequency_penalty = -2.1f; }},
      {"sampling.frequency_penalty", [infinity](Request& r) { r.frequency_penalty = infinity; }},
      {"sampling.min_tokens", [](Request& r) { r.min_tokens = -1; }},
      {"sampling.min_tokens", [](Request& r) { r.min_tokens = 5; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{61, 1}}; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{-1, 1}}; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{60, 1}}; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{3, 1}, {5, 1}, {3, 2}}; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{3, -100.5f}}; }},
      {"sampling.logit_bias", [](Request& r) { r.logit_bias = {{3, 101}}; }},
      {"sampling.logit_bias", [nan](Request& r) { r.logit_bias = {{3, nan}}; }},
      {"sampling.logit_bias", [](Request& r) { ban_from(0, r); }},
      {"sampling.min_tokens",
       [](Request& r) {
         ban_from(2, r);
         r.eos_token_ids = {0, 1};
         r.min_tokens = 1;
       }},
      {"canvas",
       [](Request& r) {
         r.rest = {-1, 5}, r.max_tokens = 1;
         for (int32_t id = 0; id < kMask; ++id) r.eos_token_ids.push_back(id);
       }},
      {"sampling.max_repetition_run", [](Request& r) { r.max_repetition_run = 1; }},
      {"sampling.max_repetition_run", [](Request& r) { r.max_repetition_run = -2; }},
      {"sampling.stop_token_ids", [](Request& r) { r.stop_token_ids = {3, 61}; }},
      {"eos_token_ids", [](Request& r) { r.eos_token_ids = {-1}; }},
      {"diffusion.max_forward_passes", [](Request& r) { r.max_forward_passes = -1; }},
      {"diffusion.algorithm", [](Request& r) { r.algorithm = "no_such"; }},
      {"diffusion.algorithm", [](Request& r) { r.algorithm = ""; }},
      {"diffusion.block_length", [](Request& r) { r.params = {{"block_length", int64_t{0}}}; }},
      {"diffusion.entropy_threshold", [](Request& r) { r.params = {{"entropy_threshold", 0.5}}; }},
  };
  for (const Case& bad : cases) {
    Request request = ask({1}, 4);
    bad.spoil(request);
    EXPECT_EQ(refused_field(client, request), bad.field);
  }
  Request guided = ask({1}, 50, "llada_schedule", {{"cfg_scale", 1.0}});  // 7 pages, twice
  EXPECT_EQ(refused_field(client, guided), "sampling.max_tokens");
  EXPECT_TRUE(client.run(ask({1}, 95)).finished_with(FinishReason::kLength)) << "the limit itself fits";
  guided.max_tokens = 47;
  EXPECT_TRUE(client.run(guided).finished_with(FinishReason::kLength)) << "the limit itself fits";
}

TEST(EngineValidation, AControlTokenTakesABiasOnlyWhereItIsRead) {
  fake::Behaviour blocks;
  blocks.block_length = 4;
  EngineOptions options = fake_options();
  options.delete_token_id = kDelete;
  options.split_token_id = kSplit;
  Client client(blocks, options);
  for (const decode::Algorithm* algorithm : decode::algorithms()) {
    if (!decode::runs_on(*algorithm, AttentionKind::kBlockCausal)) continue;
    Request request = ask({1}, 4, std::string(algorithm->name));
    request.logit_bias = {{kSplit, -100}};
    EXPECT_TRUE(client.run(request).ended()) << "never written, so banning it is true";
    request.logit_bias = {{kSplit, 2}};
    if (algorithm->reads_controls) {
      EXPECT_TRUE(client.run(request).ended());
    } else {
      EXPECT_EQ(refused_field(client, request), "sampling.logit_bias");
    }
  }
}

TEST(EngineValidation, TheLengthErrorStatesTheLimitAndWhatWasGiven) {
  Client client;
  try {
    client.submit(ask(std::vector<int32_t>(100, 1), 29));
    FAIL() << "accepted";
  } catch (const InvalidRequest& error) {
    EXPECT_STREQ(error.what(), "prompt (100) + sampling.max_tokens (29) must be at most 128 tokens, got 129");
  }
  EXPECT_TRUE(client.run(ask(std::vector<int32_t>(100, 1), 28)).finished_with(FinishReason::kLength));
}

TEST(EngineValidation, AnAlgorithmTheArchitectureCannotRunIsUnsupportedAndTheListIsGiven) {
  const std::vector<std::string_view> valid = {"llada_schedule", "entropy_threshold"};
  EXPECT_NO_THROW(check_runs_on(decode::find_algorithm("llada_schedule"), "SomeLM", valid));
  try {
    check_runs_on(decode::find_algorithm("fast_dllm"), "SomeLM", valid);
    FAIL() << "accepted";
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "diffusion.algorithm");
    EXPECT_STREQ(error.what(),
                 "diffusion.algorithm 'confidence_threshold' cannot run on SomeLM, expected one of: llada_schedule, "
                 "entropy_threshold");
  }
}

// What a request leaves unset is what the model's family has, and what it sets stays.
TEST(EngineValidation, AFamilysDefaultsStandWhereARequestSaysNothing) {
  fake::Behaviour llada, dream;
  dream.architecture = "DreamModel";
  llada.logit_shift = dream.logit_shift = true;
  Client plain(llada), family(dream);
  const decode::ParamMap rules = {
      {"entropy_threshold", .4}, {"comparison", std::string("lt")}, {"force_scope", std::string("first")}};
  int32_t different = 0;
  for (int32_t i = 0; i < 8; ++i) {
    Request request = ask({i, 2, 3}, 48, "multi_block_entropy", {{"block_length", int64_t{6}}});
    const Stream by_default = family.run(request), elsewhere = plain.run(request);
    different += by_default.end().denoise_steps != elsewhere.end().denoise_steps;
    request.params.insert(request.params.end(), rules.begin(), rules.end());
    const Stream asked = plain.run(request);
    EXPECT_EQ(by_default.end().denoise_steps, asked.end().denoise_steps);
    EXPECT_EQ(by_default.tokens(), asked.tokens());
    request.params = {{"block_length", int64_t{6}},
                      {"threshold", .5},
                      {"comparison", std::string("le")},
                      {"force_scope", std::string("all")}};
    EXPECT_EQ(family.run(request).end().denoise_steps, elsewhere.end().denoise_steps);
  }
  EXPECT_GT(different, 0) << "else nothing was compared";
}

TEST(EngineValidation, EveryDefaultOfAFamilyIsAValueOfItsParameter) {
  for (const Architecture& architecture : architectures()) {
    for (const AlgorithmDefault& entry : architecture.defaults) {
      const decode::Algorithm& algorithm = decode::find_algorithm(entry.algorithm);
      const auto spec = std::ranges::find(algorithm.params, entry.param, &decode::ParamSpec::name);
      ASSERT_NE(spec, algorithm.params.end()) << entry.param;
      EXPECT_NE(std::ranges::find(architecture.algorithms, entry.algorithm), architecture.algorithms.end());
      EXPECT_NE(spec->default_value, entry.value) << entry.param << ": the algorithm's own";
    }
  }
}

TEST(EngineValidation, ATraceLargerThanItsBoundIsRefused) {
  fake::Behaviour behaviour;
  behaviour.vocab = 4'000'000;
  EngineOptions options = fake_options();
  options.max_logit_rows = 2;
  Client client(behaviour, options);
  Request request = ask({1}, 99);
  request.trace = true;
  EXPECT_EQ(refused_field(client, request), "trace");
}

TEST(EngineValidation, RefusesBadOptionsByName) {
  struct Case {
    std::string field;
    std::function<void(EngineOptions&)> spoil;
  };
  const std::vector<Case> cases = {
      {"max_model_len", [](EngineOptions& o) { o.max_model_len = 513; }},
      {"max_model_len", [](EngineOptions& o) { o.max_model_len = 1; }},
      {"max_batched_tokens", [](EngineOptions& o) { o.max_batched_tokens = 0; }},
      {"max_running_requests", [](EngineOptions& o) { o.max_running_requests = 0; }},
      {"max_waiting_requests", [](EngineOptions& o) { o.max_waiting_requests = 0; }},
      {"page_size", [](EngineOptions& o) { o.page_size = 0; }},
      {"page_size", [](EngineOptions& o) { o.page_size = 65537; }},
      {"pages", [](EngineOptions& o) { o.pages = 0; }},
      {"max_logit_rows", [](EngineOptions& o) { o.max_logit_rows = 1; }},
      {"mask_token_id", [](EngineOptions& o) { o.mask_token_id = 61; }},
      {"mask_token_id", [](EngineOptions& o) { o.mask_token_id = -1; }},
      {"split_token_id", [](EngineOptions& o) { o.delete_token_id = 3; }},
      {"delete_token_id", [](EngineOptions& o) { o.split_token_id = 3; }},
      {"split_token_id", [](EngineOptions& o) { o.delete_token_id = o.split_token_id = 3; }},
      {"delete_token_id",
       [](EngineOptions& o) {
         o.delete_token_id = o.mask_token_id;
         o.split_token_id = 3;
       }},
  };
  for (const Case& bad : cases) {
    EngineOptions options = fake_options();
    bad.spoil(options);
    try {
      Client client(fake::Behaviour{}, options);
      ADD_FAILURE() << bad.field << " accepted";
    } catch (const InvalidRequest& error) {
      EXPECT_EQ(error.field(), bad.field);
    }
  }
  EXPECT_THROW(Engine(nullptr, fake_options(), 1), InvalidRequest);
  EXPECT_THROW(Engine(std::make_unique<fake::FakeModel>(fake::Behaviour{}), fake_options(), -1), InvalidRequest);
}

}  // namespace
}  // namespace pydllm::engine
