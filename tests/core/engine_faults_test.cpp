// Faults, cancellation, deadlines, the queue and many threads: every request ends once, nobody else is touched.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <set>
#include <thread>

#include "base/errors.h"
#include "engine_harness.h"

namespace pydllm::engine {
namespace {

// --- faults ---

TEST(EngineFaults, NonFiniteLogitsFailTheirRequestAndNoNeighbour) {
  Gate gate;
  fake::Behaviour behaviour = holding(gate);
  behaviour.nan_token = 59;
  Client client(behaviour);
  const Request healthy = ask({1, 2, 3}, 20);
  const RequestId before = client.submit(healthy);
  const RequestId sick = client.submit(ask({1, 59, 3}, 20));
  const RequestId after = client.submit(healthy);
  gate.open();
  EXPECT_TRUE(client.stream(sick).failed_with(FailReason::kInternal));
  EXPECT_EQ(client.stream(sick).end().message, "non-finite logits in forward pass 1");
  EXPECT_TRUE(client.stream(sick).tokens().empty());
  Client alone(behaviour);
  const std::vector<int32_t> expected = alone.run(healthy).tokens();
  EXPECT_EQ(client.stream(before).tokens(), expected);
  EXPECT_EQ(client.stream(after).tokens(), expected);
  client.expect_clean();
}

TEST(EngineFaults, LogitsThatTurnNonFiniteLaterNameTheirForward) {
  fake::Behaviour behaviour;
  behaviour.wanted[1] = 59;  // committed in the first forward, poisonous from the second on
  behaviour.nan_token = 59;
  Client client(behaviour);
  const Stream stream = client.run(ask({1}, 8, "llada_schedule"));
  EXPECT_TRUE(stream.failed_with(FailReason::kInternal));
  EXPECT_EQ(stream.end().message, "non-finite logits in forward pass 2");
  EXPECT_EQ(stream.end().forward_passes, 1);
}

TEST(EngineFaults, AForwardThatThrowsFailsItsRequestsInOneLineAndTheEngineGoesOn) {
  std::atomic<int> forwards{0};
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput&) {
    switch (++forwards) {
      case 1:
        throw InternalError("two\nlines");
      case 2:
        throw std::bad_alloc();
    }
  };
  Client client(behaviour);
  const Stream first = client.run(ask({1}, 4));
  EXPECT_TRUE(first.failed_with(FailReason::kInternal));
  EXPECT_EQ(first.end().message, "two lines");
  EXPECT_TRUE(client.run(ask({1}, 4)).failed_with(FailReason::kInternal));
  client.expect_clean();
  EXPECT_TRUE(client.run(ask({1}, 4)).finished_with(FinishReason::kLength));
  EXPECT_EQ(client.engine().stats().requests_failed, 2u);
  EXPECT_EQ(client.engine().stats().requests_finished, 1u);
}

TEST(EngineFaults, ALostDeviceEndsEveryRequestAndTheEngine) {
  Gate gate;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput&) {
    gate.pass();
    throw DeviceLost("attention: an illegal memory access was encountered");
  };
  Client client(behaviour);
  EXPECT_FALSE(client.engine().ended());
  const RequestId running = client.submit(ask({1}, 4)), waiting = client.submit(ask({1}, 4));
  gate.open();
  for (const RequestId id : {running, waiting}) {
    EXPECT_TRUE(client.stream(id).failed_with(FailReason::kDeviceLost));
    EXPECT_EQ(client.stream(id).end().message, "attention: an illegal memory access was encountered");
  }
  while (!client.engine().ended()) std::this_thread::yield();
  EXPECT_THROW(client.submit(ask({1}, 4)), ResourceExhausted);
  client.expect_clean();
}

// --- cancellation, deadlines, the queue ---

TEST(EngineQueue, ACancelledRunningRequestEndsWithinTheStepAndFreesItsPages) {
  Gate gate;
  Client client(holding(gate));
  const RequestId id = client.submit(ask({1}, 20, "llada_schedule"));
  gate.await_arrival();
  client.engine().cancel(id);
  client.engine().cancel(id);
  gate.open();
  const Stream& stream = client.stream(id);
  EXPECT_TRUE(stream.failed_with(FailReason::kCancelled));
  EXPECT_EQ(stream.end().forward_passes, 1);
  client.expect_clean();
  EXPECT_EQ(client.engine().stats().late_commands, 1u);
}

