#include "engine/scheduler.h"

#include "base/check.h"

namespace pydllm::engine {

Scheduler::Scheduler(int32_t max_running, int32_t max_batched_tokens)
    : max_running_(max_running), max_batched_tokens_(max_batched_tokens) {
  check(max_running >= 1 && max_batched_tokens >= 1, "scheduler: limits must be at least 1");
}

void Scheduler::enqueue(const Ticket& ticket) {
  check(!places_.contains(ticket.id), "scheduler: request ", ticket.id, " is already live");
  const auto place = waiting_.insert(waiting_.end(), ticket);
  places_[ticket.id] = Place{&waiting_, place};
  if (ticket.deadline) deadlines_.emplace(*ticket.deadline, ticket.id);
}

std::optional<RequestId> Scheduler::admit(int32_t available_pages) {
  if (waiting_.empty() || running() >= max_running_ || waiting_.front().pages > available_pages) return std::nullopt;
  running_.splice(running_.end(), waiting_, waiting_.begin());
  const RequestId id = running_.back().id;
  places_.at(id).queue = &running_;
  return id;
}

std::vector<RequestId> Scheduler::plan() {
  std::vector<RequestId> batch;
  batch.reserve(running_.size());
  Queue taken;
  int64_t budget = max_batched_tokens_;
  for (auto ticket = running_.begin(); ticket != running_.end();) {
    const auto next = std::next(ticket);
    if (batch.empty() || ticket->tokens <= budget) {
      budget -= ticket->tokens;
      batch.push_back(ticket->id);
      taken.splice(taken.end(), running_, ticket);
    }
    ticket = next;
  }
  running_.splice(running_.end(), taken);
  return batch;
}

void Scheduler::set_tokens(RequestId id, int32_t tokens) {
  const auto place = places_.find(id);
  check(place != places_.end() && place->second.queue == &running_, "scheduler: request ", id, " is not running");
  place->second.ticket->tokens = tokens;
}

bool Scheduler::remove(RequestId id) {
  const auto place = places_.find(id);
  if (place == places_.end()) return false;
  const auto [queue, ticket] = place->second;
  if (ticket->deadline) deadlines_.erase({*ticket->deadline, id});
  queue->erase(ticket);
  places_.erase(place);
  return true;
}

std::vector<RequestId> Scheduler::expired(Clock::time_point time) const {
  std::vector<RequestId> ids;
  for (const auto& [deadline, id] : deadlines_) {
    if (deadline > time) break;
    ids.push_back(id);
  }
  return ids;
}

std::optional<Clock::time_point> Scheduler::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

}  // namespace pydllm::engine
