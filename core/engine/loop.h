// The engine thread's own state and the phases of a step. Nothing here is locked: one thread owns it all.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "cache/page_pool.h"
#include "engine/channels.h"
#include "engine/commit.h"
#include "engine/options.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "engine/step_times.h"
#include "models/model.h"
#include "tensor/context.h"

namespace pydllm::engine {

class EngineLoop {
 public:
  // May be made by another thread than the one that runs it. Throws std::bad_alloc or ResourceExhausted when the memory
  // of pages or logits is not to be had, Unsupported("matmul") when options.cublaslt cannot start.
  EngineLoop(std::unique_ptr<Model> model, const EngineOptions& options, int threads, Channels& channels);

  // Serves until the inbox is closed, then ends every live request with kShutdown.
  void run() noexcept;

 private:
  using Live = std::map<RequestId, std::unique_ptr<LiveRequest>>;

  bool serve_step();  // false when the inbox is closed and empty
  void take_commands();
  void obey(Command command);
  void accept(std::unique_ptr<LiveRequest> live);
  void cancel(RequestId id);
  void expire(Clock::time_point step_end);
  void end_in_time(LiveRequest& live);
  void admit();
  void start(LiveRequest& live);
  std::vector<LiveRequest*> plan_batch();
  void run_batch();
  bool forward(std::span<LiveRequest* const> batch, StepResult& result);
  void commit(LiveRequest& live, std::span<const RowStats> stats);
  void continue_encoding(LiveRequest& live);
  void count_forward(size_t requests, int64_t tokens);
  void count_step(const StepOutcome& step);
  void advance(LiveRequest& live);
  void finish(LiveRequest& live);
  void fail(LiveRequest& live, FailReason reason, const std::string& message);
  void fail_all(FailReason reason, const std::string& message);
  void forget(LiveRequest& live);
  void release_pages(LiveRequest& live);
  std::string violated_invariant() const;
  void check_integrity();
  void publish();

  EngineOptions options_;
  Channels& channels_;
  std::unique_ptr<Model> model_;
  Workplace work_;  // on the model's device
  std::shared_ptr<ops::cuda::CublasLt> cublaslt_;
  Context context_;  // of work_, with cublaslt_
  KvCache cache_;
  PagePool pages_;
  Scheduler scheduler_;
  Runner runner_;
  StepTimes step_times_;
  Live live_;
  std::vector<Event> events_;  // of the step under way
  EngineStats stats_;
};

}  // namespace pydllm::engine
