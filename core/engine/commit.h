// What one forward changes in a request, and the events that tell of it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/live_request.h"
#include "select/row_stats.h"

namespace pydllm::engine {

// What one step brought.
struct StepOutcome {
  bool ended = false;
  int32_t final_tokens = 0;  // that became final
  int32_t blocks_finished = 0;
  int32_t block_positions = 0;  // generated positions of the blocks that were worked on
};

// Decides the writes of the forward just run, finds the end of the request and appends at most two events: kStep when
// the step brings something (final tokens, blocks, a snapshot, a trace), kFinished when the request ended. A last step
// without snapshot or trace is told by kFinished alone.
// Throws InternalError (nothing is appended) for non-finite logits and for bugs of the algorithm.
StepOutcome commit_forward(LiveRequest& live, std::span<const RowStats> stats, std::vector<Event>& events);

// Ends a request between two forwards, at least one of which denoised: as a spent max_forward_passes ends it after one,
// with what is final. Appends kFinished and, with snapshots or a trace, a kStep before it that shows where the answer
// was cut. Returns how many blocks that finished.
int32_t end_with_what_is_final(LiveRequest& live, std::vector<Event>& events);

Event started_event(const LiveRequest& live);
Event failed_event(const LiveRequest& live, FailReason reason, const std::string& message);

}  // namespace pydllm::engine
