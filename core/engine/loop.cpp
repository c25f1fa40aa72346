#include "engine/loop.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/forward_plan.h"
#include "engine/prepare.h"
#include "ops/matmul.h"

namespace pydllm::engine {
namespace {

KvShape kv_shape(const ModelInfo& info, int32_t page_size) {
  return {.layers = info.kv_layers,
          .kv_heads = info.kv_heads,
          .head_dim = info.head_dim,
          .page_size = page_size,
          .dtype = info.kv_dtype};
}

bool is_end(const Event& event) {
  return event.kind == EventKind::kFinished || event.kind == EventKind::kFailed;
}

Context with_cublaslt(Context context, ops::cuda::CublasLt* cublaslt) {
  context.cublaslt = cublaslt;
  return context;
}

}  // namespace

EngineLoop::EngineLoop(std::unique_ptr<Model> model, const EngineOptions& options, int threads, Channels& channels)
    : options_(options),
      channels_(channels),
      model_(std::move(model)),
      work_(threads, model_->info().device),
      cublaslt_(ops::start_matmul(options.cublaslt, model_->info().device)),
      context_(with_cublaslt(work_.context(), cublaslt_.get())),
      cache_(kv_shape(model_->info(), options.page_size), options.pages, model_->info().device),
      pages_(options.pages),
      scheduler_(options.max_running_requests, options.max_batched_tokens),
      runner_(context_, *model_, cache_, options) {
  stats_.pages_total = pages_.total();
  channels_.board.post(stats_);
}

void EngineLoop::run() noexcept {
  FailReason reason = FailReason::kShutdown;
  std::string message = "the engine was stopped";
  try {
    while (serve_step()) {
    }
  } catch (const DeviceLost& error) {
    reason = FailReason::kDeviceLost;
    message = error.what();
  } catch (const std::exception& error) {
    // Outside any one request's work (no memory for an event): end everyone with a clear status and serve no more.
    reason = FailReason::kInternal;
    message = error.what();
  }
  channels_.inbox.close();
  try {
    take_commands();
    fail_all(reason, message);
    check_integrity();
    publish();
  } catch (const std::exception&) {
    // Not even the last events could be made; closing the outbox is what is left to tell.
  }
  channels_.outbox.close();
}

bool EngineLoop::serve_step() {
  take_commands();
  if (channels_.inbox.closed()) return false;
  expire(Clock::now());
  admit();
  run_batch();
  if (options_.debug_checks || scheduler_.idle()) check_integrity();
  publish();
  return true;
}

// Something that runs needs no waiting. With nothing running the head of the queue always fits an empty pool, so the
// engine sleeps only when it is empty; the deadline is for whatever else may come to wait.
void EngineLoop::take_commands() {
  auto commands =
      scheduler_.idle() ? channels_.inbox.take_when_ready(scheduler_.next_deadline()) : channels_.inbox.take();
  for (Command& command : commands) obey(std::move(command));
}

void EngineLoop::obey(Command command) {
  if (command.submitted) {
    accept(std::move(command.submitted));
  } else {
    cancel(command.id);
  }
}

void EngineLoop::accept(std::unique_ptr<LiveRequest> live) {
  const Ticket ticket{.id = live->id,
                      .pages = static_cast<int32_t>(pages_needed(*live, options_.page_size)),
                      .tokens = live->feed_tokens(),
                      .deadline = live->request.deadline};
  live_.emplace(live->id, std::move(live));
  scheduler_.enqueue(ticket);
}

void EngineLoop::cancel(RequestId id) {
  const auto found = live_.find(id);
  if (found == live_.end()) return channels_.board.count_late_command();
  fail(*found->second, FailReason::kCancelled, "the request was cancelled");
}

// A deadline is a budget of time: a request that has denoised ends when another step, expected to end at `step_end`,
// would be too late. Without a denoising forward there is nothing to show, so the first one is always tried; that also
// keeps the expectation up to date.
void EngineLoop::expire(Clock::time_point step_end) {
  const Clock::time_point now = Clock::now();
  for (const RequestId id : scheduler_.expired(std::max(now, step_end))) {
    LiveRequest& live = *live_.at(id);
    if (live.denoise_steps > 0) {
      end_in_time(live);
    } else if (*live.request.deadline <= now) {
      fail(live, FailReason::kDeadlineExceeded,
           live.admitted ? "the deadline passed before the request's first denoising forward"
                         : "the deadline passed while the request was queued");
    }
  }
}

void EngineLoop::end_in_time(LiveRequest& live) {
  try {
    stats_.blocks_finished += static_cast<uint64_t>(end_with_what_is_final(live, events_));
    finish(live);
  } catch (const std::exception& error) {
    fail(live, FailReason::kInternal, error.what());
  }
}

void EngineLoop::admit() {
  while (const auto id = scheduler_.admit(pages_.available())) {
    LiveRequest& live = *live_.at(*id);
    try {
      start(live);
    } catch (const std::exception& error) {
      fail(live, FailReason::kInternal, error.what());
    }
  }
}

void EngineLoop::start(LiveRequest& live) {
  live.admitted = true;
  --channels_.queued;
  live.queue_seconds = seconds(Clock::now() - live.submitted);
  const auto per_lane = static_cast<int32_t>(pages_needed(live, options_.page_size) / live.lanes);
  for (int lane = 0; lane < live.lanes; ++lane) {
    check(pages_.allocate(per_lane, live.pages[static_cast<size_t>(lane)]), "no pages for an admitted request");
  }
  if (live.request.trace) {
    live.first_logits = Tensor::empty({live.window_length(), model_->info().vocab_size}, DType::kF32);
  }
  events_.push_back(started_event(live));
}

// The requests of the next step, without those that it would make late. Who ended is told before the step: it may take
// longer than their readers wait.
std::vector<LiveRequest*> EngineLoop::plan_batch() {
  const std::vector<RequestId> planned = scheduler_.plan();
  if (planned.empty()) return {};
  int64_t tokens = 0;
  for (const RequestId id : planned) tokens += live_.at(id)->feed_tokens();
  expire(Clock::now() + step_times_.expected(tokens));
  if (std::ranges::any_of(events_, is_end)) publish();
  std::vector<LiveRequest*> batch;
  for (const RequestId id : planned) {
    if (const auto found = live_.find(id); found != live_.end()) batch.push_back(found->second.get());
  }
  return batch;
}

void EngineLoop::run_batch() {
  const std::vector<LiveRequest*> batch = plan_batch();
  const Clock::time_point begin = Clock::now();
  StepResult result;
  if (batch.empty() || !forward(batch, result)) return;
  for (size_t i = 0; i < batch.size(); ++i) commit(*batch[i], result.stats[i]);
  step_times_.add(result.tokens, Clock::now() - begin);
}

// A forward that fails ends the requests it was for, and nothing else.
bool EngineLoop::forward(std::span<LiveRequest* const> batch, StepResult& result) {
  try {
    result = runner_.run(batch);
  } catch (const DeviceLost&) {
    throw;  // nobody can be served any more
  } catch (const std::exception& error) {
    for (LiveRequest* live : batch) fail(*live, FailReason::kInternal, error.what());
    return false;
  }
  count_forward(batch.size(), result.tokens);
  return true;
}

void EngineLoop::count_forward(size_t requests, int64_t tokens) {
  ++stats_.steps;
  stats_.request_forwards += requests;
  stats_.forward_tokens += static_cast<uint64_t>(tokens);
  const auto bucket = std::ranges::lower_bound(kForwardBatchBounds, static_cast<int32_t>(requests));
  ++stats_.forward_batch_sizes[static_cast<size_t>(bucket - kForwardBatchBounds.begin())];
}

void EngineLoop::commit(LiveRequest& live, std::span<const RowStats> stats) {
  try {
    if (!live.feed.denoises) return continue_encoding(live);
    const StepOutcome step = commit_forward(live, stats, events_);
    count_step(step);
    if (step.ended) return finish(live);
    advance(live);
  } catch (const std::exception& error) {
    fail(live, FailReason::kInternal, error.what());
  }
}

// No token changed, so the plan stays; more of what it needs is in the pages now.
void EngineLoop::continue_encoding(LiveRequest& live) {
  ++live.forward_passes;
  live.canvas.forget_changes();
  keep_committed(live);
  set_feed(live, options_.max_batched_tokens);
  scheduler_.set_tokens(live.id, live.feed_tokens());
}

void EngineLoop::count_step(const StepOutcome& step) {
  ++stats_.denoise_steps;
  stats_.final_tokens += static_cast<uint64_t>(step.final_tokens);
  stats_.blocks_finished += static_cast<uint64_t>(step.blocks_finished);
  stats_.canvas_positions += static_cast<uint64_t>(step.block_positions);
}

void EngineLoop::advance(LiveRequest& live) {
  keep_committed(live);
  plan_forward(live, options_.max_batched_tokens);
  scheduler_.set_tokens(live.id, live.feed_tokens());
}

void EngineLoop::finish(LiveRequest& live) {
  ++stats_.requests_finished;
  forget(live);
}

void EngineLoop::fail(LiveRequest& live, FailReason reason, const std::string& message) {
  if (!live.admitted) live.queue_seconds = seconds(Clock::now() - live.submitted);
  events_.push_back(failed_event(live, reason, message));
  ++stats_.requests_failed;
  forget(live);
}

void EngineLoop::fail_all(FailReason reason, const std::string& message) {
  while (!live_.empty()) fail(*live_.begin()->second, reason, message);
}

// Everything a request holds goes back here, whatever ended it. Destroys `live`.
void EngineLoop::forget(LiveRequest& live) {
  if (!live.admitted) --channels_.queued;
  release_pages(live);
  scheduler_.remove(live.id);
  live_.erase(live.id);
}

void EngineLoop::release_pages(LiveRequest& live) {
  for (std::vector<PageId>& lane : live.pages) {
    for (const PageId page : lane) {
      pages_.release(page);
      // At the engine's end nobody reads them, and a lost device could not write them.
      if (options_.debug_checks && !channels_.inbox.closed()) cache_.poison(context_, page);
    }
    lane.clear();
  }
}

std::string EngineLoop::violated_invariant() const {
  std::vector<std::span<const PageId>> tables;
  int32_t running = 0;
  for (const auto& [id, live] : live_) {
    running += live->admitted ? 1 : 0;
    for (const std::vector<PageId>& lane : live->pages) {
      if (!lane.empty() && !live->admitted) return format("request ", id, " holds pages while it waits");
      if (!lane.empty()) tables.emplace_back(lane);
    }
  }
  const auto waiting = static_cast<int32_t>(live_.size()) - running;
  if (running != scheduler_.running() || waiting != scheduler_.waiting()) {
    return format("scheduler knows ", scheduler_.running(), " running and ", scheduler_.waiting(),
                  " waiting requests, the engine ", running, " and ", waiting);
  }
  return pages_.verify(tables);
}

void EngineLoop::check_integrity() {
  if (stats_.integrity.empty()) stats_.integrity = violated_invariant();
}

// Statistics first: who sees a terminal event must find it counted and its pages free.
void EngineLoop::publish() {
  stats_.running = scheduler_.running();
  stats_.waiting = scheduler_.waiting();
  stats_.pages_used = pages_.used();
  channels_.board.post(stats_);
  channels_.outbox.publish(std::exchange(events_, {}));
}

}  // namespace pydllm::engine
