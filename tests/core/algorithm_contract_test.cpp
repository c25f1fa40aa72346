// The contract of every registered algorithm, on thousands of random traces: it ends, it progresses, it writes only
// where it may, and it says truly where it stands.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/errors.h"
#include "decode/algorithm.h"
#include "decode_driver.h"

namespace pydllm::decode {
namespace {

// What sets an algorithm apart in this contract; the rest is common.
bool has_fixed_steps(std::string_view name) {
  return name == "llada_schedule" || name == "dream";
}
bool may_idle(std::string_view name) {
  return has_fixed_steps(name) || name == "rnd1_entropy";
}
// Slots move when one is removed or opened, so a token may appear where no row predicted it.
bool moves_slots(const Algorithm& algorithm) {
  return algorithm.name == "levenshtein";
}
bool has_blocks(const OnModel& on) {
  return on.block_causal() || on.has_param("block_length");
}

constexpr int32_t kVocab = 7;
constexpr int32_t kMask = 7;

struct Case {
  DriverRequest request;
  ParamMap params;
  int64_t block_length = 0;
  uint64_t levels = 1;
  uint64_t seed = 0;
};

// A value in range; small ones for integers, so that caps and schedules bite.
ParamValue random_value(const ParamSpec& spec, uint64_t bits, int32_t max_tokens) {
  switch (spec.type) {
    case ParamType::kBool:
      return bits % 2 == 0;
    case ParamType::kInt:
      return std::min(static_cast<int64_t>(spec.maximum),
                      static_cast<int64_t>(spec.minimum) +
                          static_cast<int64_t>(bits % (2 * static_cast<uint64_t>(max_tokens) + 2)));
    case ParamType::kFloat:
      return spec.minimum + std::min(1.5, spec.maximum - spec.minimum) * static_cast<double>(bits % 13) / 12;
    case ParamType::kChoice:
      return std::string(spec.choices[bits % spec.choices.size()]);
  }
  throw InternalError("unknown parameter type");
}

// Parameters of the delayed cache are refused without it.
bool needs_cache(std::string_view name, const ParamMap& params) {
  if (name != "cache_delay_iter" && name != "cache_refresh_interval") return false;
  return std::ranges::none_of(params, [](const auto& entry) {
    return entry.first == "cache" && std::get<std::string>(entry.second) == "delayed";
  });
}

Case random_case(const OnModel& on, int32_t max_tokens, int64_t block_length, uint64_t seed) {
  Case out;
  out.seed = seed;
  out.block_length = has_blocks(on) ? block_length : max_tokens;
  out.levels = 1 + mixed(seed, 1) % 12;
  // The prompt holds mask ids: they are data.
  out.request = {.prompt = std::vector<int32_t>(mixed(seed, 2) % 5, kMask),
                 .max_tokens = max_tokens,
                 .mask_id = kMask,
                 .seed = seed,
                 .block_length = static_cast<int32_t>(block_length),
                 .attention = on.attention};
  for (size_t i = 0; i < on.algorithm->params.size(); ++i) {
    const ParamSpec& spec = on.algorithm->params[i];
    if (!spec.attention.contains(on.attention)) continue;
    const uint64_t bits = mixed(seed, 3, i);
    const bool by_alias = !spec.alias.empty() && bits % 3 == 0;
    const std::string name(by_alias ? spec.alias : spec.name);
    if (spec.name == "block_length") {
      out.params.emplace_back(name, block_length);
    } else if (bits % 5 < 3 && !needs_cache(spec.name, out.params)) {
      out.params.emplace_back(name, random_value(spec, bits >> 8, max_tokens));
    }
  }
  return out;
}

int64_t given(const Driver& driver, std::string_view name, int64_t fallback) {
  for (const auto& [key, value] : driver.params) {
    if (key == name) return std::get<int64_t>(value);
  }
  return fallback;
}

std::string text(const Driver& driver, std::string_view name, std::string fallback) {
  for (const auto& [key, value] : driver.params) {
    if (key == name) return std::get<std::string>(value);
  }
  return fallback;
}

bool is_block_causal(const Driver& driver) {
  return driver.attention == AttentionKind::kBlockCausal;
}

// The expectations about where a request stands, from the request alone. Blocks of a block-causal model are aligned to
// position 0 and whole; others start at the prompt's end.
struct Blocks {
  int32_t prompt;
  int32_t first;   // begin of the block with the first generated token
  int32_t canvas;  // end of the last block
  int32_t length;  // of a full block

