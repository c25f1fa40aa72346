// d2f against the original's loop written out: blocks in a list, a sequence that grows, nothing kept between steps.
#include <gtest/gtest.h>

#include <utility>

#include "decode_examples.h"

namespace pydllm::decode {
namespace {

constexpr int32_t kVocab = 9;
constexpr int32_t kMaskId = 9;

struct Settings {
  int32_t prompt = 1, max_tokens = 8, block = 4;
  double skip = .9, add = .5, decoded = .9;
  std::string strategy = "default";
  std::vector<int32_t> eos = {};
};

// The evaluation code of D2F for one request; -1 is a mask. Its blocks: [begin, end), the first one the prompt.
class OriginalLoop {
 public:
  OriginalLoop(const Settings& settings, StatsOf stats) : s_(settings), stats_(std::move(stats)) {
    x_.assign(static_cast<size_t>(s_.prompt), 0);
    blocks_ = {{0, s_.prompt}};
  }

  // Every sequence before a forward, and the last one.
  Canvases run() {
    Canvases out;
    for (int32_t step = 0;; ++step) {
      const bool more = static_cast<int32_t>(x_.size()) < s_.prompt + s_.max_tokens;
      if (more && !ended_ && progress(blocks_.size() - 1) >= s_.add) add_block();
      if (std::ranges::count(x_, M) == 0) break;
      out.push_back(x_);
      std::vector<bool> complete(blocks_.size() + 1, false);
      for (size_t b = 0; b < blocks_.size(); ++b) complete[b + 1] = progress(b) >= s_.decoded;
      for (size_t b = 1; b < blocks_.size(); ++b) denoise(b, complete[b], step);
    }
    out.push_back(x_);
    return out;
  }

 private:
  void add_block() {
    const auto begin = static_cast<int32_t>(x_.size());
    const int32_t end = std::min(begin + s_.block, s_.prompt + s_.max_tokens);
    blocks_.emplace_back(begin, end);
    x_.resize(static_cast<size_t>(end), M);
  }

  std::vector<int32_t> masks(size_t b) const {
    std::vector<int32_t> out;
    for (int32_t i = blocks_[b].first; i < blocks_[b].second; ++i) {
      if (x_[static_cast<size_t>(i)] == M) out.push_back(i);
    }
    return out;
  }

  double progress(size_t b) const {
    const double total = blocks_[b].second - blocks_[b].first;
    return 1 - static_cast<double>(masks(b).size()) / total;
  }

  double score(const FilteredStats& row) const {
    const float value = s_.strategy == "default"             ? row.confidence
                        : s_.strategy == "margin_confidence" ? row.margin
                                                             : -row.entropy;
    return static_cast<double>(value);
  }

  void denoise(size_t b, bool complete, int32_t step) {
    std::vector<int32_t> taken;
    int32_t best = -1;
    for (const int32_t i : masks(b)) {
      const FilteredStats row = stats_(i, step).filtered;
      if (row.confidence > static_cast<float>(s_.skip)) taken.push_back(i);
      if (best < 0 || score(row) > score(stats_(best, step).filtered)) best = i;
    }
    if (taken.empty() && complete && best >= 0) taken = {best};
    for (const int32_t i : taken) {
      x_[static_cast<size_t>(i)] = stats_(i, step).token;
      ended_ = ended_ || std::ranges::count(s_.eos, stats_(i, step).token) > 0;
    }
  }

