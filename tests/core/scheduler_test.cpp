#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "base/errors.h"

namespace pydllm::engine {
namespace {

using std::chrono::seconds;

Ticket ticket(RequestId id, int32_t pages, int32_t tokens) {
  return {.id = id, .pages = pages, .tokens = tokens, .deadline = std::nullopt};
}

Ticket due(RequestId id, int64_t second) {
  return {.id = id, .pages = 1, .tokens = 1, .deadline = Clock::time_point(seconds(second))};
}

TEST(Scheduler, AdmitsInArrivalOrderUntilPagesRunOut) {
  Scheduler scheduler(8, 100);
  for (RequestId id = 1; id <= 3; ++id) scheduler.enqueue(ticket(id, 4, 10));
  EXPECT_EQ(scheduler.admit(12), 1u);
  EXPECT_EQ(scheduler.admit(8), 2u);
  EXPECT_EQ(scheduler.admit(3), std::nullopt);
  EXPECT_EQ(scheduler.admit(4), 3u);
  EXPECT_EQ(scheduler.admit(100), std::nullopt);
}

TEST(Scheduler, ASmallRequestNeverPassesAWaitingHeadThatDoesNotFit) {
  Scheduler scheduler(8, 100);
  scheduler.enqueue(ticket(1, 9, 10));
  scheduler.enqueue(ticket(2, 1, 10));
  EXPECT_EQ(scheduler.admit(8), std::nullopt);
  EXPECT_EQ(scheduler.admit(9), 1u);
}

TEST(Scheduler, NeverRunsMoreThanItMay) {
  Scheduler scheduler(2, 100);
  for (RequestId id = 1; id <= 3; ++id) scheduler.enqueue(ticket(id, 1, 1));
  EXPECT_TRUE(scheduler.admit(9) && scheduler.admit(9));
  EXPECT_EQ(scheduler.admit(9), std::nullopt);
  EXPECT_TRUE(scheduler.remove(1));
  EXPECT_EQ(scheduler.admit(9), 3u);
}

TEST(Scheduler, ARequestLargerThanTheBudgetRunsAlone) {
  Scheduler scheduler(8, 100);
  scheduler.enqueue(ticket(1, 1, 50));
  scheduler.enqueue(ticket(2, 1, 101));
  scheduler.enqueue(ticket(3, 1, 50));
  while (scheduler.admit(9)) {
  }
  EXPECT_EQ(scheduler.plan(), (std::vector<RequestId>{1, 3}));
  EXPECT_EQ(scheduler.plan(), (std::vector<RequestId>{2}));
  EXPECT_EQ(scheduler.plan(), (std::vector<RequestId>{1, 3}));
}

TEST(Scheduler, PlansUpToTheBudgetExactlyAndFollowsChangedCosts) {
  Scheduler scheduler(8, 100);
  scheduler.enqueue(ticket(1, 1, 60));
  scheduler.enqueue(ticket(2, 1, 41));
  while (scheduler.admit(9)) {
  }
  EXPECT_EQ(scheduler.plan(), (std::vector<RequestId>{1}));
  scheduler.set_tokens(2, 40);
  EXPECT_EQ(scheduler.plan(), (std::vector<RequestId>{2, 1}));
}

TEST(Scheduler, ReportsExpiredRequestsInAnyStateEarliestFirst) {
  Scheduler scheduler(1, 100);
  scheduler.enqueue(due(1, 30));
  scheduler.enqueue(due(2, 10));
  scheduler.enqueue(due(3, 20));
  scheduler.enqueue(ticket(4, 1, 1));
  EXPECT_EQ(scheduler.admit(1), 1u);
  EXPECT_EQ(scheduler.next_deadline(), Clock::time_point(seconds(10)));
  EXPECT_TRUE(scheduler.expired(Clock::time_point(seconds(9))).empty());
  EXPECT_EQ(scheduler.expired(Clock::time_point(seconds(20))), (std::vector<RequestId>{2, 3}));
  EXPECT_EQ(scheduler.expired(Clock::time_point(seconds(99))), (std::vector<RequestId>{2, 3, 1}));
  for (RequestId id = 1; id <= 3; ++id) scheduler.remove(id);
  EXPECT_EQ(scheduler.next_deadline(), std::nullopt);
}

TEST(Scheduler, RefusesADuplicateIdAndIgnoresAnUnknownOne) {
  Scheduler scheduler(1, 1);
  scheduler.enqueue(ticket(7, 1, 1));
  EXPECT_THROW(scheduler.enqueue(ticket(7, 1, 1)), InternalError);
  EXPECT_THROW(scheduler.set_tokens(7, 2), InternalError);  // still waiting
  EXPECT_FALSE(scheduler.remove(8));
  EXPECT_TRUE(scheduler.remove(7));
  EXPECT_FALSE(scheduler.remove(7));
  EXPECT_TRUE(scheduler.idle());
}

TEST(Scheduler, RefusesLimitsBelowOne) {
  EXPECT_THROW(Scheduler(0, 1), InternalError);
  EXPECT_THROW(Scheduler(1, 0), InternalError);
}

// Drives a scheduler with random arrivals, removals and steps and checks every promise after every operation.
class RandomTrace {
 public:
  explicit RandomTrace(uint32_t seed)
      : random_(seed),
        max_running_(pick(1, 6)),
        budget_(pick(1, 60)),
        pages_(pick(4, 30)),
        scheduler_(max_running_, budget_) {}

