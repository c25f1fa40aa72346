// Which request runs when. Pure host state: ids, counts and times; no tensor, no page table, no clock of its own.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/request.h"

namespace pydllm::engine {

// What the scheduler knows of a request.
struct Ticket {
  RequestId id = 0;
  int32_t pages = 0;   // K/V pages reserved at admission, for the request's whole life
  int32_t tokens = 0;  // tokens of its next forward, all lanes
  std::optional<Clock::time_point> deadline;
};

// Admission is strictly first come, first served: the head waits for pages and for a running place, and nobody passes
// it. Steps rotate: the running request that waited longest always takes part, others join while the token budget
// lasts, so each of n running requests advances at least once in n steps.
class Scheduler {
 public:
  // Both at least 1.
  Scheduler(int32_t max_running, int32_t max_batched_tokens);

  void enqueue(const Ticket& ticket);  // InternalError when the id is live
  // Moves the head of the queue to the running ones if it fits; call until it returns nothing.
  std::optional<RequestId> admit(int32_t available_pages);
  // The requests of the next step, longest waiting first; the sum of their tokens is at most the budget, or it is one
  // request. Empty only when nothing runs.
  std::vector<RequestId> plan();
  // The cost of a running request's next forward.
  void set_tokens(RequestId id, int32_t tokens);
  // Forgets a request in whatever state it is; false when unknown.
  bool remove(RequestId id);

  // Requests, in any state, whose deadline is at or before `time`, earliest first.
  std::vector<RequestId> expired(Clock::time_point time) const;
  std::optional<Clock::time_point> next_deadline() const;

  int32_t waiting() const noexcept { return static_cast<int32_t>(waiting_.size()); }
  int32_t running() const noexcept { return static_cast<int32_t>(running_.size()); }
  bool idle() const noexcept { return waiting_.empty() && running_.empty(); }

 private:
  using Queue = std::list<Ticket>;
  struct Place {
    Queue* queue;
    Queue::iterator ticket;
  };

  int32_t max_running_;
  int32_t max_batched_tokens_;
  Queue waiting_;
  Queue running_;  // longest without a forward first
  std::unordered_map<RequestId, Place> places_;
  std::set<std::pair<Clock::time_point, RequestId>> deadlines_;
};

}  // namespace pydllm::engine
