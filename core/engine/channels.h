// What callers' threads and the engine thread share: the only place in the engine with locks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "base/inbox.h"
#include "engine/live_request.h"

namespace pydllm::engine {

// A submission when `submitted` is set, else a cancellation of `id`.
struct Command {
  RequestId id = 0;
  std::unique_ptr<LiveRequest> submitted;
};

// Events on their way out. The descriptor is readable while events wait, and once more when the outbox is closed.
class Outbox {
 public:
  void publish(std::vector<Event> events);
  std::vector<Event> drain();
  // Blocks until events wait (true), the timeout passes or the outbox is closed.
  bool wait(double timeout_seconds);
  void close();
  bool closed() const;
  int fd() const noexcept { return fd_.fd(); }

 private:
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<Event> events_;
  bool closed_ = false;
  EventFd fd_;
};

// The latest statistics.
class StatsBoard {
 public:
  // late_commands of `stats` is ignored: the board counts them.
  void post(EngineStats stats);
  void count_late_command();
  EngineStats read() const;

 private:
  mutable std::mutex mutex_;
  EngineStats stats_;
};

struct Channels {
  Inbox<Command> inbox;
  Outbox outbox;
  StatsBoard board;
  std::atomic<int32_t> queued{0};  // submitted and neither admitted nor ended
};

}  // namespace pydllm::engine