TEST(EngineQueue, ACancelledQueuedRequestNeverStartsAndTheOthersKeepTheirOrder) {
  Gate gate;
  EngineOptions options = fake_options();
  options.max_running_requests = 1;
  Client client(holding(gate), options);
  std::vector<RequestId> ids = {client.submit(ask({1}, 2))};
  gate.await_arrival();
  for (int i = 0; i < 5; ++i) ids.push_back(client.submit(ask({1}, 2)));
  client.engine().cancel(ids[2]);
  gate.open();
  EXPECT_TRUE(client.stream(ids[2]).failed_with(FailReason::kCancelled));
  EXPECT_FALSE(client.stream(ids[2]).started());
  EXPECT_EQ(client.stream(ids[2]).end().forward_passes, 0);
  EXPECT_TRUE(client.stream(ids[5]).finished_with(FinishReason::kLength));
  EXPECT_EQ(client.start_order(), (std::vector<RequestId>{ids[0], ids[1], ids[3], ids[4], ids[5]}));
  client.expect_clean();
}

TEST(EngineQueue, CancellingUnknownAndEndedRequestsIsCountedAndHarmless) {
  Client client;
  client.engine().cancel(12345);
  const RequestId id = client.submit(ask({1}, 4));
  EXPECT_TRUE(client.stream(id).finished_with(FinishReason::kLength));
  client.engine().cancel(id);
  EXPECT_TRUE(client.run(ask({1}, 4)).finished_with(FinishReason::kLength));
  EXPECT_EQ(client.engine().stats().late_commands, 2u);
  client.engine().stop();
  client.engine().cancel(id);
  EXPECT_EQ(client.engine().stats().late_commands, 3u);
}

TEST(EngineQueue, ADeadlineThatPassedInTheQueueCostsNoForward) {
  Client client;
  Request request = ask({1}, 4);
  request.deadline = Clock::now() - std::chrono::seconds(1);
  const Stream stream = client.run(request);
  EXPECT_TRUE(stream.failed_with(FailReason::kDeadlineExceeded));
  EXPECT_FALSE(stream.started());
  EXPECT_EQ(client.engine().stats().steps, 0u);
  client.expect_clean();
}

TEST(EngineQueue, AFullQueueRefusesAtOnceAndAcceptsAgainWhenThereIsRoom) {
  Gate gate;
  EngineOptions options = fake_options();
  options.max_running_requests = 1;
  options.max_waiting_requests = 2;
  Client client(holding(gate), options);
  const RequestId running = client.submit(ask({1}, 2));
  gate.await_arrival();  // admitted: its place in the queue is free
  const RequestId second = client.submit(ask({1}, 2));
  const RequestId third = client.submit(ask({1}, 2));
  EXPECT_THROW(client.submit(ask({1}, 2)), ResourceExhausted);
  client.engine().cancel(second);
  gate.open();
  for (const RequestId id : {running, second, third}) EXPECT_TRUE(client.stream(id).ended());
  EXPECT_TRUE(client.run(ask({1}, 2)).finished_with(FinishReason::kLength));
}

