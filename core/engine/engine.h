// The engine: one thread owns requests, canvases, pages and the model. Others send commands through the inbox and read
// events from the outbox.
#pragma once

#include <memory>
#include <vector>

#include "engine/options.h"
#include "engine/request.h"
#include "models/model.h"

namespace pydllm::engine {

class Engine {
 public:
  // Starts the thread. Throws InvalidRequest(field) for options out of range, std::bad_alloc when the K/V pages do not
  // fit, Unsupported("matmul") when options.cublaslt cannot start. `threads` as in ThreadPool.
  Engine(std::unique_ptr<Model> model, const EngineOptions& options, int threads);
  // Stops: running and waiting requests end with kShutdown, then the thread is joined.
  ~Engine();

  // Any thread. Checks the request completely (InvalidRequest(field), Unsupported(field)) before queueing it;
  // ResourceExhausted when max_waiting_requests are queued. Exactly one kFinished or kFailed event follows.
  RequestId submit(Request request);
  // Any thread, any state, any id; idempotent. A live request ends with kFailed/kCancelled within one step.
  void cancel(RequestId id);
  // Ends the thread as the destructor does; later submits throw ResourceExhausted. Idempotent.
  void stop();

  // Becomes readable when events wait; one wake-up per step however many events. Owned by the engine.
  int event_fd() const noexcept;
  // Takes all waiting events, oldest first; never blocks.
  std::vector<Event> drain();
  // Blocks until events wait, the timeout passes or the engine stops. True when events wait.
  bool wait(double timeout_seconds);

  // The engine thread is at its end: after stop(), or because nothing can be served any more (kDeviceLost, kInternal).
  // event_fd() is readable once when that happens.
  bool ended() const;

  EngineStats stats() const;
  const ModelInfo& model_info() const noexcept;
  const EngineOptions& options() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pydllm::engine
