// Decoding without a cache: what the pages keep must never show.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine_harness.h"
#include "hand_run.h"

namespace pydllm::engine {

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> confidences;
  int32_t denoise_steps = 0;
  bool operator==(const Answer&) const = default;
};

// Every step is one forward over the whole canvas up to the window's end, on fresh pages. control_tokens: the model has
// kDelete and kSplit, as with options_of.
inline Answer uncached(Model& model, const Request& request, bool control_tokens) {
  const decode::Algorithm& algorithm = decode::find_algorithm(request.algorithm);
  const decode::ParamMap params = decode::check_params(algorithm, model.info().attention, request.params);
  decode::Canvas canvas(request.prompt, request.max_tokens, kMask, model.info().block_length, algorithm.finality);
  const auto decoding = algorithm.begin({.prompt_length = canvas.prompt_length(),
                                         .max_tokens = request.max_tokens,
                                         .block_length = model.info().block_length,
                                         .seed = request.seed,
                                         .eos_token_ids = request.eos_token_ids,
                                         .delete_token_id = kDelete,
                                         .split_token_id = kSplit,
                                         .params = &params});
  Answer answer;
  while (!decoding->done(canvas)) {
    decode::ForwardPlan plan;
    decoding->plan(canvas, plan);
    HandRun fresh(model, plan.query_end, kMask);
    if (control_tokens) (algorithm.reads_controls ? fresh.controls : fresh.never) = {kDelete, kSplit};
    fresh.filtered = plan.filtered;
    if (plan.reconsidered) fresh.second_look = decoding.get();
    if (plan.block_length > 0) fresh.blocks = {plan.block_length, canvas.prompt_length()};
    decoding->commit(
        fresh.step(canvas.tokens(), 0, plan.query_end, plan.query_end, plan.rows, request, answer.denoise_steps++),
        canvas);
  }
  const auto begin = static_cast<size_t>(canvas.prompt_length()), count = static_cast<size_t>(request.max_tokens);
  answer.tokens.assign(canvas.tokens().begin() + begin, canvas.tokens().begin() + begin + count);
  answer.confidences.assign(canvas.confidences().begin() + begin, canvas.confidences().begin() + begin + count);
  return answer;
}

// Confidences as the last snapshot of each position shows them.
inline Answer answer_of(const Stream& stream) {
  Answer answer{stream.tokens(), {}, stream.end().denoise_steps};
  answer.confidences.resize(answer.tokens.size());
  for (const Event& event : stream.events) {
    const auto offset = static_cast<size_t>(event.snapshot_offset);
    for (size_t i = 0; i < event.snapshot_confidences.size() && offset + i < answer.confidences.size(); ++i) {
      answer.confidences[offset + i] = event.snapshot_confidences[i];
    }
  }
  return answer;
}

struct Setting {
  int32_t budget;
  int32_t page_size;
  int32_t max_logit_rows;
  int threads;
};

// Whole prompts, chunks of one block, and chunks that are no multiple of it.
inline constexpr Setting kSettings[] = {{512, 8, 32, 1}, {1, 3, 2, 2}, {13, 16, 5, 1}};

inline EngineOptions options_of(const Setting& setting) {
  EngineOptions options = fake_options();
  options.max_batched_tokens = setting.budget;
  options.page_size = setting.page_size;
  options.max_logit_rows = setting.max_logit_rows;
  options.pages = 2048;
  options.delete_token_id = kDelete;
  options.split_token_id = kSplit;
  return options;
}

}  // namespace pydllm::engine
