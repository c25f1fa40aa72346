// multi_block_entropy on d3LLM's executed trace, and against the loop of the original written out with all its states.
#include <gtest/gtest.h>

#include <string>

#include "decode_examples.h"

namespace pydllm::decode {
namespace {

constexpr float kEntropy[8] = {.2374f, .9566f, .3389f, 1.0065f, .1592f, .8248f, 1.0462f, .1997f};
constexpr int32_t kToken[8] = {1, 2, 0, 1, 2, 0, 1, 2};
const std::vector<int32_t> kPrompt = {0, 0};

RowStats example(int32_t position, int32_t /*forward*/) {
  return certain(kToken[position - 2], .5f, kEntropy[position - 2]);
}

struct Setting {
  bool dream = false;
  double threshold = .45, add = .5, decoded = .5;
};

ParamMap params_of(const Setting& setting, int64_t block_length) {
  return {{"threshold", setting.threshold},
          {"block_add_threshold", setting.add},
          {"decoded_token_threshold", setting.decoded},
          {"block_length", block_length},
          {"comparison", std::string(setting.dream ? "lt" : "le")},
          {"force_scope", std::string(setting.dream ? "first" : "all")}};
}

Canvases example_run(const Setting& setting, const std::vector<int32_t>& eos = {}) {
  Driver driver({.prompt = kPrompt, .max_tokens = 8, .eos_token_ids = eos}, "multi_block_entropy",
                params_of(setting, 4));
  Canvases run = canvases(driver, example);
  for (Tokens& canvas : run) canvas.erase(canvas.begin(), canvas.begin() + 2);
  return run;
}

TEST(MultiBlockEntropy, LladaTraceOfTheOriginal) {
  EXPECT_EQ(example_run({}), (Canvases{{M, M, M, M, M, M, M, M},
                                       {1, M, 0, M, M, M, M, M},
                                       {1, 2, 0, M, 2, M, M, 2},
                                       {1, 2, 0, 1, 2, 0, M, 2},
                                       {1, 2, 0, 1, 2, 0, 1, 2}}));
}

TEST(MultiBlockEntropy, DreamTraceOfTheOriginal) {
  EXPECT_EQ(example_run({.dream = true}), (Canvases{{M, M, M, M, M, M, M, M},
                                                    {1, M, 0, M, M, M, M, M},
                                                    {1, 2, 0, M, 2, M, M, 2},
                                                    {1, 2, 0, 1, 2, M, M, 2},
                                                    {1, 2, 0, 1, 2, 0, M, 2},
                                                    {1, 2, 0, 1, 2, 0, 1, 2}}));
}

TEST(MultiBlockEntropy, ForwardsOfTheOriginal) {
  const auto forwards = [](bool dream, double threshold, double add, double decoded) {
    return example_run({dream, threshold, add, decoded}).size() - 1;
  };
  EXPECT_EQ(forwards(false, .45, .1, .95), 4u);
  EXPECT_EQ(forwards(false, .45, 1, 1), 6u);
  EXPECT_EQ(forwards(false, .05, .5, .5), 6u);
  EXPECT_EQ(forwards(false, .05, .1, .95), 5u);
  EXPECT_EQ(forwards(false, .05, 1, 1), 8u);
  EXPECT_EQ(forwards(true, .45, .1, .95), 5u);
  EXPECT_EQ(forwards(true, .45, 1, 1), 6u);
  EXPECT_EQ(forwards(true, .05, .5, .5), 8u);
  EXPECT_EQ(forwards(true, .05, .1, .95), 8u);
  EXPECT_EQ(forwards(true, .05, 1, 1), 8u);
}

TEST(MultiBlockEntropy, EndOfSequenceFillsWhatFollows) {
  EXPECT_EQ(example_run({}, {2}),
            (Canvases{{M, M, M, M, M, M, M, M}, {1, M, 0, M, M, M, M, M}, {1, 2, 2, 2, 2, 2, 2, 2}}));
}

TEST(MultiBlockEntropy, MasksBeforeAnEndOfSequenceAreStillDecoded) {
  const StatsOf later_first = [](int32_t position, int32_t) {
    return certain(position == 3 ? 2 : 1, .5f, static_cast<float>(9 - position));
  };
  Driver driver({.eos_token_ids = {2}}, "multi_block_entropy", {{"threshold", 0.0}});
  EXPECT_EQ(canvases(driver, later_first),
            (Canvases{{0, M, M, M, M}, {0, M, M, M, 1}, {0, M, M, 2, 2}, {0, M, 1, 2, 2}, {0, 1, 1, 2, 2}}));
}

TEST(MultiBlockEntropy, TheRemainderIsABlock) {
  Driver driver({.max_tokens = 6}, "multi_block_entropy", {{"block_length", int64_t{4}}});
  canvases(driver, random_stats(3, 100, 3));
  EXPECT_TRUE(driver.done());
  EXPECT_EQ(driver.decoding->progress().block_index, 1);
  EXPECT_EQ(driver.decoding->progress().block_end, 7);
}

// The original's loop without cache and early stop, step by step, block states included.
class OriginalLoop {
 public:
  OriginalLoop(const Setting& setting, int32_t prompt, int32_t blocks, int32_t length)
      : setting_(setting), prompt_(prompt), blocks_(blocks), length_(length), canvas_(blocks * length, M) {
    states_.push_back({0, setting.decoded <= 1});
  }

