#include "decode/block_decoding.h"

#include <algorithm>

#include "base/check.h"
#include "select/rule.h"

namespace pydllm::decode {

Remasking parse_remasking(std::string_view name) {
  if (name == "low_confidence") return Remasking::kLowConfidence;
  if (name == "random") return Remasking::kRandom;
  throw InternalError(format("remasking: unknown choice ", name));
}

WindowCache parse_cache(std::string_view name) {
  if (name == "none") return WindowCache::kNone;
  if (name == "prefix") return WindowCache::kPrefix;
  if (name == "dual") return WindowCache::kDual;
  throw InternalError(format("cache: unknown choice ", name));
}

int32_t tokens_to_generate(const DecodeRequest& request, int32_t begin, int32_t end) {
  if (request.fixed.empty()) return end - begin;
  const auto fixed = request.fixed.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return static_cast<int32_t>(std::ranges::count(fixed, uint8_t{0}));
}

int32_t tokens_to_generate(const DecodeRequest& request) {
  return tokens_to_generate(request, 0, request.max_tokens);
}

BlockWalk::BlockWalk(const DecodeRequest& request, int64_t block_length)
    : prompt_length_(request.prompt_length),
      max_tokens_(request.max_tokens),
      block_length_(static_cast<int32_t>(std::min<int64_t>(block_length, request.max_tokens))) {
  check(max_tokens_ >= 1 && block_length_ >= 1, "blocks of ", block_length, " over ", max_tokens_, " tokens");
}

int32_t BlockWalk::end_offset() const noexcept {
  return begin_ + std::min(block_length_, max_tokens_ - begin_);
}

void BlockWalk::next_block() noexcept {
  begin_ = end_offset();
  step_ = 0;
}

BlockDecoding::BlockDecoding(const DecodeRequest& request, int64_t block_length, Remasking remasking, WindowCache cache)
    : walk_(request, block_length),
      max_tokens_(request.max_tokens),
      seed_(request.seed),
      remasking_(remasking),
      cache_(cache) {}

void BlockDecoding::plan(const Canvas& canvas, ForwardPlan& plan) {
  skip_finished_blocks(canvas);
  rows_.clear();
  // Nothing before final_end() is masked, so the scan starts there.
  canvas.masked_positions(std::min(canvas.final_end(), walk_.end()), eligible_end(canvas), rows_);
  set_window(canvas, plan);
  plan.rows = rows_;
  plan.filtered = false;
  plan.block_length = 0;
  plan.reconsidered = false;
  plan.guided = false;
  plan.guidance_scale = 0;
  extend(plan);
}

void BlockDecoding::set_window(const Canvas& canvas, ForwardPlan& plan) {
  plan.stale_context = cache_ != WindowCache::kNone && walk_.step() > 0;
  plan.query_begin = plan.stale_context ? walk_.begin() : 0;
  plan.query_end = plan.stale_context && cache_ == WindowCache::kDual ? walk_.end() : canvas.length();
}

void BlockDecoding::commit(std::span<const RowStats> stats, Canvas& canvas) {
  check(stats.size() == rows_.size(), "decoding: ", stats.size(), " row statistics for ", rows_.size(), " rows");
  rank(stats);
  chosen_.resize(rows_.size());
  const int32_t count = choose(ranks_, chosen_.data());
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(chosen_[static_cast<size_t>(i)]);
    canvas.commit(rows_[row], stats[row].token, stats[row].confidence);
  }
  ++forward_;
  walk_.count_step();
  settle(canvas);
  skip_finished_blocks(canvas);
}

bool BlockDecoding::done(const Canvas& canvas) const {
  return canvas.masked_count() == 0 && forward_ >= forwards_due(max_tokens_);
}

bool BlockDecoding::block_finished(const Canvas& canvas) const {
  return canvas.final_end() >= walk_.end() && forward_ >= forwards_due(walk_.end_offset());
}

void BlockDecoding::skip_finished_blocks(const Canvas& canvas) {
  while (!walk_.last() && block_finished(canvas)) walk_.next_block();
}

void BlockDecoding::rank(std::span<const RowStats> stats) {
  ranks_.clear();
  for (size_t i = 0; i < stats.size(); ++i) {
    check(stats[i].finite, "decoding: non-finite logits at position ", rows_[i]);
    ranks_.push_back(remasking_ == Remasking::kLowConfidence ? score(stats[i]) : uniform(i));
  }
}

float BlockDecoding::uniform(size_t row) const {
  return select::position_draw(seed_, forward_, rows_[row]);
}

CappedBlockDecoding::CappedBlockDecoding(const DecodeRequest& request, const ParamValues& values)
    : Capped(values.integer_or("max_steps_per_block", values.integer("block_length")), request,
             values.integer("block_length"), parse_remasking(values.choice("remasking")),
             parse_cache(values.choice("cache"))) {}

}  // namespace pydllm::decode
