// From the requests of a step to the tensors of one ragged forward, and the order in which its rows become logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/live_request.h"
#include "models/model.h"
#include "select/row_stats.h"

namespace pydllm::engine {

// Hidden rows that go through the output head together, at most max_logit_rows of them. A guided chunk belongs to one
// request and holds its conditional rows, then the unconditional rows of the same positions.
struct LogitChunk {
  int32_t hidden_begin = 0;
  int32_t hidden_rows = 0;
  int32_t scored_begin = 0;
  int32_t scored_rows = 0;
  bool guided = false;
  float guidance_scale = 0;
};

// The scored rows of one request, among those of the step: one per row of its plan, one per position of its window when
// it scores everything, none when it does not denoise.
struct ScoredRange {
  int32_t begin = 0;
  int32_t count = 0;
};

struct StepPlan {
  StepInput input;
  std::vector<LogitChunk> chunks;
  std::vector<RowSampling> sampling;  // [scored rows of the step]
  // What the edits of `sampling` point to, unless it belongs to the request.
  std::vector<std::vector<LogitEdit>> edits;
  std::vector<ScoredRange> scored;  // [requests of the step]
};

// Each request needs a plan and the pages of its lanes. A request's sequences lie side by side; scored rows are ordered
// unguided requests first, so that they share chunks. max_logit_rows >= 2.
StepPlan build_step(std::span<LiveRequest* const> batch, int32_t page_size, int32_t max_logit_rows);

}  // namespace pydllm::engine