  Canvases run(const StatsOf& stats) {
    Canvases out = {canvas_};
    for (int32_t forward = 0; std::ranges::count(canvas_, M) > 0; ++forward) {
      step(stats, forward);
      out.push_back(canvas_);
    }
    return out;
  }

 private:
  struct State {
    int32_t begin = 0;
    bool fully_active = false;
  };

  int32_t masks(const State& block) const {
    return static_cast<int32_t>(std::count(canvas_.begin() + block.begin, canvas_.begin() + block.begin + length_, M));
  }
  double progress(const State& block) const { return 1.0 - masks(block) / static_cast<double>(length_); }

  void update_blocks() {
    for (size_t i = 1; i < states_.size(); ++i) {
      states_[i].fully_active |= progress(states_[i - 1]) >= setting_.decoded;
    }
    const State last = states_.back();
    const bool remain = static_cast<int32_t>(states_.size()) < blocks_;
    if (remain && (progress(last) >= setting_.add || masks(last) == 0)) {
      states_.push_back({last.begin + length_, progress(last) >= setting_.decoded});
    }
  }

  bool passes(float entropy) const {
    const auto threshold = static_cast<float>(setting_.threshold);
    return setting_.dream ? entropy < threshold : entropy <= threshold;
  }

  void step(const StatsOf& stats, int32_t forward) {
    update_blocks();
    const int32_t active_end = states_.back().begin + length_;
    const auto row = [&](int32_t offset) { return stats(prompt_ + offset, forward); };
    const auto lowest = [&](int32_t begin, int32_t end) {
      int32_t best = -1;
      for (int32_t i = begin; i < end; ++i) {
        if (canvas_[i] == M && (best < 0 || row(i).entropy < row(best).entropy)) best = i;
      }
      return best;
    };
    std::set<int32_t> chosen;
    for (int32_t i = 0; i < active_end; ++i) {
      if (canvas_[i] == M && passes(row(i).entropy)) chosen.insert(i);
    }
    if (!setting_.dream) chosen.insert(lowest(0, active_end));
    for (const State& block : states_) {
      if (!block.fully_active || masks(block) == 0) continue;
      const auto inside = chosen.lower_bound(block.begin);
      if (inside == chosen.end() || *inside >= block.begin + length_) {
        chosen.insert(lowest(block.begin, block.begin + length_));
      }
      break;
    }
    for (const int32_t i : chosen) canvas_[i] = row(i).token;
  }

