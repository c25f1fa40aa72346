// A queue of commands from many threads to one, which takes everything at once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace pydllm {

template <class T>
class Inbox {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // False, and the value is dropped, when closed.
  bool push(T value) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return false;
      items_.push_back(std::move(value));
    }
    ready_.notify_one();
    return true;
  }

  // Idempotent. What was pushed before stays to be taken.
  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
  }

  // Takes what is there, oldest first; never blocks.
  std::vector<T> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(items_, {});
  }

  // Blocks until something waits, the inbox is closed or `until` passes (absent: forever).
  std::vector<T> take_when_ready(std::optional<TimePoint> until) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return closed_ || !items_.empty(); };
    if (until) {
      ready_.wait_until(lock, *until, ready);
    } else {
      ready_.wait(lock, ready);
    }
    return std::exchange(items_, {});
  }

  bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<T> items_;
  bool closed_ = false;
};

}  // namespace pydllm
