#include "engine/channels.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace pydllm::engine {

void Outbox::publish(std::vector<Event> events) {
  if (events.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    const bool first = events_.empty();
    events_.insert(events_.end(), std::make_move_iterator(events.begin()), std::make_move_iterator(events.end()));
    if (first) fd_.signal();
  }
  ready_.notify_all();
}

std::vector<Event> Outbox::drain() {
  const std::lock_guard lock(mutex_);
  if (!events_.empty() || closed_) fd_.clear();
  return std::exchange(events_, {});
}

bool Outbox::wait(double timeout_seconds) {
  // A bounded timeout keeps the conversion to the clock's ticks from overflowing; NaN and negatives do not wait.
  const double bounded = timeout_seconds > 0 ? std::min(timeout_seconds, 1e8) : 0;
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(bounded));
  std::unique_lock lock(mutex_);
  ready_.wait_until(lock, until, [this] { return closed_ || !events_.empty(); });
  return !events_.empty();
}

bool Outbox::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void Outbox::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (events_.empty()) fd_.signal();
  }
  ready_.notify_all();
}

void StatsBoard::post(EngineStats stats) {
  const std::lock_guard lock(mutex_);
  stats.late_commands = stats_.late_commands;
  stats_ = std::move(stats);
}

void StatsBoard::count_late_command() {
  const std::lock_guard lock(mutex_);
  ++stats_.late_commands;
}

EngineStats StatsBoard::read() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace pydllm::engine
