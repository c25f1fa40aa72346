#include "decode/block_causal_decoding.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace pydllm::decode {

BlockCausalDecoding::BlockCausalDecoding(const DecodeRequest& request) : block_length_(request.block_length) {
  check(block_length_ >= 1, "block-causal decoding over blocks of ", block_length_);
  begin_ = first_begin_ = request.prompt_length / block_length_ * block_length_;
}

void BlockCausalDecoding::plan(const Canvas& canvas, ForwardPlan& plan) {
  window_end_ = next_window_end(canvas);
  rows_.clear();
  add_rows(canvas, rows_);
  plan.rows = rows_;
  std::tie(plan.query_begin, plan.query_end) = fed(canvas, rows_);
  plan.stale_context = plan.query_begin > block_begin() || plan.query_end < window_end_;
  plan.filtered = false;
  plan.block_length = 0;
  plan.reconsidered = false;
  plan.guided = false;
  plan.guidance_scale = 0;
  extend(plan);
}

void BlockCausalDecoding::add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const {
  canvas.masked_positions(block_begin(), window_end_, rows);
}

void BlockCausalDecoding::commit(std::span<const RowStats> stats, Canvas& canvas) {
  check(stats.size() == rows_.size(), "decoding: ", stats.size(), " row statistics for ", rows_.size(), " rows");
  for (size_t i = 0; i < stats.size(); ++i) {
    check(stats[i].finite, "decoding: non-finite logits at position ", rows_[i]);
  }
  write(rows_, stats, canvas);
  ++step_;
  settle(canvas);
  while (canvas.final_end() >= block_end() && block_end() < canvas.answer_end()) {
    begin_ = block_end();
    step_ = 0;
  }
}

Progress BlockCausalDecoding::progress() const {
  return {(begin_ - first_begin_) / block_length_, block_begin(), block_end(), step_,
          std::max(block_end(), window_end_)};
}

CappedBlockCausalDecoding::CappedBlockCausalDecoding(const DecodeRequest& request, const ParamValues& values)
    : Capped(values.integer_or("max_steps_per_block", request.block_length), request) {}

}  // namespace pydllm::decode
