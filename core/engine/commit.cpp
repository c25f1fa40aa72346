#include "engine/commit.h"

#include <algorithm>
#include <optional>

#include "base/check.h"

namespace pydllm::engine {
namespace {

struct Ending {
  int32_t end = 0;  // absolute position after the last token that counts
  FinishReason reason = FinishReason::kLength;
  int32_t stop_token_id = -1;
};

Event event_of(const LiveRequest& live, EventKind kind) {
  Event event;
  event.id = live.id;
  event.kind = kind;
  event.time = seconds(Clock::now().time_since_epoch());
  event.forward_passes = live.forward_passes;
  event.denoise_steps = live.denoise_steps;
  event.edited_tokens = live.canvas.edited_count();
  event.queue_seconds = live.queue_seconds;
  event.final_offset = live.delivered;
  return event;
}

void check_finite(const LiveRequest& live, std::span<const RowStats> stats) {
  const bool finite = std::all_of(stats.begin(), stats.end(), [](const RowStats& row) { return row.finite; });
  check(finite, "non-finite logits in forward pass ", live.forward_passes + 1);
}

bool contains(const std::vector<int32_t>& sorted, int32_t id) {
  return std::binary_search(sorted.begin(), sorted.end(), id);
}

// The length of the run of equal generated tokens that ends at `position`, given that of the run before it: 0 behind a
// fixed token, so that none of them ever counts.
int32_t run_through(const decode::Canvas& canvas, int32_t position, int32_t run_before) {
  const int32_t* at = canvas.tokens().data() + position;
  return run_before > 0 && at[0] == at[-1] ? run_before + 1 : 1;
}

// Only what became final just now is scanned: earlier tokens were scanned before, the prompt never is.
std::optional<Ending> stop_in(LiveRequest& live, int32_t begin, int32_t end) {
  const Request& request = live.request;
  for (int32_t position = begin; position < end; ++position) {
    if (live.canvas.fixed(position)) {  // data, whatever its id
      live.repetition_run = 0;
      continue;
    }
    const int32_t token = live.canvas.tokens()[static_cast<size_t>(position)];
    if (contains(request.eos_token_ids, token)) return Ending{position + 1, FinishReason::kStop, token};
    if (contains(request.stop_token_ids, token)) return Ending{position + 1, FinishReason::kStopToken, token};
    live.repetition_run = run_through(live.canvas, position, live.repetition_run);
    if (live.repetition_run == request.max_repetition_run) return Ending{position + 1, FinishReason::kRepetition};
  }
  return std::nullopt;
}

// End of the final positions that belong to the answer.
int32_t answer_so_far(const decode::Canvas& canvas) {
  return std::min(canvas.final_end(), canvas.answer_end());
}

// The end by a budget, of forwards or of time. One that only cuts idle steps of a schedule has cut nothing.
Ending budget_ending(const decode::Canvas& canvas) {
  const int32_t final_end = answer_so_far(canvas);
  return {final_end, final_end == canvas.answer_end() ? FinishReason::kLength : FinishReason::kStepLimit};
}

std::optional<Ending> ending_of(LiveRequest& live) {
  const decode::Canvas& canvas = live.canvas;
  const int32_t final_end = answer_so_far(canvas);
  if (const auto stop = stop_in(live, canvas.prompt_length() + live.delivered, final_end)) return stop;
  if (live.decoding->done(canvas)) return Ending{final_end};
  const int32_t limit = live.request.max_forward_passes;
  if (limit == 0 || live.denoise_steps < limit) return std::nullopt;
  return budget_ending(canvas);
}

// End of the generated positions that the last forward worked on.
int32_t work_end(const LiveRequest& live) {
  return std::min(std::max(live.progress.block_end, live.progress.active_end), live.canvas.answer_end());
}

void open_block(LiveRequest& live, const BlockDone& block) {
  if (block.end <= live.reported_blocks_end) return;  // an idle step of a schedule
  auto& blocks = live.open_blocks;
  auto open = std::ranges::find(blocks, block.block_index, &BlockDone::block_index);
  if (open == blocks.end()) open = blocks.insert(open, block);
  ++open->denoise_steps;
}

// Remembers the blocks that the forward worked on.
void open_blocks(LiveRequest& live) {
  const decode::Progress& progress = live.progress;
  const int32_t prompt = live.canvas.prompt_length(), length = progress.block_end - progress.block_begin;
  int32_t index = progress.block_index;
  for (int32_t begin = progress.block_begin; begin < work_end(live); begin += length, ++index) {
    open_block(live, {.block_index = index,
                      .begin = std::max(0, begin - prompt),
                      .end = std::min(begin + length, live.canvas.answer_end()) - prompt});
  }
}

// Blocks that are final up to `final_end` (generated offset). When the request ended, the one it ended in is cut there.
std::vector<BlockDone> close_blocks(LiveRequest& live, int32_t final_end, bool ended) {
  std::vector<BlockDone> done;
  for (BlockDone block : live.open_blocks) {
    block.begin = done.empty() ? live.reported_blocks_end : done.back().end;  // fixed text before it comes along
    if (ended) block.end = std::min(block.end, final_end);
    if (block.begin >= final_end || block.end > final_end) break;
    done.push_back(block);
  }
  if (ended && !done.empty()) done.back().end = final_end;  // and at the end fixed text behind it
  live.open_blocks.erase(live.open_blocks.begin(), live.open_blocks.begin() + static_cast<std::ptrdiff_t>(done.size()));
  if (!done.empty()) live.reported_blocks_end = done.back().end;
  return done;
}

// How many of the answer's next `count` tokens were generated.
int32_t generated_among_next(const LiveRequest& live, size_t count) {
  const auto fixed = live.canvas.fixed_in_answer().subspan(static_cast<size_t>(live.delivered), count);
  return static_cast<int32_t>(std::ranges::count(fixed, uint8_t{0}));
}

// Returns how many generated tokens became final.
int32_t deliver(LiveRequest& live, int32_t final_end, bool ended, Event& event) {
  const auto tokens = live.canvas.tokens().first(static_cast<size_t>(final_end));
  const auto fresh = tokens.subspan(static_cast<size_t>(live.canvas.prompt_length() + live.delivered));
  event.final_tokens.assign(fresh.begin(), fresh.end());
  const int32_t generated = generated_among_next(live, fresh.size());
  live.delivered += static_cast<int32_t>(fresh.size());
  event.blocks = close_blocks(live, live.delivered, ended);
  return generated;
}

// `end` bounds the block, so that the last snapshot of a request shows exactly what is final.
void add_snapshot(const LiveRequest& live, int32_t end, Event& event) {
  const int32_t begin = std::max(live.progress.block_begin, live.canvas.prompt_length());
  event.snapshot_block = live.progress.block_index;
  event.snapshot_step = live.progress.block_step;
  event.snapshot_offset = begin - live.canvas.prompt_length();
  for (int32_t position = begin; position < std::min(work_end(live), end); ++position) {
    const auto at = static_cast<size_t>(position);
    event.snapshot_tokens.push_back(live.canvas.masked(position) ? -1 : live.canvas.tokens()[at]);
    event.snapshot_confidences.push_back(live.canvas.confidences()[at]);
  }
}

void add_trace(LiveRequest& live, std::vector<int32_t> canvas_before, Event& event) {
  event.canvas_before = std::move(canvas_before);
  event.first_logits = std::exchange(live.first_logits, {});
}

bool worth_telling(const LiveRequest& live, const Event& event) {
  return live.request.snapshots || live.request.trace || !event.final_tokens.empty() || !event.blocks.empty();
}

void finish(const Ending& ending, Event& event) {
  event.kind = EventKind::kFinished;
  event.finish_reason = ending.reason;
  event.stop_token_id = ending.stop_token_id;
}

// The request's last events: kFinished with what the last step brought, or, with snapshots or a trace, behind it.
void tell_end(const LiveRequest& live, const Ending& ending, Event event, std::vector<Event>& events) {
  const bool apart = live.request.snapshots || live.request.trace;
  if (!apart) finish(ending, event);
  events.push_back(std::move(event));
  if (apart) finish(ending, events.emplace_back(event_of(live, EventKind::kFinished)));
}

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

}  // namespace

StepOutcome commit_forward(LiveRequest& live, std::span<const RowStats> stats, std::vector<Event>& events) {
  check_finite(live, stats);
  std::vector<int32_t> canvas_before;
  if (live.request.trace) canvas_before.assign(live.canvas.tokens().begin(), live.canvas.tokens().end());
  live.progress = live.decoding->progress();
  live.canvas.forget_changes();
  live.decoding->commit(stats, live.canvas);
  ++live.forward_passes;
  ++live.denoise_steps;
  open_blocks(live);

  const std::optional<Ending> ending = ending_of(live);
  Event event = event_of(live, EventKind::kStep);
  const int32_t generated = deliver(live, ending ? ending->end : answer_so_far(live.canvas), ending.has_value(), event);
  const StepOutcome outcome{
      .ended = ending.has_value(),
      .final_tokens = generated,
      .blocks_finished = static_cast<int32_t>(event.blocks.size()),
      .block_positions = work_end(live) - std::max(live.progress.block_begin, live.canvas.prompt_length())};
  if (live.request.snapshots) add_snapshot(live, ending ? ending->end : live.canvas.answer_end(), event);
  if (live.request.trace) add_trace(live, std::move(canvas_before), event);

  if (ending) {
    tell_end(live, *ending, std::move(event), events);
  } else if (worth_telling(live, event)) {
    events.push_back(std::move(event));
  }
  return outcome;
}

int32_t end_with_what_is_final(LiveRequest& live, std::vector<Event>& events) {
  const Ending ending = budget_ending(live.canvas);
  Event event = event_of(live, EventKind::kStep);
  deliver(live, ending.end, true, event);
  const auto blocks = static_cast<int32_t>(event.blocks.size());
  if (live.request.snapshots) add_snapshot(live, ending.end, event);
  tell_end(live, ending, std::move(event), events);
  return blocks;
}

Event started_event(const LiveRequest& live) {
  return event_of(live, EventKind::kStarted);
}

Event failed_event(const LiveRequest& live, FailReason reason, const std::string& message) {
  Event event = event_of(live, EventKind::kFailed);
  event.fail_reason = reason;
  event.message = one_line(message);
  return event;
}

}  // namespace pydllm::engine
