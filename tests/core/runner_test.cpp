#include "engine/runner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/errors.h"
#include "engine/prepare.h"
#include "engine/step_input.h"
#include "fake_model.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kMask = 60;

EngineOptions small_options() {
  EngineOptions options;
  options.max_model_len = 128;
  options.page_size = 8;
  options.pages = 64;
  options.max_logit_rows = 16;
  options.mask_token_id = kMask;
  return options;
}

std::vector<int32_t> to_vector(const Tensor& tensor) {
  const auto* data = tensor.data<int32_t>();
  return {data, data + tensor.numel()};
}

// Requests with pages, as the engine would have made them.
class Bench {
 public:
  explicit Bench(fake::Behaviour behaviour = {}, EngineOptions options = small_options())
      : options_(options),
        model_(std::move(behaviour)),
        cache_({.layers = 1, .kv_heads = 1, .head_dim = 1, .page_size = options.page_size, .dtype = DType::kF32},
               options.pages, Device{}) {}

  LiveRequest& add(Request request) {
    live_.push_back(prepare(std::move(request), model_.info(), options_));
    LiveRequest& live = *live_.back();
    live.id = live_.size();
    for (int lane = 0; lane < live.lanes; ++lane) take_pages(live, lane);
    if (live.request.trace)
      live.first_logits = Tensor::empty({live.canvas.length(), model_.info().vocab_size}, DType::kF32);
    return live;
  }

  std::vector<LiveRequest*> batch() const {
    std::vector<LiveRequest*> all;
    for (const auto& live : live_) all.push_back(live.get());
    return all;
  }

  StepResult run() { return Runner({.device = {}, .pool = &pool_}, model_, cache_, options_).run(batch()); }

 private:
  // Every second page, downwards: page tables must not need to be contiguous.
  void take_pages(LiveRequest& live, int lane) {
    const auto count = pages_needed(live, options_.page_size) / live.lanes;
    for (int64_t i = 0; i < count; ++i) {
      live.pages[static_cast<size_t>(lane)].push_back(next_page_);
      next_page_ = next_page_ > 1 ? next_page_ - 2 : options_.pages - 2;
    }
  }

  EngineOptions options_;
  fake::FakeModel model_;
  KvCache cache_;
  ThreadPool pool_{1};
  PageId next_page_ = 63;
  std::vector<std::unique_ptr<LiveRequest>> live_;
};

Request ask(std::vector<int32_t> prompt, int32_t max_tokens, double cfg_scale = 0) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.algorithm = "llada_schedule";
  if (cfg_scale > 0) request.params = {{"cfg_scale", cfg_scale}};
  return request;
}

TEST(StepInput, LaysSequencesSideBySideWithTheirOwnPagesAndSlots) {
  Bench bench;
  bench.add(ask({1, 2, 3}, 7));
  bench.add(ask({9}, 2));
  const auto batch = bench.batch();
  const StepPlan plan = build_step(batch, 8, 16);
  EXPECT_EQ(to_vector(plan.input.tokens),
            (std::vector<int32_t>{1, 2, 3, kMask, kMask, kMask, kMask, kMask, kMask, kMask, 9, kMask, kMask}));
  EXPECT_EQ(to_vector(plan.input.positions), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2}));
  const auto* slots = plan.input.slots.data<int64_t>();
  EXPECT_EQ((std::vector<int64_t>{slots[0], slots[7], slots[8], slots[10]}),
            (std::vector<int64_t>{63 * 8, 63 * 8 + 7, 61 * 8, 59 * 8}));
  ASSERT_EQ(plan.input.sequences.size(), 2u);
  EXPECT_EQ(plan.input.sequences[1].query_begin, 10);
  EXPECT_EQ(plan.input.sequences[1].query_length, 3);
  EXPECT_EQ(plan.input.sequences[1].kv_length, 3);
  EXPECT_EQ(plan.input.sequences[0].pages.data(), batch[0]->pages[0].data());
  EXPECT_EQ(to_vector(plan.input.hidden_rows), (std::vector<int32_t>{3, 4, 5, 6, 7, 8, 9, 11, 12}));
}

TEST(StepInput, WithShiftedLogitsTheRowBeforeAPositionTellsAboutIt) {
  Bench bench({.logit_shift = true});
  bench.add(ask({1, 2, 3}, 4));
  bench.add(ask({4, 5}, 2, 1.5));
  const StepPlan plan = build_step(bench.batch(), 8, 16);
  EXPECT_EQ(to_vector(plan.input.hidden_rows), (std::vector<int32_t>{2, 3, 4, 5, 8, 9, 12, 13}));
  EXPECT_EQ(plan.sampling.front().position, 3u);
}

