#include "decode/block_causal_decoding.h"

#include "base/check.h"

namespace pydllm::decode {

BlockCausalDecoding::BlockCausalDecoding(const DecodeRequest& request) : block_length_(request.block_length) {
  check(block_length_ >= 1, "block-causal decoding over blocks of ", block_length_);
  begin_ = first_begin_ = request.prompt_length / block_length_ * block_length_;
}

void BlockCausalDecoding::plan(const Canvas& canvas, ForwardPlan& plan) {
  plan.query_begin = block_begin();
  plan.query_end = block_end();
  rows_.clear();
  add_rows(canvas, rows_);
  plan.rows = rows_;
  plan.stale_context = false;
  plan.guided = false;
  plan.guidance_scale = 0;
}

void BlockCausalDecoding::add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const {
  canvas.masked_positions(block_begin(), block_end(), rows);
}

void BlockCausalDecoding::commit(std::span<const RowStats> stats, Canvas& canvas) {
  check(stats.size() == rows_.size(), "decoding: ", stats.size(), " row statistics for ", rows_.size(), " rows");
  for (size_t i = 0; i < stats.size(); ++i) {
    check(stats[i].finite, "decoding: non-finite logits at position ", rows_[i]);
  }
  write(rows_, stats, canvas);
  ++step_;
  if (canvas.final_end() < block_end() || block_end() >= canvas.answer_end()) return;
  begin_ = block_end();
  step_ = 0;
}

Progress BlockCausalDecoding::progress() const {
  return {(begin_ - first_begin_) / block_length_, block_begin(), block_end(), step_};
}

void BlockCausalChoice::write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) {
  confidences_.clear();
  for (const RowStats& row : stats) confidences_.push_back(row.confidence);
  chosen_.resize(rows.size());
  const int32_t count = choose(confidences_, chosen_.data());
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(chosen_[static_cast<size_t>(i)]);
    canvas.commit(rows[row], stats[row].token, stats[row].confidence);
  }
}

}  // namespace pydllm::decode
