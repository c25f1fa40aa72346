// What engine tests share: a gate that holds the engine inside a forward, and a client that gathers events and checks
// the shape of every stream.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "fake_model.h"

namespace pydllm::engine {

constexpr int32_t kMask = 60;  // of the fake model's 61 ids
constexpr int32_t kDelete = 7, kSplit = 8;

// Everyone who passes waits until it is opened; it stays open.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrivals_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void await_arrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return arrivals_ > 0; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrivals_ = 0;
  bool open_ = false;
};

// A model that waits in its forwards until the gate is open.
inline fake::Behaviour holding(Gate& gate) {
  fake::Behaviour behaviour;
  behaviour.on_forward = [&gate](const StepInput&) { gate.pass(); };
  return behaviour;
}

inline EngineOptions fake_options() {
  EngineOptions options;
  options.max_model_len = 128;
  options.max_batched_tokens = 512;
  options.page_size = 8;
  options.pages = 256;
  options.max_logit_rows = 32;
  options.mask_token_id = kMask;
  options.debug_checks = true;
  return options;
}

inline Request ask(std::vector<int32_t> prompt, int32_t max_tokens, std::string algorithm = "confidence_threshold",
                   decode::ParamMap params = {}) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.algorithm = std::move(algorithm);
  request.params = std::move(params);
  return request;
}

inline bool terminal(const Event& event) {
  return event.kind == EventKind::kFinished || event.kind == EventKind::kFailed;
}

// One request's events, and what they add up to.
struct Stream {
  std::vector<Event> events;

  bool ended() const { return !events.empty() && terminal(events.back()); }
  const Event& end() const { return events.back(); }
  bool started() const { return !events.empty() && events.front().kind == EventKind::kStarted; }
  bool failed_with(FailReason reason) const {
    return ended() && end().kind == EventKind::kFailed && end().fail_reason == reason;
  }
  bool finished_with(FinishReason reason) const {
    return ended() && end().kind == EventKind::kFinished && end().finish_reason == reason;
  }
  std::vector<int32_t> tokens() const {
    std::vector<int32_t> all;
    for (const Event& event : events) all.insert(all.end(), event.final_tokens.begin(), event.final_tokens.end());
    return all;
  }
  std::vector<BlockDone> blocks() const {
    std::vector<BlockDone> all;
    for (const Event& event : events) all.insert(all.end(), event.blocks.begin(), event.blocks.end());
    return all;
  }
};

// The promises every stream keeps, whatever the request.
inline void expect_well_formed(const Stream& stream) {
  ASSERT_TRUE(stream.ended());
  size_t offset = 0;
  int32_t passes = 0, steps = 0;
  for (size_t i = 0; i < stream.events.size(); ++i) {
    const Event& event = stream.events[i];
    EXPECT_EQ(terminal(event), i + 1 == stream.events.size());
    EXPECT_EQ(event.kind == EventKind::kStarted, i == 0 && stream.started());
    EXPECT_TRUE(event.kind == EventKind::kFailed || i > 0 || stream.started());
    EXPECT_EQ(event.final_offset, static_cast<int32_t>(offset));
    offset += event.final_tokens.size();
    EXPECT_GE(event.forward_passes, passes);
    EXPECT_GE(event.denoise_steps, steps);
    EXPECT_GE(event.queue_seconds, 0);
    passes = event.forward_passes;
    steps = event.denoise_steps;
  }
  if (stream.end().kind == EventKind::kFailed) return;
  int32_t covered = 0;
  for (const BlockDone& block : stream.blocks()) {
    EXPECT_EQ(block.begin, covered);
    EXPECT_GT(block.end, block.begin);
    EXPECT_GE(block.denoise_steps, 1);
    covered = block.end;
  }
  EXPECT_EQ(covered, static_cast<int32_t>(offset)) << "blocks tile the output";
}

class Client {
 public:
  explicit Client(fake::Behaviour behaviour = {}, EngineOptions options = fake_options())
      : Client(std::make_unique<fake::FakeModel>(std::move(behaviour)), options) {}
  Client(std::unique_ptr<Model> model, const EngineOptions& options, int threads = 1)
      : engine_(std::move(model), options, threads) {}

  Engine& engine() { return engine_; }
  RequestId submit(Request request) { return engine_.submit(std::move(request)); }

  // Waits for the request's end.
  const Stream& stream(RequestId id) {
    while (!streams_[id].ended() && pump()) {
    }
    expect_well_formed(streams_[id]);
    return streams_[id];
  }
  Stream run(Request request) { return stream(submit(std::move(request))); }

  // Ids in the order in which their kStarted events came.
  const std::vector<RequestId>& start_order() const { return start_order_; }

  // Takes what waits; false when nothing came for a minute or after the engine's end.
  bool pump() {
    const bool some = engine_.wait(60);
    for (Event& event : engine_.drain()) {
      EXPECT_FALSE(streams_[event.id].ended()) << "an event after the end of request " << event.id;
      if (event.kind == EventKind::kStarted) start_order_.push_back(event.id);
      streams_[event.id].events.push_back(std::move(event));
    }
    return some;
  }

  void expect_clean() {
    const EngineStats stats = engine_.stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.pages_used, 0);
    EXPECT_EQ(stats.integrity, "");
  }

 private:
  Engine engine_;
  std::map<RequestId, Stream> streams_;
  std::vector<RequestId> start_order_;
};

// Any algorithm, any length, greedy or sampled; depends on the seed only.
inline Request random_request(uint32_t seed) {
  std::mt19937 random(seed);
  const auto pick = [&](int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random);
  };
  Request request = ask({}, pick(1, 40));
  for (int32_t i = pick(1, 20); i > 0; --i) request.prompt.push_back(pick(0, 60));
  const auto block = std::pair<std::string, decode::ParamValue>("block_length", int64_t{pick(1, 12)});
  switch (pick(0, 3)) {
    case 0:
      request.params = {block, {"confidence_threshold", 0.3}};
      break;
    case 1:
      request.algorithm = "entropy_threshold";
      request.params = {block, {"entropy_threshold", 1.5}};
      break;
    case 2:
      request.algorithm = "llada_schedule";
      request.params = {block, {"remasking", std::string("random")}};
      break;
    default:
      request.algorithm = "llada_schedule";
      request.params = {block, {"cfg_scale", 0.5}};
  }
  request.seed = random();
  if (pick(0, 1)) request.temperature = 0.9f;
  if (pick(0, 2) == 0) request.top_p = 0.8f;
  if (pick(0, 2) == 0) request.top_k = 5;
  if (pick(0, 3) == 0) request.eos_token_ids = {pick(0, 59)};
  request.snapshots = pick(0, 3) == 0;
  if (pick(0, 3) == 0) request.frequency_penalty = 0.25f * static_cast<float>(pick(-8, 8));
  if (pick(0, 3) == 0) request.repetition_penalty = 0.25f * static_cast<float>(pick(1, 8));
  if (pick(0, 3) == 0) request.logit_bias = {{pick(0, 29), 4.5f}, {pick(30, 59), -100}};
  if (pick(0, 3) == 0) request.min_tokens = pick(0, request.max_tokens);
  if (pick(0, 3) == 0) request.min_p = 0.1f;
  return request;
}

}  // namespace pydllm::engine