TEST(StepInput, MasksThePromptInTheGuidedLaneOnly) {
  Bench bench;
  bench.add(ask({1, kMask, 3}, 2, 1.5));
  bench.add(ask({4}, 1));
  const StepPlan plan = build_step(bench.batch(), 8, 16);
  EXPECT_EQ(to_vector(plan.input.tokens),
            (std::vector<int32_t>{1, kMask, 3, kMask, kMask, kMask, kMask, kMask, kMask, kMask, 4, kMask}));
  EXPECT_EQ(plan.input.sequences.size(), 3u);
  // Unguided rows first, then the guided request's conditional and unconditional ones.
  EXPECT_EQ(to_vector(plan.input.hidden_rows), (std::vector<int32_t>{11, 3, 4, 8, 9}));
  EXPECT_EQ(plan.scored[0].begin, 1);
  EXPECT_EQ(plan.scored[0].count, 2);
  EXPECT_EQ(plan.scored[1].begin, 0);
}

TEST(StepInput, SamplesWithTheDenoisingStepAndTheAbsolutePosition) {
  Bench bench;
  Request request = ask({1, 2, 3}, 2);
  request.temperature = 0.5f;
  request.top_k = 7;
  request.top_p = 0.25f;
  request.seed = 99;
  LiveRequest& live = bench.add(request);
  live.denoise_steps = 5;
  const StepPlan plan = build_step(bench.batch(), 8, 16);
  ASSERT_EQ(plan.sampling.size(), 2u);
  const RowSampling& last = plan.sampling[1];
  EXPECT_EQ(last.temperature, 0.5f);
  EXPECT_EQ(last.top_k, 7);
  EXPECT_EQ(last.top_p, 0.25f);
  EXPECT_EQ(last.seed, 99u);
  EXPECT_EQ(last.step, 5u);
  EXPECT_EQ(last.position, 4u);
}

TEST(StepInput, ChunksCoverEveryRowOnceAndKeepTheBound) {
  for (const int32_t bound : {2, 3, 7, 8, 9, 64}) {
    Bench bench;
    bench.add(ask({1}, 9));
    bench.add(ask({2, 3}, 8, 2.0));
    bench.add(ask({4}, 7));
    const StepPlan plan = build_step(bench.batch(), 8, bound);
    int32_t hidden = 0;
    std::vector<int> covered(9 + 8 + 7);
    for (const LogitChunk& chunk : plan.chunks) {
      EXPECT_EQ(chunk.hidden_begin, hidden);
      EXPECT_LE(chunk.hidden_rows, bound);
      EXPECT_EQ(chunk.hidden_rows, chunk.scored_rows * (chunk.guided ? 2 : 1));
      hidden += chunk.hidden_rows;
      for (int32_t i = 0; i < chunk.scored_rows; ++i) ++covered[static_cast<size_t>(chunk.scored_begin + i)];
    }
    EXPECT_EQ(hidden, plan.input.hidden_rows.size(0));
    EXPECT_EQ(covered, std::vector<int>(covered.size(), 1)) << bound;
  }
}

TEST(StepInput, RefusesABoundThatCannotHoldAGuidedPair) {
  Bench bench;
  bench.add(ask({1}, 2));
  EXPECT_THROW(build_step(bench.batch(), 8, 1), InternalError);
}

// Arg-max and probability of one canvas position by the formulas in float64.
struct Expected {
  int32_t token = -1;
  double probability = 0;
};

std::vector<double> row_logits(const fake::Behaviour& behaviour, const std::vector<int32_t>& sequence,
                               int32_t position) {
  const uint64_t hash = fake::hash_of(sequence);
  std::vector<double> row;
  for (int32_t token = 0; token < behaviour.vocab; ++token) {
    row.push_back(static_cast<double>(fake::logit(behaviour, hash, position, token)));
  }
  return row;
}

std::vector<double> guided_logits(std::vector<int32_t> sequence, size_t prompt, int32_t position, double scale) {
  const std::vector<double> conditional = row_logits({}, sequence, position);
  std::fill_n(sequence.begin(), prompt, kMask);
  std::vector<double> row = row_logits({}, sequence, position);
  for (size_t i = 0; i < row.size(); ++i) row[i] += (scale + 1) * (conditional[i] - row[i]);
  return row;
}

Expected expected_of(const std::vector<double>& row) {
  Expected best;
  double total = 0;
  for (const double value : row) total += std::exp(value);
  for (int32_t token = 0; token < static_cast<int32_t>(row.size()); ++token) {
    const double probability = std::exp(row[static_cast<size_t>(token)]) / total;
    if (token != kMask && probability > best.probability) best = {token, probability};
  }
  return best;
}