  void run(int operations) {
    for (int i = 0; i < operations; ++i) {
      operate();
      if (::testing::Test::HasFailure()) return;
    }
    drain();
  }

 private:
  struct Running {
    Ticket ticket;
    int starved = 0;     // steps since it last took part
    int neighbours = 0;  // most that ran beside it meanwhile
  };

  int32_t pick(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random_); }

  void operate() {
    switch (pick(0, 9)) {
      case 0:
      case 1:
      case 2:
        return arrive();
      case 3:
        return leave();
      default:
        return step();
    }
  }

  void arrive() {
    Ticket fresh = ticket(++last_id_, pick(1, std::min(pages_, 12)), pick(1, 80));
    if (pick(0, 2) == 0) fresh.deadline = Clock::time_point(seconds(pick(1, 1000)));
    scheduler_.enqueue(fresh);
    waiting_.push_back(fresh);
  }

  void leave() {
    const RequestId id = static_cast<RequestId>(pick(0, static_cast<int32_t>(last_id_) + 1));
    const bool known = running_.contains(id) || std::ranges::find(waiting_, id, &Ticket::id) != waiting_.end();
    EXPECT_EQ(scheduler_.remove(id), known);
    forget(id);
  }

  void forget(RequestId id) {
    if (running_.contains(id)) used_ -= running_.at(id).ticket.pages;
    running_.erase(id);
    std::erase_if(waiting_, [id](const Ticket& t) { return t.id == id; });
  }

  void step() {
    expire(Clock::time_point(seconds(++now_)));
    admit();
    forward(scheduler_.plan());
    EXPECT_EQ(scheduler_.running(), static_cast<int32_t>(running_.size()));
    EXPECT_EQ(scheduler_.waiting(), static_cast<int32_t>(waiting_.size()));
  }

  void expire(Clock::time_point now) {
    std::set<RequestId> expected;
    const auto late = [now](const Ticket& t) { return t.deadline && *t.deadline <= now; };
    for (const Ticket& t : waiting_) {
      if (late(t)) expected.insert(t.id);
    }
    for (const auto& [id, running] : running_) {
      if (late(running.ticket)) expected.insert(id);
    }
    const auto ids = scheduler_.expired(now);
    EXPECT_EQ(std::set<RequestId>(ids.begin(), ids.end()), expected);
    for (const RequestId id : ids) {
      EXPECT_TRUE(scheduler_.remove(id));
      forget(id);
    }
  }

  void admit() {
    while (const auto id = scheduler_.admit(pages_ - used_)) {
      ASSERT_EQ(*id, waiting_.front().id) << "overtaken in the queue";
      used_ += waiting_.front().pages;
      ASSERT_LE(used_, pages_);
      running_[*id] = {.ticket = waiting_.front()};
      waiting_.pop_front();
      ASSERT_LE(static_cast<int32_t>(running_.size()), max_running_);
    }
    const bool fits = !waiting_.empty() && static_cast<int32_t>(running_.size()) < max_running_ &&
                      waiting_.front().pages <= pages_ - used_;
    EXPECT_FALSE(fits) << "a head that fits was left waiting";
  }

  void forward(const std::vector<RequestId>& batch) {
    EXPECT_EQ(batch.empty(), running_.empty());
    int64_t tokens = 0;
    const std::set<RequestId> distinct(batch.begin(), batch.end());
    EXPECT_EQ(distinct.size(), batch.size());
    for (const RequestId id : batch) tokens += running_.at(id).ticket.tokens;
    EXPECT_TRUE(tokens <= budget_ || batch.size() == 1) << tokens;
    for (auto& [id, running] : running_) {
      running.neighbours = std::max(running.neighbours, static_cast<int>(running_.size()));
      running.starved = distinct.contains(id) ? 0 : running.starved + 1;
      EXPECT_LT(running.starved, running.neighbours) << "request " << id << " starves";
      if (running.starved == 0) running.neighbours = 0;
    }
    for (const RequestId id : batch) change_cost(id);
  }

  void change_cost(RequestId id) {
    running_.at(id).ticket.tokens = pick(1, 80);
    scheduler_.set_tokens(id, running_.at(id).ticket.tokens);
  }

  void drain() {
    while (!scheduler_.idle()) {
      step();
      if (::testing::Test::HasFailure()) return;
      ASSERT_FALSE(running_.empty());
      const RequestId id = running_.begin()->first;
      EXPECT_TRUE(scheduler_.remove(id));
      forget(id);
    }
    EXPECT_EQ(used_, 0);
    EXPECT_EQ(scheduler_.next_deadline(), std::nullopt);
  }

  std::mt19937 random_;
  int32_t max_running_, budget_, pages_;
  Scheduler scheduler_;
  std::deque<Ticket> waiting_;
  std::map<RequestId, Running> running_;
  RequestId last_id_ = 0;
  int32_t used_ = 0;
  int64_t now_ = 0;
};

TEST(Scheduler, KeepsEveryPromiseOnThousandsOfRandomTraces) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    RandomTrace(seed).run(80);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace pydllm::engine