  Blocks(const Case& c, bool block_causal)
      : prompt(static_cast<int32_t>(c.request.prompt.size())),
        first(block_causal ? prompt / c.request.block_length * c.request.block_length : prompt),
        canvas(prompt + c.request.max_tokens),
        length(static_cast<int32_t>(c.block_length)) {
    if (block_causal) canvas = first + count() * length;
    length = std::min(length, canvas - first);
  }
  int32_t count() const { return static_cast<int32_t>(std::ceil(double(canvas - first) / double(length))); }
  int32_t begin(int32_t block) const { return first + block * length; }
  int32_t end(int32_t block) const { return std::min(canvas, first + (block + 1) * length); }
};

bool flag(const Driver& driver, std::string_view name) {
  for (const auto& [key, value] : driver.params) {
    if (key == name) return std::get<bool>(value);
  }
  return false;
}

int32_t work_end(const Progress& progress) {
  return std::max(progress.block_end, progress.active_end);
}

// From the end of the prompt or of a finished block to the canvas's end, or everything.
void expect_window_is_a_tail(const Driver& driver, const Blocks& blocks, const Progress& progress) {
  const ForwardPlan& plan = driver.plan;
  EXPECT_EQ(plan.query_end, blocks.canvas);
  EXPECT_LE(plan.query_begin, progress.block_begin);
  EXPECT_EQ(plan.stale_context, plan.query_begin > 0);
  EXPECT_TRUE(plan.query_begin == 0 || (plan.query_begin - blocks.prompt) % blocks.length == 0);
  EXPECT_TRUE(plan.query_begin == 0 || driver.forwards > 0);
  EXPECT_EQ(driver.canvas.masked_count(0, plan.query_begin), 0);
}

// The block, or a part of it that begins with a known token, once a forward of the block has fed all of it.
void expect_window_is_in_the_block(const ForwardPlan& plan, const Progress& progress) {
  EXPECT_GE(plan.query_begin, progress.block_begin);
  EXPECT_LE(plan.query_end, progress.block_end);
  const bool part = plan.query_begin > progress.block_begin || plan.query_end < progress.block_end;
  EXPECT_EQ(plan.stale_context, part);
  EXPECT_TRUE(!part || (progress.block_step > 0 && plan.rows.front() > plan.query_begin));
}

void expect_plan_is_legal(const Driver& driver, const Blocks& blocks, const Progress& progress) {
  const ForwardPlan& plan = driver.plan;
  EXPECT_EQ(driver.canvas.length(), blocks.canvas);
  const std::string cache = text(driver, "cache", "none");
  const bool own_blocks = driver.algorithm.attention.contains(AttentionKind::kPromptBlockCausal);
  EXPECT_EQ(plan.block_length, own_blocks ? blocks.length : 0);
  if (cache == "delayed") {
    expect_window_is_a_tail(driver, blocks, progress);
  } else if (flag(driver, "block_cache")) {
    expect_window_is_in_the_block(plan, progress);
  } else {
    const bool stale = cache != "none" && progress.block_step > 0;
    const bool windowed = is_block_causal(driver) || own_blocks || stale;
    EXPECT_EQ(plan.query_begin, windowed ? progress.block_begin : 0);
    EXPECT_EQ(plan.query_end, windowed && cache != "prefix" ? work_end(progress) : blocks.canvas);
    EXPECT_EQ(plan.stale_context, stale);
  }
  EXPECT_TRUE(std::ranges::is_sorted(plan.rows, std::less_equal<>())) << "ascending, no duplicates";
  for (const int32_t row : plan.rows) {
    EXPECT_GE(row, std::max(blocks.prompt, plan.query_begin));
    EXPECT_LT(row, plan.query_end);
    EXPECT_LT(row, work_end(progress));
    EXPECT_TRUE(driver.canvas.masked(row) || driver.algorithm.finality == Finality::kSettled);
  }
}

void expect_progress_is_true(const Progress& progress, const Blocks& blocks, int32_t block_step) {
  EXPECT_EQ(progress.block_begin, blocks.begin(progress.block_index));
  EXPECT_EQ(progress.block_end, blocks.end(progress.block_index));
  EXPECT_EQ(progress.block_step, block_step);
  EXPECT_TRUE(work_end(progress) == blocks.canvas || (work_end(progress) - progress.block_end) % blocks.length == 0);
}

// Only rows of the plan that were not final changed, to the statistics' token. Returns how many.
int32_t expect_writes_are_legal(const Driver& driver, const std::vector<int32_t>& before, int32_t final_before,
                                const StatsOf& stats) {
  const std::vector<int32_t> after = visible(driver.canvas);
  int32_t written = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    if (after[i] == before[i]) continue;
    const auto position = static_cast<int32_t>(i);
    ++written;
    EXPECT_GE(position, final_before);
    EXPECT_TRUE(before[i] == -1 || driver.algorithm.finality == Finality::kSettled) << position << " was decided";
    EXPECT_TRUE(std::ranges::binary_search(driver.plan.rows, position));
    EXPECT_TRUE(moves_slots(driver.algorithm) || after[i] == stats(position, driver.forwards - 1).token);
    EXPECT_NE(after[i], kMask);
  }
  return written;
}

struct Outcome {
  std::map<int32_t, int32_t> forwards_in_block;
  int32_t idle_forwards = 0;  // committed nothing
};

// Of a block whose slots move. In mode reference a mask may be split for ever, up to the cap.
int32_t most_steps_with_moves(const Driver& driver, const Blocks& blocks) {
  const int64_t cap = given(driver, "max_steps_per_block", 1000);
  if (text(driver, "mode", "reference") == "reference") return static_cast<int32_t>(cap);
  return static_cast<int32_t>(std::min(cap, blocks.length + given(driver, "max_post_edit_steps", 16) + 1));
}

// steps is at most 2 * max_tokens + 2 in these cases, caps are at most one forward per token.
int32_t most_forwards(const Driver& driver, const Blocks& blocks) {
  const auto edits = static_cast<int32_t>(given(driver, "max_post_edit_steps", 16)) + 1;
  if (moves_slots(driver.algorithm)) return blocks.count() * most_steps_with_moves(driver, blocks);
  if (driver.algorithm.finality == Finality::kSettled) return blocks.count() * (blocks.length + edits);
  return 2 * (blocks.canvas - blocks.prompt) + 3;
}

Outcome run_and_check(Driver& driver, const Case& c) {
  const Blocks blocks(c, is_block_causal(driver));
  const StatsOf stats = random_stats(c.seed, c.levels, kVocab);
  Outcome outcome;
  const int32_t limit = most_forwards(driver, blocks);
  while (!driver.done() && driver.forwards < limit) {
    const std::vector<int32_t> before = visible(driver.canvas);
    const int32_t final_before = driver.canvas.final_end();
    driver.decoding->plan(driver.canvas, driver.plan);
    const Progress progress = driver.decoding->progress();
    expect_plan_is_legal(driver, blocks, progress);
    expect_progress_is_true(progress, blocks, outcome.forwards_in_block[progress.block_index]);
    ++outcome.forwards_in_block[progress.block_index];

    driver.step(stats);
    outcome.idle_forwards += expect_writes_are_legal(driver, before, final_before, stats) == 0;
    EXPECT_GE(driver.canvas.final_end(), final_before);
    EXPECT_GE(driver.decoding->progress().block_index, progress.block_index);
    EXPECT_GE(driver.canvas.final_end(), driver.decoding->progress().block_begin) << "earlier blocks are final";
  }
  EXPECT_TRUE(driver.done()) << "still running after " << limit << " forwards";
  EXPECT_GE(driver.canvas.final_end(), driver.canvas.answer_end());
  EXPECT_TRUE(is_block_causal(driver) || driver.canvas.masked_count() == 0);
  EXPECT_EQ(driver.decoding->progress().block_index, blocks.count() - 1);
  return outcome;
}

void expect_schedule_is_exact(const Driver& driver, const Case& c, const Outcome& outcome) {
  const Blocks blocks(c, false);
  const int64_t steps = given(driver, "steps", c.request.max_tokens);
  EXPECT_EQ(driver.forwards, steps);
  for (int32_t b = 0; b < blocks.count(); ++b) {
    const auto share = [&](int32_t end) {
      return std::floor(double(steps) * (end - blocks.prompt) / c.request.max_tokens);
    };
    EXPECT_EQ(outcome.forwards_in_block.at(b), share(blocks.end(b)) - share(blocks.begin(b)));
  }
}

// A block that several-blocks algorithms finished before it became the first one has no forwards.
void expect_threshold_rule_progresses(const Driver& driver, const Case& c, const Outcome& outcome) {
  const Blocks blocks(c, is_block_causal(driver));
  const bool edits = driver.algorithm.finality == Finality::kSettled;
  EXPECT_TRUE(edits || outcome.idle_forwards == 0) << "every forward commits at least one position";
  const int64_t post = edits ? given(driver, "max_post_edit_steps", 16) + 1 : 0;
  for (int32_t b = 0; b < blocks.count(); ++b) {
    const int64_t cap =
        std::min<int64_t>(blocks.end(b) - blocks.begin(b), given(driver, "max_steps_per_block", 1 << 20));
    const auto forwards = outcome.forwards_in_block.find(b);
    if (forwards == outcome.forwards_in_block.end()) continue;
    if (moves_slots(driver.algorithm)) {
      EXPECT_LE(forwards->second, most_steps_with_moves(driver, blocks));
      continue;
    }
    EXPECT_LE(forwards->second, cap + post);
  }
}

bool too_few_steps(const Case& c) {
  for (const auto& [name, value] : c.params) {
    if (name == "steps") return std::get<int64_t>(value) < Blocks(c, false).count();
  }
  return false;
}

// Every remainder of max_tokens modulo the block length, blocks longer than the request included.
template <class Body>
void for_random_cases(const OnModel& on, Body body) {
  for (int64_t block_length = 1; block_length <= 9; ++block_length) {
    for (int32_t max_tokens = 1; max_tokens <= 28; ++max_tokens) {
      for (uint64_t variant = 0; variant < 6; ++variant) {
        const uint64_t seed = mixed(static_cast<uint64_t>(block_length), static_cast<uint64_t>(max_tokens), variant);
        body(random_case(on, max_tokens, block_length, seed));
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

class EveryAlgorithm : public ::testing::TestWithParam<OnModel> {};

TEST_P(EveryAlgorithm, EndsProgressesAndWritesOnlyWhereItMay) {
  const Algorithm& algorithm = *GetParam().algorithm;
  int traces = 0;
  for_random_cases(GetParam(), [&](const Case& c) {
    if (too_few_steps(c)) {
      EXPECT_THROW(Driver(c.request, algorithm.name, c.params), InvalidRequest);
      return;
    }
    SCOPED_TRACE(::testing::Message() << "block_length " << c.block_length << ", max_tokens " << c.request.max_tokens
                                      << ", seed " << c.seed);
    Driver driver(c.request, algorithm.name, c.params);
    const Outcome outcome = run_and_check(driver, c);
    if (has_fixed_steps(algorithm.name)) {
      expect_schedule_is_exact(driver, c, outcome);
    } else if (!may_idle(algorithm.name)) {
      expect_threshold_rule_progresses(driver, c, outcome);
    }
    ++traces;
  });
  EXPECT_GT(traces, 1000);
}

// Interleaved requests of one algorithm do what they do alone.
TEST_P(EveryAlgorithm, RequestsShareNoState) {
  const Algorithm& algorithm = *GetParam().algorithm;
  std::vector<Case> cases;
  for (uint64_t i = 0; i < 8; ++i) {
    cases.push_back(random_case(GetParam(), 9 + static_cast<int32_t>(i), 4, 100 + i));
    std::erase_if(cases.back().params, [](const auto& param) { return param.first == "steps"; });
  }
  std::vector<std::vector<std::vector<int32_t>>> alone;
  std::vector<Driver> together;
  for (const Case& c : cases) {
    Driver driver(c.request, algorithm.name, c.params);
    alone.push_back(canvases(driver, random_stats(c.seed, c.levels, kVocab)));
    together.emplace_back(c.request, algorithm.name, c.params);
  }
  for (size_t step = 0, running = cases.size(); running > 0; ++step) {
    running = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      if (together[i].done()) continue;
      EXPECT_EQ(visible(together[i].canvas), alone[i].at(step));
      together[i].step(random_stats(cases[i].seed, cases[i].levels, kVocab));
      ++running;
    }
  }
  for (size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(visible(together[i].canvas), alone[i].back());
}

// Infilling. Holes and fixed stretches of random lengths; the first and the last token of the answer are generated.
std::vector<int32_t> random_rest(int32_t length, uint64_t seed) {
  std::vector<int32_t> rest(static_cast<size_t>(length), -1);
  for (int32_t i = 1, stretch = 0; i + 1 < length; ++i, --stretch) {
    const uint64_t bits = mixed(seed, 50, static_cast<uint64_t>(i));
    if (stretch <= 0) stretch = bits % 3 == 0 ? static_cast<int32_t>(bits >> 8) % 12 + 1 : 0;
    // Masks and end tokens among fixed tokens are data.
    if (stretch > 0) rest[static_cast<size_t>(i)] = static_cast<int32_t>((bits >> 16) % (kVocab + 1));
  }
  for (uint64_t i = mixed(seed, 51) % 6; i > 0; --i) rest.push_back(kMask);
  return rest;
}

int32_t blocks_with_holes(const Driver& driver, int64_t block_length) {
  int32_t blocks = 0;
  const Canvas& canvas = driver.canvas;
  for (int64_t begin = canvas.prompt_length(); begin < canvas.answer_end(); begin += block_length) {
    const auto end = static_cast<int32_t>(std::min<int64_t>(begin + block_length, canvas.answer_end()));
    blocks += canvas.masked_count(static_cast<int32_t>(begin), end) > 0;
  }
  return blocks;
}

void expect_holes_are_filled(Driver& driver, const Case& c) {
  const StatsOf stats = random_stats(c.seed, c.levels, kVocab);
  const int32_t holes = driver.canvas.masked_count();
  const bool fixed_steps = has_fixed_steps(driver.algorithm.name);
  std::map<int32_t, int64_t> forwards, masks;  // of every block
  while (!driver.done() && driver.forwards < 2 * c.request.max_tokens + 3) {
    const std::vector<int32_t> before = visible(driver.canvas);
    driver.decoding->plan(driver.canvas, driver.plan);
    const Progress progress = driver.decoding->progress();
    EXPECT_EQ(progress.block_step, forwards[progress.block_index]++);
    masks.try_emplace(progress.block_index, driver.canvas.masked_count(progress.block_begin, progress.block_end));
    for (const int32_t row : driver.plan.rows) EXPECT_EQ(before[static_cast<size_t>(row)], -1) << "row " << row;
    driver.step(stats);
    const std::vector<int32_t> after = visible(driver.canvas);
    int32_t written = 0;
    for (size_t i = 0; i < after.size(); ++i) {
      if (after[i] == before[i]) continue;
      ++written;
      EXPECT_EQ(before[i], -1) << "position " << i << " was given or decided";
      EXPECT_TRUE(std::ranges::binary_search(driver.plan.rows, static_cast<int32_t>(i)));
      EXPECT_EQ(after[i], stats(static_cast<int32_t>(i), driver.forwards - 1).token);
    }
    EXPECT_TRUE(written > 0 || may_idle(driver.algorithm.name));
  }
  EXPECT_TRUE(driver.done()) << "still running after " << driver.forwards << " forwards";
  EXPECT_EQ(driver.canvas.masked_count(), 0);
  if (fixed_steps) {
    EXPECT_EQ(driver.forwards, given(driver, "steps", holes));
    return;
  }
  for (const auto& [block, count] : forwards) {
    EXPECT_TRUE(may_idle(driver.algorithm.name) || count <= masks.at(block)) << "block " << block;
  }
}

// The engine gives other algorithms no canvas with text behind holes.
std::vector<const Algorithm*> full_attention_algorithms() {
  std::vector<const Algorithm*> out;
  for (const Algorithm* algorithm : algorithms()) {
    if (algorithm->attention.contains(AttentionKind::kFull)) out.push_back(algorithm);
  }
  return out;
}

class EveryFullAttentionAlgorithm : public ::testing::TestWithParam<const Algorithm*> {};

TEST_P(EveryFullAttentionAlgorithm, FillsHolesAndWritesNowhereElse) {
  const Algorithm& algorithm = *GetParam();
  int traces = 0;
  for_random_cases({&algorithm, AttentionKind::kFull}, [&](Case c) {
    c.request.rest = random_rest(c.request.max_tokens, c.seed);
    SCOPED_TRACE(::testing::Message() << "block_length " << c.block_length << ", answer " << c.request.max_tokens
                                      << ", seed " << c.seed);
    try {
      Driver driver(c.request, algorithm.name, c.params);
      expect_holes_are_filled(driver, c);
      const std::vector<int32_t> last = visible(driver.canvas);
      for (size_t i = 0; i < c.request.rest.size(); ++i) {
        const int32_t token = c.request.rest[i];
        EXPECT_TRUE(token == -1 || last[c.request.prompt.size() + i] == token) << "fixed token " << i;
      }
      ++traces;
    } catch (const InvalidRequest&) {  // fewer steps than blocks
      std::erase_if(c.params, [](const auto& param) { return param.first == "steps"; });
      Driver driver(c.request, algorithm.name, c.params);
      EXPECT_LT(1, blocks_with_holes(driver, c.block_length));
    }
  });
  EXPECT_GT(traces, 1000);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryAlgorithm, ::testing::ValuesIn(algorithms_on_models()),
                         [](const auto& tested) { return tested.param.name(); });

INSTANTIATE_TEST_SUITE_P(Registry, EveryFullAttentionAlgorithm, ::testing::ValuesIn(full_attention_algorithms()),
                         [](const auto& tested) { return std::string(tested.param->name); });

}  // namespace
}  // namespace pydllm::decode