TEST(Runner, StatisticsMatchTheFormulaForEveryChunkSize) {
  const std::vector<int32_t> first = {1, 2, 3}, second = {7, 8};
  const double scale = 1.5;
  for (const int32_t bound : {2, 3, 5, 16}) {
    EngineOptions options = small_options();
    options.max_logit_rows = bound;
    Bench bench({}, options);
    bench.add(ask(second, 9, scale));
    bench.add(ask(first, 13));
    const StepResult result = bench.run();
    EXPECT_EQ(result.tokens, 2 * 11 + 16);
    ASSERT_EQ(result.stats[0].size(), 9u);
    ASSERT_EQ(result.stats[1].size(), 13u);
    std::vector<int32_t> canvas = second;
    canvas.resize(11, kMask);
    for (int32_t i = 0; i < 9; ++i) {
      const Expected expected = expected_of(guided_logits(canvas, 2, 2 + i, scale));
      EXPECT_EQ(result.stats[0][static_cast<size_t>(i)].token, expected.token);
      EXPECT_NEAR(result.stats[0][static_cast<size_t>(i)].confidence, expected.probability, 1e-5);
    }
    canvas = first;
    canvas.resize(16, kMask);
    for (int32_t i = 0; i < 13; ++i) {
      const Expected expected = expected_of(row_logits({}, canvas, 3 + i));
      EXPECT_EQ(result.stats[1][static_cast<size_t>(i)].token, expected.token);
      EXPECT_NEAR(result.stats[1][static_cast<size_t>(i)].confidence, expected.probability, 1e-5);
    }
  }
}

TEST(Runner, NeverHoldsMoreLogitRowsThanItMay) {
  int64_t most = 0;
  fake::Behaviour behaviour;
  behaviour.on_logits = [&](int64_t rows) { most = std::max(most, rows); };
  Bench bench(behaviour);
  for (int i = 0; i < 5; ++i) bench.add(ask({1, 2}, 21, i % 2 ? 1.0 : 0.0));
  bench.run();
  EXPECT_EQ(most, 16);
}

TEST(Runner, TracedRequestsGetTheFirstLogitsOfTheWholeCanvasAndTheirPlannedStatistics) {
  for (const double scale : {0.0, 0.75}) {
    Bench bench;
    Request request = ask({5, 6, 7}, 20, scale);
    request.params.emplace_back("block_length", int64_t{4});
    request.params.emplace_back("steps", int64_t{5});
    request.trace = true;
    bench.add(ask({1}, 17));
    LiveRequest& traced = bench.add(request);
    const StepResult result = bench.run();
    std::vector<int32_t> canvas = {5, 6, 7};
    canvas.resize(23, kMask);
    expect_shape(traced.first_logits, "first_logits", {23, 61});
    for (int32_t position = 0; position < 23; ++position) {
      const auto row = scale > 0 ? guided_logits(canvas, 3, position, scale) : row_logits({}, canvas, position);
      for (int32_t token = 0; token < 61; ++token) {
        ASSERT_NEAR(traced.first_logits.data<float>()[position * 61 + token], row[static_cast<size_t>(token)], 1e-4);
      }
    }
    ASSERT_EQ(result.stats[1].size(), traced.plan.rows.size());
    const int32_t position = traced.plan.rows.back();
    const auto row = scale > 0 ? guided_logits(canvas, 3, position, scale) : row_logits({}, canvas, position);
    EXPECT_EQ(result.stats[1].back().token, expected_of(row).token);
  }
}

TEST(Runner, ATraceHoldsTheModelsOwnRowsWhileDecodingReadsShiftedOnes) {
  for (const int32_t chunk : {2, 16}) {
    EngineOptions options = small_options();
    options.max_logit_rows = chunk;
    Bench bench({.logit_shift = true}, options);
    Request request = ask({5, 6, 7}, 9);
    request.trace = true;
    bench.add(ask({1}, 5));
    LiveRequest& traced = bench.add(request);
    const StepResult result = bench.run();
    std::vector<int32_t> canvas = {5, 6, 7};
    canvas.resize(12, kMask);
    for (int32_t position = 0; position < 12; ++position) {
      const auto row = row_logits({}, canvas, position);
      for (int32_t token = 0; token < 61; ++token) {
        ASSERT_NEAR(traced.first_logits.data<float>()[position * 61 + token], row[static_cast<size_t>(token)], 1e-4);
      }
    }
    for (size_t i = 0; i < traced.plan.rows.size(); ++i) {
      const auto before = row_logits({}, canvas, traced.plan.rows[i] - 1);
      EXPECT_EQ(result.stats[1][i].token, expected_of(before).token);
    }
  }
}

TEST(Runner, AForwardWithoutRowsStillRunsTheModel) {
  int forwards = 0;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput&) { ++forwards; };
  Bench bench(behaviour);
  LiveRequest& live = bench.add(ask({1}, 4));
  live.plan.rows.clear();
  const StepResult result = bench.run();
  EXPECT_EQ(forwards, 1);
  EXPECT_TRUE(result.stats[0].empty());
}

TEST(Runner, ReportsNonFiniteRowsOfTheirOwnRequestOnly) {
  fake::Behaviour behaviour;
  behaviour.nan_token = 13;
  Bench bench(behaviour);
  bench.add(ask({1, 13}, 4));
  bench.add(ask({1, 12}, 4));
  const StepResult result = bench.run();
  for (const RowStats& row : result.stats[0]) EXPECT_FALSE(row.finite);
  for (const RowStats& row : result.stats[1]) EXPECT_TRUE(row.finite);
}

}  // namespace
}  // namespace pydllm::engine
