#include "engine/forward_plan.h"

#include <algorithm>

#include "base/check.h"

namespace pydllm::engine {
namespace {

void check_rows(const decode::ForwardPlan& plan) {
  int32_t previous = plan.query_begin - 1;
  for (const int32_t row : plan.rows) {
    check(row > previous && row < plan.query_end, "forward plan asks for row ", row, " after ", previous);
    previous = row;
  }
}

void check_part_of_block(const LiveRequest& live) {
  const auto [begin, end] = std::pair(live.plan.query_begin, live.plan.query_end);
  const int32_t block_begin = live.blocks.floor(begin), block_end = live.blocks.next(begin);
  check(end <= block_end && live.committed_end == block_begin && live.written_end >= block_end, "forward plan [", begin,
        ", ", end, ") uses K/V of its block that are not there");
}

void check_window(const LiveRequest& live) {
  const auto [begin, end] = std::pair(live.plan.query_begin, live.plan.query_end);
  const int32_t length = live.canvas.length();
  check(0 <= begin && begin < end && end <= length, "forward plan covers [", begin, ", ", end, ") of a canvas of ",
        length);
  if (live.blocks.length == 0) {
    const bool whole = begin == 0 && end == length;
    check(whole || (live.plan.stale_context && live.denoise_steps > 0), "forward plan [", begin, ", ", end,
          ") of a full-attention model must cover the canvas or use K/V that are there");
    return;
  }
  if (live.plan.stale_context) return check_part_of_block(live);
  check(live.blocks.floor(begin) == begin && (live.blocks.floor(end) == end || end == length), "forward plan [", begin,
        ", ", end, ") is not made of blocks of ", live.blocks.length, " from ", live.blocks.origin, " on");
  check(begin <= live.canvas.final_end(), "forward plan [", begin, ", ", end, ") leaves positions that are not final");
}

// The first position that the denoising forward itself needs. With shifted logits the first row of a window is scored
// by the position before it.
int32_t needed_from(const LiveRequest& live) {
  const decode::ForwardPlan& plan = live.plan;
  const bool scores_first = !plan.rows.empty() && plan.rows.front() == plan.query_begin;
  return plan.query_begin - (live.logit_shift && scores_first && plan.query_begin > 0 ? 1 : 0);
}

// An algorithm's own mask.
void set_blocks(LiveRequest& live) {
  if (live.plan.block_length == 0) return;
  const BlockGrid blocks{.length = live.plan.block_length, .origin = live.canvas.prompt_length()};
  check(live.denoise_steps == 0 || blocks == live.blocks, "the attention mask changed during a request");
  live.blocks = blocks;
}

}  // namespace

void plan_forward(LiveRequest& live, int32_t max_batched_tokens) {
  live.plan = {};
  live.decoding->plan(live.canvas, live.plan);
  set_blocks(live);
  check_window(live);
  check_rows(live.plan);
  const int32_t lanes = live.plan.guided ? 2 : 1;
  check(live.denoise_steps == 0 || lanes == live.lanes, "guidance changed during a request");
  live.lanes = lanes;
  set_feed(live, max_batched_tokens);
}

void set_feed(LiveRequest& live, int32_t max_batched_tokens) {
  const decode::ForwardPlan& plan = live.plan;
  const int32_t needed = needed_from(live);
  const bool context_is_there = live.blocks.length == 0 || plan.stale_context;
  const int32_t begin = context_is_there ? needed : std::min(live.committed_end, needed);
  live.feed = {.begin = begin, .end = plan.query_end, .denoises = true};
  if (begin == needed || live.feed_tokens() <= max_batched_tokens) return;
  const int32_t end = std::max(live.blocks.floor(begin + max_batched_tokens / live.lanes), live.blocks.next(begin));
  live.feed = {.begin = begin, .end = std::min(plan.query_begin, end), .denoises = false};
}

void keep_committed(LiveRequest& live) {
  if (live.blocks.length == 0) return;
  live.written_end = std::max(live.written_end, live.feed.end);
  if (live.plan.stale_context && live.feed.denoises) return;  // what it wrote depends on K/V of other tokens
  const int32_t unchanged = std::min({live.feed.end, live.canvas.first_change(), live.canvas.final_end()});
  live.committed_end = std::max(live.committed_end, live.blocks.floor(unchanged));
}

}  // namespace pydllm::engine
