#include "engine/engine.h"

#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/errors.h"
#include "engine/channels.h"
#include "engine/loop.h"
#include "engine/prepare.h"

namespace pydllm::engine {
namespace {

constexpr const char* kStopped = "the engine is stopped";

std::unique_ptr<Model> checked(std::unique_ptr<Model> model, const EngineOptions& options, int threads) {
  if (!model) throw InvalidRequest("model", "model must be given, got none");
  check_options(options, model->info(), threads);
  return model;
}

}  // namespace

struct Engine::Impl {
  Impl(std::unique_ptr<Model> given, const EngineOptions& chosen, int threads)
      : options(chosen), info(given->info()), loop(std::move(given), chosen, threads, channels) {
    try {
      thread = std::thread([this] { loop.run(); });
    } catch (const std::system_error& error) {
      throw ResourceExhausted(format("cannot start the engine thread: ", error.what()));
    }
  }

  // A place in the queue, or ResourceExhausted. Taken before the request enters the inbox, so that the bound holds
  // however many threads submit.
  void take_place() {
    if (channels.inbox.closed()) throw ResourceExhausted(kStopped);
    int32_t queued = channels.queued.load();
    do {
      if (queued >= options.max_waiting_requests) {
        throw ResourceExhausted(format("the waiting queue is full (", options.max_waiting_requests, " requests)"));
      }
    } while (!channels.queued.compare_exchange_weak(queued, queued + 1));
  }

  void stop() {
    channels.inbox.close();
    const std::lock_guard lock(stop_mutex);
    if (thread.joinable()) thread.join();
  }

  const EngineOptions options;
  const ModelInfo info;
  Channels channels;
  EngineLoop loop;
  std::atomic<RequestId> last_id{0};
  std::mutex stop_mutex;
  std::thread thread;
};

Engine::Engine(std::unique_ptr<Model> model, const EngineOptions& options, int threads)
    : impl_(std::make_unique<Impl>(checked(std::move(model), options, threads), options, threads)) {}

Engine::~Engine() {
  impl_->stop();
}

RequestId Engine::submit(Request request) {
  auto live = prepare(std::move(request), impl_->info, impl_->options);
  impl_->take_place();
  const RequestId id = ++impl_->last_id;
  live->id = id;
  live->submitted = Clock::now();
  if (impl_->channels.inbox.push({.id = id, .submitted = std::move(live)})) return id;
  --impl_->channels.queued;
  throw ResourceExhausted(kStopped);
}

void Engine::cancel(RequestId id) {
  if (!impl_->channels.inbox.push({.id = id, .submitted = nullptr})) impl_->channels.board.count_late_command();
}

void Engine::stop() {
  impl_->stop();
}

int Engine::event_fd() const noexcept {
  return impl_->channels.outbox.fd();
}

std::vector<Event> Engine::drain() {
  return impl_->channels.outbox.drain();
}

bool Engine::wait(double timeout_seconds) {
  return impl_->channels.outbox.wait(timeout_seconds);
}

bool Engine::ended() const {
  return impl_->channels.outbox.closed();
}

EngineStats Engine::stats() const {
  return impl_->channels.board.read();
}

const ModelInfo& Engine::model_info() const noexcept {
  return impl_->info;
}

const EngineOptions& Engine::options() const noexcept {
  return impl_->options;
}

}  // namespace pydllm::engine
