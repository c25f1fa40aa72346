// A request between submission and its terminal event. Made by the submitting thread, then owned by the engine thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/page_pool.h"
#include "decode/algorithm.h"
#include "decode/canvas.h"
#include "engine/logit_rules.h"
#include "engine/request.h"
#include "tensor/tensor.h"

namespace pydllm::engine {

// The positions that a forward feeds to the model. One that does not denoise only brings K/V of final tokens to the
// pages: a piece of a prompt too long for one forward.
struct Feed {
  int32_t begin = 0;
  int32_t end = 0;
  bool denoises = true;
  int32_t length() const { return end - begin; }
};

struct LiveRequest {
  LiveRequest(Request given, decode::Canvas fresh) : request(std::move(given)), canvas(std::move(fresh)) {}

  RequestId id = 0;
  Request request;  // eos_token_ids, stop_token_ids and logit_bias sorted
  LogitRules rules;
  std::vector<int32_t> controls;  // RowSampling::controls of its rows: of the model, where the algorithm reads them
  Clock::time_point submitted;
  decode::Canvas canvas;
  std::unique_ptr<decode::Decoding> decoding;
  decode::ForwardPlan plan;  // of the next denoising forward
  Feed feed;                 // of the next forward
  BlockGrid blocks;          // of a block-causal model, or of the first plan
  bool logit_shift = false;  // of the model
  // The pages hold the K/V of [0, committed_end): a forward over the final ids of these positions wrote them. A block's
  // boundary; always 0 with full attention, where a change anywhere changes all of them.
  int32_t committed_end = 0;
  int32_t written_end = 0;  // the pages hold some forward's K/V of [0, written_end)
  int32_t lanes = 1;        // sequences in a forward: 2 when guided (the second has every fixed position masked)

  // From admission on.
  bool admitted = false;
  double queue_seconds = 0;
  std::array<std::vector<PageId>, 2> pages;  // of each lane
  Tensor first_logits;                       // float32 [window, vocab] when traced, until it is delivered

  int32_t forward_passes = 0;
  int32_t denoise_steps = 0;
  decode::Progress progress;           // of the last denoising forward
  int32_t delivered = 0;               // generated tokens in events so far
  int32_t repetition_run = 0;          // equal tokens at the end of the delivered ones
  std::vector<BlockDone> open_blocks;  // denoised, not yet reported; `end` as planned
  int32_t reported_blocks_end = 0;     // generated offset

  int32_t window_length() const { return plan.query_end - plan.query_begin; }
  // Keys that the next forward may see: with full attention every position has K/V from the first forward on, and so
  // has the block of which a stale window is a part.
  int32_t visible_end() const {
    if (blocks.length == 0) return canvas.length();
    return plan.stale_context && feed.denoises ? blocks.next(feed.begin) : feed.end;
  }
  int32_t feed_tokens() const { return lanes * feed.length(); }
  // Whether the next forward computes logits for the whole window instead of the plan's rows only.
  bool scores_everything() const { return request.trace && denoise_steps == 0 && feed.denoises; }
  // The position whose hidden state tells about `position`.
  int32_t scoring_position(int32_t position) const {
    return logit_shift ? std::max(position - 1, feed.begin) : position;
  }
};

inline double seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace pydllm::engine
