// Runs a decoding algorithm without a model: row statistics come from a function of position and forward.
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "decode/algorithm.h"
#include "on_models.h"

namespace pydllm::decode {

struct DriverRequest {
  std::vector<int32_t> prompt = {0};
  int32_t max_tokens = 4;
  int32_t mask_id = 3;
  uint64_t seed = 0;
  int32_t block_length = 5;  // of a block-causal model
  std::vector<int32_t> eos_token_ids = {};
  // Infilling: what follows the prompt, -1 in holes; max_tokens counts for nothing then.
  std::vector<int32_t> rest = {};
  int32_t delete_id = 4;  // control tokens, for an algorithm that edits by them
  int32_t split_id = 5;
  std::optional<AttentionKind> attention = {};  // of the model; unset: the first kind that the algorithm runs on
};

using StatsOf = std::function<RowStats(int32_t position, int32_t forward)>;

// Of a row whose logits are edited by biases, from its statistics before.
using EditedStats = std::function<RowStats(const RowStats&, int32_t position, std::span<const LogitEdit>)>;

// What follows without the row: its token stays, with the probability that the edit of its logit gives it.
inline RowStats with_same_token(const RowStats& stats, int32_t /*position*/, std::span<const LogitEdit> edits) {
  RowStats out = stats;
  for (const LogitEdit& edit : edits) {
    if (edit.id != stats.token) continue;
    const double p = static_cast<double>(stats.confidence), raised = p * std::exp(static_cast<double>(edit.bias));
    out.confidence = static_cast<float>(raised / (1 - p + raised));
  }
  return out;
}

// Canvases with masked positions as -1.
inline std::vector<int32_t> visible(const Canvas& canvas) {
  std::vector<int32_t> out(canvas.tokens().begin(), canvas.tokens().end());
  for (int32_t i = 0; i < canvas.length(); ++i) {
    if (canvas.masked(i)) out[static_cast<size_t>(i)] = -1;
  }
  return out;
}

inline Canvas make_canvas(const DriverRequest& request, int32_t model_block, Finality finality) {
  if (!request.rest.empty()) return {request.prompt, request.rest, request.mask_id};
  return {request.prompt, request.max_tokens, request.mask_id, model_block, finality};
}

// One request with its canvas and decoding state.
struct Driver {
  Driver(const DriverRequest& request, std::string_view algorithm_name, const ParamMap& given)
      : algorithm(find_algorithm(algorithm_name)),
        attention(request.attention.value_or(first_attention(algorithm))),
        params(check_params(algorithm, attention, given)),
        eos_token_ids(request.eos_token_ids),
        model_block(attention == AttentionKind::kBlockCausal ? request.block_length : 0),
        canvas(make_canvas(request, model_block, algorithm.finality)),
        decoding(algorithm.begin({.prompt_length = static_cast<int32_t>(request.prompt.size()),
                                  .max_tokens = canvas.answer_end() - canvas.prompt_length(),
                                  .block_length = model_block,
                                  .seed = request.seed,
                                  .eos_token_ids = eos_token_ids,
                                  .delete_token_id = request.delete_id,
                                  .split_token_id = request.split_id,
                                  .params = &params,
                                  .fixed = canvas.fixed_in_answer()})) {}

  bool done() const { return decoding->done(canvas); }

  void step(const StatsOf& stats_of) {
    decoding->plan(canvas, plan);
    std::vector<RowStats> stats;
    for (const int32_t position : plan.rows) stats.push_back(stats_of(position, forwards));
    for (size_t row = 0; row < stats.size() && plan.reconsidered; ++row) {
      std::vector<LogitEdit> edits;
      decoding->reconsider(row, stats[row], edits);
      stats[row] = edited(stats[row], plan.rows[row], edits);
    }
    decoding->commit(stats, canvas);
    ++forwards;
  }

  const Algorithm& algorithm;
  AttentionKind attention;
  ParamMap params;
  std::vector<int32_t> eos_token_ids;
  int32_t model_block;
  Canvas canvas;
  std::unique_ptr<Decoding> decoding;
  ForwardPlan plan;
  int32_t forwards = 0;
  EditedStats edited = with_same_token;
};

// Every canvas before a forward, and the final one. Stops after `limit` forwards.
inline std::vector<std::vector<int32_t>> canvases(Driver& driver, const StatsOf& stats_of, int32_t limit = 10000) {
  std::vector<std::vector<int32_t>> out = {visible(driver.canvas)};
  while (!driver.done() && driver.forwards < limit) {
    driver.step(stats_of);
    out.push_back(visible(driver.canvas));
  }
  return out;
}

// splitmix64: random-looking, reproducible numbers from a few coordinates.
inline uint64_t mixed(uint64_t a, uint64_t b, uint64_t c = 0) {
  uint64_t z = a * 0x9E3779B97F4A7C15u + b * 0xD1B54A32D192ED03u + c * 0x8CB92BA72F3D8DD7u + 0x2545F4914F6CDD1Du;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Random statistics on `levels` distinct values, so that ties are frequent when there are few. Ids below `vocab`.
inline StatsOf random_stats(uint64_t seed, uint64_t levels, int32_t vocab) {
  return [=](int32_t position, int32_t forward) {
    const uint64_t bits = mixed(seed, static_cast<uint64_t>(position), static_cast<uint64_t>(forward));
    RowStats stats;
    stats.token = static_cast<int32_t>(bits % static_cast<uint64_t>(vocab));
    stats.confidence = static_cast<float>((bits >> 20) % levels + 1) / static_cast<float>(levels + 1);
    stats.entropy = 2.f * static_cast<float>((bits >> 40) % levels) / static_cast<float>(levels);
    // The token is the most probable one; the next ids are its runners-up.
    stats.top1 = stats.token;
    stats.top1_probability = stats.confidence;
    stats.top2 = (stats.token + 1) % vocab;
    stats.top2_probability = stats.confidence / 2;
    stats.text = vocab > 6 && (stats.token == 4 || stats.token == 5) ? 6 : stats.token;
    stats.text_probability = stats.confidence / 3;
    stats.filtered = {.confidence = stats.confidence, .margin = stats.confidence / 2, .entropy = stats.entropy};
    stats.finite = true;
    return stats;
  };
}

}  // namespace pydllm::decode
