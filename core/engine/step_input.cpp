#include "engine/step_input.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "cache/kv_cache.h"

namespace pydllm::engine {
namespace {

class StepBuilder {
 public:
  StepBuilder(std::span<LiveRequest* const> batch, int32_t page_size, int32_t max_logit_rows)
      : batch_(batch), page_size_(page_size), max_logit_rows_(max_logit_rows) {}

  StepPlan build() {
    plan_.scored.resize(batch_.size());
    query_row_.resize(batch_.size());
    for (size_t i = 0; i < batch_.size(); ++i) add_sequences(i);
    for (size_t i = 0; i < batch_.size(); ++i) {
      if (batch_[i]->lanes == 1) add_unguided_rows(i);
    }
    chunk_unguided();
    for (size_t i = 0; i < batch_.size(); ++i) {
      if (batch_[i]->lanes == 2) add_guided_rows(i);
    }
    finish();
    return std::move(plan_);
  }

 private:
  void add_sequences(size_t index) {
    const LiveRequest& live = *batch_[index];
    query_row_[index] = static_cast<int32_t>(tokens_.size());
    for (int lane = 0; lane < live.lanes; ++lane) add_sequence(live, lane);
  }

  void add_sequence(const LiveRequest& live, int lane) {
    const std::vector<PageId>& pages = live.pages[static_cast<size_t>(lane)];
    plan_.input.sequences.push_back({.query_begin = static_cast<int32_t>(tokens_.size()),
                                     .query_length = live.feed.length(),
                                     .kv_length = live.visible_end(),
                                     .pages = pages,
                                     .query_position = live.feed.begin,
                                     .block_length = live.blocks.length,
                                     .block_origin = live.blocks.origin});
    for (int32_t position = live.feed.begin; position < live.feed.end; ++position) {
      const bool hidden = lane == 1 && live.canvas.fixed(position);
      tokens_.push_back(hidden ? live.canvas.mask_token_id() : live.canvas.tokens()[static_cast<size_t>(position)]);
      positions_.push_back(position);
      slots_.push_back(slot_of(pages, page_size_, position));
    }
  }

  // With shifted logits the position behind the window is scored, too, when everything is: by the window's last row,
  // which no other position asks for.
  static std::vector<int32_t> scored_positions(const LiveRequest& live) {
    if (!live.feed.denoises) return {};
    if (!live.scores_everything()) return live.plan.rows;
    std::vector<int32_t> all(static_cast<size_t>(live.window_length()) + (live.logit_shift ? 1 : 0));
    std::iota(all.begin(), all.end(), live.plan.query_begin);
    return all;
  }

  void add_sampling(size_t index, std::span<const int32_t> positions) {
    const LiveRequest& live = *batch_[index];
    plan_.scored[index] = {static_cast<int32_t>(plan_.sampling.size()), static_cast<int32_t>(positions.size())};
    RowEdits edits(live.rules, live.canvas, plan_.edits);
    for (const int32_t position : positions) {
      plan_.sampling.push_back({.temperature = live.request.temperature,
                                .top_p = live.request.top_p,
                                .top_k = live.request.top_k,
                                .seed = live.request.seed,
                                .step = static_cast<uint32_t>(live.denoise_steps),
                                .position = static_cast<uint32_t>(position),
                                .filtered = live.plan.filtered,
                                .min_p = live.request.min_p,
                                .edits = edits.of(position),
                                .controls = live.controls});
    }
  }

  void add_hidden(size_t index, int lane, std::span<const int32_t> positions) {
    const LiveRequest& live = *batch_[index];
    const int32_t first = query_row_[index] + lane * live.feed.length() - live.feed.begin;
    for (const int32_t position : positions) hidden_rows_.push_back(first + live.scoring_position(position));
  }

  void add_unguided_rows(size_t index) {
    const std::vector<int32_t> positions = scored_positions(*batch_[index]);
    add_sampling(index, positions);
    add_hidden(index, 0, positions);
  }

  // So far hidden rows and scored rows are the same list.
  void chunk_unguided() {
    const auto total = static_cast<int32_t>(hidden_rows_.size());
    for (int32_t begin = 0; begin < total; begin += max_logit_rows_) {
      const int32_t rows = std::min(max_logit_rows_, total - begin);
      plan_.chunks.push_back({.hidden_begin = begin, .hidden_rows = rows, .scored_begin = begin, .scored_rows = rows});
    }
  }

  void add_guided_rows(size_t index) {
    const std::vector<int32_t> positions = scored_positions(*batch_[index]);
    add_sampling(index, positions);
    const auto pairs = static_cast<size_t>(max_logit_rows_ / 2);
    for (size_t begin = 0; begin < positions.size(); begin += pairs) {
      const size_t count = std::min(pairs, positions.size() - begin);
      add_guided_chunk(index, std::span(positions).subspan(begin, count), static_cast<int32_t>(begin));
    }
  }

  void add_guided_chunk(size_t index, std::span<const int32_t> positions, int32_t offset) {
    const auto rows = static_cast<int32_t>(positions.size());
    plan_.chunks.push_back({.hidden_begin = static_cast<int32_t>(hidden_rows_.size()),
                            .hidden_rows = 2 * rows,
                            .scored_begin = plan_.scored[index].begin + offset,
                            .scored_rows = rows,
                            .guided = true,
                            .guidance_scale = batch_[index]->plan.guidance_scale});
    add_hidden(index, 0, positions);
    add_hidden(index, 1, positions);
  }

  void finish() {
    plan_.input.tokens = Tensor::from<int32_t>(tokens_);
    plan_.input.positions = Tensor::from<int32_t>(positions_);
    plan_.input.slots = Tensor::from<int64_t>(slots_);
    plan_.input.hidden_rows = Tensor::from<int32_t>(hidden_rows_);
  }

  std::span<LiveRequest* const> batch_;
  int32_t page_size_;
  int32_t max_logit_rows_;
  StepPlan plan_;
  std::vector<int32_t> tokens_, positions_, hidden_rows_;
  std::vector<int64_t> slots_;
  std::vector<int32_t> query_row_;  // of each request's first lane
};

}  // namespace

StepPlan build_step(std::span<LiveRequest* const> batch, int32_t page_size, int32_t max_logit_rows) {
  check(max_logit_rows >= 2, "step input: max_logit_rows must be at least 2, got ", max_logit_rows);
  return StepBuilder(batch, page_size, max_logit_rows).build();
}

}  // namespace pydllm::engine