  Setting setting_;
  int32_t prompt_, blocks_, length_;
  Tokens canvas_;
  std::vector<State> states_;
};

TEST(MultiBlockEntropy, IsTheLoopOfTheOriginal) {
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const auto pick = [&](uint64_t what, uint64_t choices) { return mixed(seed, what) % choices; };
    const Setting setting{pick(1, 2) == 0, static_cast<double>(pick(2, 9)) / 4, static_cast<double>(pick(3, 5)) / 4,
                          static_cast<double>(pick(4, 5)) / 4};
    const auto blocks = static_cast<int32_t>(1 + pick(5, 5)), length = static_cast<int32_t>(1 + pick(6, 6));
    const StatsOf stats = random_stats(seed, 1 + pick(7, 40), 3);
    Driver driver({.max_tokens = blocks * length}, "d3llm", params_of(setting, length));
    Canvases run = canvases(driver, stats);
    for (Tokens& canvas : run) canvas.erase(canvas.begin());
    ASSERT_EQ(run, OriginalLoop(setting, 1, blocks, length).run(stats)) << seed;
  }
}

// --- the delayed cache ---

std::vector<int32_t> window_begins(int64_t delay, int64_t interval) {
  ParamMap params = params_of({.threshold = .05, .add = 1, .decoded = 1}, 4);
  params.insert(params.end(),
                {{"cache", std::string("delayed")}, {"cache_delay_iter", delay}, {"refresh_interval", interval}});
  Driver driver({.prompt = kPrompt, .max_tokens = 8}, "multi_block_entropy", params);
  std::vector<int32_t> begins;
  while (!driver.done()) {
    driver.step(example);
    begins.push_back(driver.plan.query_begin);
    EXPECT_EQ(driver.plan.query_end, 10);
  }
  return begins;
}

// One token per forward: the first block is complete after the fourth.
TEST(DelayedCache, ABlockIsFedUntilItsDelayIsOverAndRenewsTheRestMeanwhile) {
  EXPECT_EQ(window_begins(1, 10000), (std::vector<int32_t>{0, 2, 2, 2, 0, 2, 6, 6}));
  EXPECT_EQ(window_begins(2, 10000), (std::vector<int32_t>{0, 0, 2, 2, 0, 0, 2, 6}));
  EXPECT_EQ(window_begins(10000, 10000), (std::vector<int32_t>(8, 0)));
}

TEST(DelayedCache, EverySoManyForwardsEverythingIsFed) {
  EXPECT_EQ(window_begins(1, 0), window_begins(1, 10000)) << "never for that reason";
  EXPECT_EQ(window_begins(1, 3), (std::vector<int32_t>{0, 2, 0, 2, 0, 2, 6, 6}));
  EXPECT_EQ(window_begins(1, 1), (std::vector<int32_t>{0, 0, 0, 0, 0, 2, 0, 0})) << "what is due is fed from the kept";
}

TEST(DelayedCache, APlanMadeTwiceIsTheSame) {
  ParamMap params = params_of({.threshold = .05, .add = 1, .decoded = 1}, 4);
  params.emplace_back("cache", std::string("delayed"));
  Driver driver({.prompt = kPrompt, .max_tokens = 8}, "multi_block_entropy", params);
  for (const int32_t expected : {0, 0, 2, 2, 0, 0, 2, 6}) {
    for (int i = 0; i < 3; ++i) driver.decoding->plan(driver.canvas, driver.plan);
    EXPECT_EQ(driver.plan.query_begin, expected);
    driver.step(example);
  }
}

// The original's table of blocks and its scan, with one length for what is kept.
class OriginalCache {
 public:
  OriginalCache(int32_t prompt, int32_t max_tokens, int32_t length, int64_t delay, int64_t interval)
      : delay_(delay), interval_(interval) {
    blocks_.push_back({0, prompt, 0, false});
    for (int32_t begin = prompt; begin < prompt + max_tokens; begin += length) {
      blocks_.push_back({begin, std::min(begin + length, prompt + max_tokens), -1, false});
    }
  }

  int32_t window_begin(const Canvas& canvas, int64_t forward) {
    const int32_t update = due(canvas, forward) - keep_;
    const bool stabilizing = std::ranges::any_of(blocks_, [&](const Block& block) {
      return !block.cached && block.completed_at >= 0 && canvas.masked_count(block.begin, block.end) == 0;
    });
    const int32_t begin = keep_;
    keep_ += update;
    if (update > 0) return begin;
    return begin > 0 && !stabilizing && forward % interval_ != 0 ? begin : 0;
  }

 private:
  struct Block {
    int32_t begin, end;
    int64_t completed_at;
    bool cached;
  };

  int32_t due(const Canvas& canvas, int64_t forward) {
    int32_t end = keep_;
    for (Block& block : blocks_) {
      if (block.cached) continue;
      if (canvas.masked_count(block.begin, block.end) > 0) break;
      if (block.completed_at < 0) block.completed_at = forward;
      if (forward - block.completed_at < delay_) break;
      block.cached = true;
      end = block.end;
    }
    return end;
  }

  int64_t delay_, interval_;
  std::vector<Block> blocks_;
  int32_t keep_ = 0;
};

TEST(DelayedCache, FollowsTheOriginalsTableOfBlocks) {
  int windows = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const auto pick = [&](uint64_t what, uint64_t choices) {
      return static_cast<int32_t>(mixed(seed, what) % choices);
    };
    const int32_t prompt = pick(1, 5), length = 1 + pick(2, 6), max_tokens = 1 + pick(3, 30);
    const int64_t delay = 1 + pick(4, 4), interval = pick(5, 3) == 0 ? 1 + pick(6, 5) : 10000;
    ParamMap params = params_of({pick(7, 2) == 0, pick(8, 9) / 4.0, pick(9, 5) / 4.0, 1}, length);
    params.insert(params.end(),
                  {{"cache", std::string("delayed")}, {"cache_delay_iter", delay}, {"refresh_interval", interval}});
    Driver driver({.prompt = std::vector<int32_t>(static_cast<size_t>(prompt), 0), .max_tokens = max_tokens},
                  "multi_block_entropy", params);
    OriginalCache original(prompt, max_tokens, length, delay, interval);
    const StatsOf stats = random_stats(seed, 30, 3);
    while (!driver.done()) {
      const int32_t expected = original.window_begin(driver.canvas, driver.forwards + 1);
      driver.step(stats);
      ASSERT_EQ(driver.plan.query_begin, expected) << seed << ", forward " << driver.forwards;
      windows += expected > 0;
    }
  }
  EXPECT_GT(windows, 500);
}

}  // namespace
}  // namespace pydllm::decode