  Settings s_;
  StatsOf stats_;
  Tokens x_;
  std::vector<std::pair<int32_t, int32_t>> blocks_;
  bool ended_ = false;
};

ParamMap params_of(const Settings& s) {
  return {{"block_length", int64_t{s.block}},
          {"skip_threshold", s.skip},
          {"block_add_threshold", s.add},
          {"decoded_token_threshold", s.decoded},
          {"sampling_strategy", s.strategy}};
}

DriverRequest request_of(const Settings& s) {
  return {.prompt = Tokens(static_cast<size_t>(s.prompt), 0),
          .max_tokens = s.max_tokens,
          .mask_id = kMaskId,
          .eos_token_ids = s.eos};
}

// Sequences as long as what was taken on; stops where the original does.
Canvases run(const Settings& s, const StatsOf& stats) {
  Driver driver(request_of(s), "d2f", params_of(s));
  Canvases out;
  const auto grown = [&](int32_t end) {
    const Tokens all = visible(driver.canvas);
    return Tokens(all.begin(), all.begin() + end);
  };
  int32_t end = 0;
  while (!driver.done()) {
    driver.decoding->plan(driver.canvas, driver.plan);
    const int32_t before = std::exchange(end, driver.plan.query_end);
    const Tokens open = grown(before);
    const bool ended = std::ranges::any_of(open, [&](int32_t id) { return std::ranges::count(s.eos, id) > 0; });
    if (ended && std::ranges::count(open, M) == 0) {  // the engine's end of the request
      out.push_back(open);
      return out;
    }
    out.push_back(grown(end));
    driver.step(stats);
  }
  out.push_back(grown(driver.canvas.length()));
  return out;
}

TEST(D2f, IsTheLoopOfTheOriginal) {
  int overlapping = 0, ended = 0;
  for (uint64_t seed = 0; seed < 600; ++seed) {
    const auto pick = [&](uint64_t what, uint64_t count) { return mixed(seed, what) % count; };
    const double shares[] = {0, .1, .3, .5, .75, .9, .95, 1};
    const char* strategies[] = {"default", "margin_confidence", "neg_entropy"};
    Settings s{.prompt = static_cast<int32_t>(1 + pick(1, 5)),
               .max_tokens = static_cast<int32_t>(1 + pick(2, 30)),
               .block = static_cast<int32_t>(1 + pick(3, 8)),
               .skip = shares[pick(4, 8)],
               .add = shares[pick(5, 8)],
               .decoded = shares[1 + pick(6, 7)],
               .strategy = strategies[pick(7, 3)]};
    if (pick(8, 3) == 0) s.eos = {4};
    const StatsOf stats = random_stats(seed, 2 + pick(9, 40), kVocab);
    const Canvases ours = run(s, stats);
    EXPECT_EQ(ours, OriginalLoop(s, stats).run()) << "seed " << seed;
    for (const Tokens& x : ours) {
      const auto open = std::ranges::count(x, M);
      overlapping += open > s.block;
    }
    ended += ours.back().size() < static_cast<size_t>(s.prompt + s.max_tokens);
  }
  EXPECT_GT(overlapping, 100) << "several blocks at once";
  EXPECT_GT(ended, 20) << "an end of sequence keeps blocks from being taken on";
}

TEST(D2f, ProbabilitiesAreOfWhatTheTokenIsDrawnFromAndStrict) {
  Driver driver({.max_tokens = 4}, "d2f", {{"skip_threshold", .5}, {"block_length", int64_t{4}}});
  driver.step([](int32_t position, int32_t) {
    RowStats row = certain(1, .9f);
    row.filtered.confidence = position == 1 ? .5f : position == 2 ? .75f : .25f;
    return row;
  });
  EXPECT_EQ(committed_offsets(driver.canvas), (std::set<int32_t>{1}));
}

TEST(D2f, ABlockThatIsNotForcedMayCommitNothing) {
  Settings s{.skip = .5, .add = 0, .decoded = .5};
  const StatsOf unsure = [](int32_t position, int32_t) { return certain(position % kVocab, .25f); };
  EXPECT_EQ(run(s, unsure), (Canvases{{0, M, M, M, M},
                                      {0, 1, M, M, M, M, M, M, M},
                                      {0, 1, 2, M, M, M, M, M, M},
                                      {0, 1, 2, 3, M, 5, M, M, M},
                                      {0, 1, 2, 3, 4, 5, 6, M, M},
                                      {0, 1, 2, 3, 4, 5, 6, 7, M},
                                      {0, 1, 2, 3, 4, 5, 6, 7, 8}}));
}

}  // namespace
}  // namespace pydllm::decode