TEST(EngineQueue, ARequestThatEndsInTheQueueGivesItsPlaceBack) {
  EngineOptions options = fake_options();
  options.max_waiting_requests = 1;
  Client client(fake::Behaviour{}, options);
  Request request = ask({1}, 4);
  request.deadline = Clock::now() - std::chrono::seconds(1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(client.run(request).failed_with(FailReason::kDeadlineExceeded));
}

TEST(EngineQueue, ARefusedRequestTakesNoPlaceInTheQueue) {
  EngineOptions options = fake_options();
  options.max_waiting_requests = 1;
  Client client(fake::Behaviour{}, options);
  for (int i = 0; i < 3; ++i) EXPECT_THROW(client.submit(ask({}, 2)), InvalidRequest);
  EXPECT_TRUE(client.run(ask({1}, 2)).finished_with(FinishReason::kLength));
}

TEST(EngineQueue, AForwardKeepsTheTokenBudgetUnlessItIsOneRequest) {
  std::vector<std::pair<int64_t, size_t>> forwards;  // tokens, sequences
  Gate gate;
  fake::Behaviour behaviour;
  behaviour.on_forward = [&](const StepInput& input) {
    gate.pass();
    forwards.emplace_back(input.tokens.size(0), input.sequences.size());
  };
  EngineOptions options = fake_options();
  options.max_batched_tokens = 50;
  Client client(behaviour, options);
  std::vector<RequestId> ids;
  for (const int32_t length : {10, 60, 24, 14, 9, 49}) ids.push_back(client.submit(ask({1}, length)));
  gate.open();
  for (const RequestId id : ids) EXPECT_TRUE(client.stream(id).finished_with(FinishReason::kLength));
  client.engine().stop();  // the log is the engine thread's until here
  EXPECT_TRUE(std::ranges::any_of(forwards, [](const auto& f) { return f.second > 1; }));
  for (const auto& [tokens, sequences] : forwards) EXPECT_TRUE(tokens <= 50 || sequences == 1) << tokens;
  const auto total = client.engine().stats();
  EXPECT_EQ(total.steps, forwards.size());
}

TEST(EngineQueue, StopDuringWorkEndsEveryRequestOnceAndRefusesNewOnes) {
  Gate gate;
  EngineOptions options = fake_options();
  options.max_running_requests = 2;
  Client client(holding(gate), options);
  std::vector<RequestId> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(client.submit(ask({1}, 20, "llada_schedule")));
  gate.await_arrival();
  std::thread stopper([&] { client.engine().stop(); });
  for (std::string refusal; refusal != "the engine is stopped"; std::this_thread::yield()) {
    try {
      ids.push_back(client.submit(ask({1}, 1)));
    } catch (const ResourceExhausted& error) {
      refusal = error.what();
    }
  }
  gate.open();
  stopper.join();
  client.engine().stop();
  for (const RequestId id : ids) EXPECT_TRUE(client.stream(id).failed_with(FailReason::kShutdown));
  EXPECT_FALSE(client.engine().wait(60)) << "nothing can come any more";
  client.expect_clean();
}

TEST(EngineQueue, DestructionWithWorkUnderWayIsClean) {
  Client client;
  for (uint32_t seed = 0; seed < 20; ++seed) client.submit(random_request(seed));
}

// --- many threads ---

class Storm {
 public:
  static constexpr int kThreads = 64;
  static constexpr int kPerThread = 4;

  Storm() : client_(fake::Behaviour{}, options()) {
    Client alone;
    for (uint32_t kind = 0; kind < kKinds; ++kind) expected_.push_back(alone.run(random_request(kind)).tokens());
  }

  void run() {
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) threads.emplace_back([this, i] { submit_and_cancel(static_cast<uint32_t>(i)); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& [id, kind] : kinds_) judge(client_.stream(id), expected_[kind]);
    const EngineStats stats = client_.engine().stats();
    EXPECT_EQ(stats.requests_finished + stats.requests_failed, kinds_.size());
    EXPECT_EQ(stats.final_tokens, delivered_);
    EXPECT_EQ(stats.denoise_steps, steps_);
    EXPECT_EQ(stats.blocks_finished, blocks_);
    EXPECT_GT(finished_, 0);
    client_.expect_clean();
  }

 private:
  static constexpr uint32_t kKinds = 12;

  static EngineOptions options() {
    EngineOptions options = fake_options();
    options.pages = 60;  // requests wait for pages
    options.max_batched_tokens = 200;
    options.max_running_requests = 12;
    return options;
  }

  void submit_and_cancel(uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < kPerThread; ++i) {
      const uint32_t kind = random() % kKinds;
      Request request = random_request(kind);
      if (random() % 4 == 0) request.deadline = Clock::now() + std::chrono::microseconds(random() % 20000);
      const RequestId id = client_.submit(std::move(request));
      {
        const std::lock_guard lock(mutex_);
        kinds_[id] = kind;
      }
      if (random() % 3 == 0) client_.engine().cancel(id - random() % 3);
      EXPECT_EQ(client_.engine().stats().integrity, "");
    }
  }

  void judge(const Stream& stream, const std::vector<int32_t>& expected) {
    const std::vector<int32_t> tokens = stream.tokens();
    delivered_ += tokens.size();
    steps_ += static_cast<uint64_t>(stream.end().denoise_steps);
    blocks_ += stream.blocks().size();
    ASSERT_LE(tokens.size(), expected.size());
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), expected.begin())) << "another answer than alone";
    if (stream.end().kind == EventKind::kFailed) {
      EXPECT_TRUE(stream.failed_with(FailReason::kCancelled) || stream.failed_with(FailReason::kDeadlineExceeded))
          << stream.end().message;
      return;
    }
    ++finished_;
    if (!stream.finished_with(FinishReason::kStepLimit)) {  // not cut by a deadline
      EXPECT_EQ(tokens, expected);
    }
  }

  Client client_;
  std::vector<std::vector<int32_t>> expected_;
  std::mutex mutex_;
  std::map<RequestId, uint32_t> kinds_;
  uint64_t delivered_ = 0;
  uint64_t steps_ = 0;
  uint64_t blocks_ = 0;
  int finished_ = 0;
};

TEST(EngineThreads, SixtyFourClientsWithRandomCancelsAndDeadlinesEachGetExactlyOneEnd) {
  Storm().run();
}

TEST(EngineThreads, CallsFromManyThreadsWhileTheEngineStopsAreSafe) {
  Client client;
  std::atomic<int> accepted{0};
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (uint32_t k = 0; k < 20; ++k) {
        try {
          client.engine().cancel(client.submit(random_request(i * 100 + k)));
          ++accepted;
        } catch (const ResourceExhausted&) {
        }
        if (i == 0 && k == 10) client.engine().stop();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<RequestId> ended;
  for (const Event& event : client.engine().drain()) {
    EXPECT_TRUE(!terminal(event) || ended.insert(event.id).second) << "a second end";
  }
  EXPECT_EQ(static_cast<int>(ended.size()), accepted.load());
  client.expect_clean();
}

}  // namespace
}  // namespace pydllm::engine
