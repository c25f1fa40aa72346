// The emulated unmask kernel: against the selection functions and decode::Canvas on random blocks, and against the
// registered algorithms over whole answers.
#include <algorithm>
#include <functional>

#include "base/philox.h"
#include "cuda_testing.h"
#include "decode/canvas.h"
#include "decode_driver.h"
#include "ops/cuda/cuda_ops.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using decode::Canvas;
using decode::Driver;
using decode::mixed;
using ops::cuda::UnmaskBlock;
using ops::cuda::UnmaskReport;
using ops::cuda::UnmaskStatus;
using select::CountKind;
using select::Rule;
using select::RuleKind;
using select::Score;

constexpr int32_t kMask = 9;
constexpr int32_t kVocab = 7;

RowStats row_of(int32_t token, float confidence) {
  RowStats row;
  row.token = token;
  row.confidence = confidence;
  row.finite = true;
  return row;
}

// A step over device canvases that start as the given ones, one behind the other.
struct Device {
  explicit Device(const std::vector<const Canvas*>& canvases) {
    for (const Canvas* canvas : canvases) {
      begins.push_back(static_cast<int64_t>(tokens.size()));
      append(*canvas, tokens, confidences, masked);
    }
  }

  static void append(const Canvas& canvas, std::vector<int32_t>& tokens, std::vector<float>& confidences,
                     std::vector<uint8_t>& masked) {
    tokens.insert(tokens.end(), canvas.tokens().begin(), canvas.tokens().end());
    confidences.insert(confidences.end(), canvas.confidences().begin(), canvas.confidences().end());
    for (int32_t i = 0; i < canvas.length(); ++i) masked.push_back(canvas.masked(i) ? 1 : 0);
  }

  void unmask(const std::vector<UnmaskBlock>& blocks, const std::vector<RowStats>& stats,
              const std::vector<int32_t>& positions) {
    const auto device_blocks = on_device("blocks", blocks);
    const auto device_stats = on_device("stats", stats);
    const auto device_positions = on_device("positions", positions);
    const auto device_tokens = on_device("tokens", tokens);
    const auto device_confidences = on_device("confidences", confidences);
    const auto device_masked = on_device("masked", masked);
    Buffer<unsigned char> workspace("workspace", stats.size() * ops::cuda::kUnmaskRowBytes);
    Buffer<int32_t> device_written("written", stats.size());
    Buffer<UnmaskReport> device_reports("reports", blocks.size());
    ops::cuda::unmask(device_blocks->data(), static_cast<int64_t>(blocks.size()), device_stats->data(),
                      device_positions->data(), static_cast<int64_t>(stats.size()), kMask,
                      {device_tokens->data(), device_confidences->data(), device_masked->data()}, workspace.data(),
                      device_written.data(), device_reports.data(), nullptr);
    tokens.assign(device_tokens->data(), device_tokens->data() + tokens.size());
    confidences.assign(device_confidences->data(), device_confidences->data() + confidences.size());
    masked.assign(device_masked->data(), device_masked->data() + masked.size());
    written.assign(device_written.data(), device_written.data() + stats.size());
    reports.assign(device_reports.data(), device_reports.data() + blocks.size());
  }

  void expect_equal(const std::vector<const Canvas*>& canvases) const {
    std::vector<int32_t> expected_tokens;
    std::vector<float> expected_confidences;
    std::vector<uint8_t> expected_masked;
    for (const Canvas* canvas : canvases) {
      append(*canvas, expected_tokens, expected_confidences, expected_masked);
    }
    EXPECT_EQ(tokens, expected_tokens);
    EXPECT_EQ(confidences, expected_confidences);
    EXPECT_EQ(masked, expected_masked);
  }

  std::vector<int64_t> begins;
  std::vector<int32_t> tokens;
  std::vector<float> confidences;
  std::vector<uint8_t> masked;
  std::vector<int32_t> written;
  std::vector<UnmaskReport> reports;
};

// What a rule stands for, by a direct call.
using Values = std::vector<float>;
using HostRule = std::function<int32_t(const Values&, const std::vector<int32_t>&, int32_t*)>;

struct RuleCase {
  Rule rule;
  HostRule on_host;
};

int32_t size_of(const Values& values) {
  return static_cast<int32_t>(values.size());
}

std::vector<RuleCase> rule_cases() {
  using namespace select;
  const auto counted = [](CountKind kind) {
    return Count{.kind = kind, .n = 3, .masks = 13, .steps = 4, .step = 1, .share = 0.3f};
  };
  std::vector<RuleCase> cases = {
      {{.kind = RuleKind::kAll}, [](auto& v, auto&, int32_t* out) { return all(size_of(v), out); }},
      {{.kind = RuleKind::kConfidenceThreshold, .threshold = 0.5f},
       [](auto& v, auto&, int32_t* out) { return confidence_threshold(v.data(), size_of(v), 0.5f, out); }},
      {{.kind = RuleKind::kConfidentOrTop, .threshold = 0.75f, .count = {.n = 2}},
       [](auto& v, auto&, int32_t* out) { return confident_or_top(v.data(), size_of(v), 0.75f, 2, out); }},
      {{.kind = RuleKind::kConfidentOrTop, .threshold = 0.75f, .count = {.n = 0}},
       [](auto& v, auto&, int32_t* out) { return confident_or_top(v.data(), size_of(v), 0.75f, 0, out); }},
      {{.kind = RuleKind::kNearMaximum, .threshold = 0.9f, .slack = 0.2f},
       [](auto& v, auto&, int32_t* out) { return near_maximum(v.data(), size_of(v), 0.9f, 0.2f, out); }},
      {{.kind = RuleKind::kFactor, .factor = 0.7},
       [](auto& v, auto&, int32_t* out) { return factor(v.data(), size_of(v), 0.7, false, out); }},
      {{.kind = RuleKind::kFactor, .last_always = true, .factor = 2},
       [](auto& v, auto&, int32_t* out) { return factor(v.data(), size_of(v), 2, true, out); }},
      {{.kind = RuleKind::kSegmentMaxima, .threshold = 0.8f, .low = 0.4f},
       [](auto& v, auto& at, int32_t* out) {
         return segment_maxima(v.data(), at.data(), size_of(v), 0.4f, 0.8f, out);
       }},
      {{.kind = RuleKind::kBelow, .threshold = 0.3f},
       [](auto& v, auto&, int32_t* out) { return below(v.data(), size_of(v), 0.3f, out); }},
      {{.kind = RuleKind::kEntropyThreshold, .comparison = Comparison::kBelow, .threshold = 0.5f},
       [](auto& v, auto&, int32_t* out) {
         return entropy_threshold(v.data(), size_of(v), 0.5f, Comparison::kBelow, out);
       }},
      {{.kind = RuleKind::kPassingEntropy, .threshold = 0.5f},
       [](auto& v, auto&, int32_t* out) {
         return passing_entropy(v.data(), size_of(v), 0.5f, Comparison::kAtMost, out);
       }},
      {{.kind = RuleKind::kPassingEntropy, .threshold = 0.2f, .forced_before = 14},
       [](auto& v, auto& at, int32_t* out) {
         const int32_t kept = passing_entropy(v.data(), size_of(v), 0.2f, Comparison::kAtMost, out);
         const auto first = static_cast<int32_t>(std::lower_bound(at.begin(), at.end(), 14) - at.begin());
         if (kept > 0 && out[0] < first) return kept;
         return kept + lowest_entropy(v.data(), first, 1, out + kept);
       }},
  };
  const auto wanted = [](CountKind kind, int32_t rows) {
    if (kind == CountKind::kFixed) return 3;
    if (kind == CountKind::kSchedule) return 3;  // 13 over 4 steps: 4, 3, 3, 3
    if (kind == CountKind::kAllBut) return std::max(rows - 3, 0);
    return static_cast<int32_t>(static_cast<float>(rows) * 0.3f);
  };
  for (const auto kind : {CountKind::kFixed, CountKind::kSchedule, CountKind::kAllBut, CountKind::kShare}) {
    cases.push_back({{.kind = RuleKind::kTopConfidence, .count = counted(kind)}, [=](auto& v, auto&, int32_t* out) {
                       return top_confidence(v.data(), size_of(v), wanted(kind, size_of(v)), out);
                     }});
    cases.push_back({{.kind = RuleKind::kLowestEntropy, .count = counted(kind)}, [=](auto& v, auto&, int32_t* out) {
                       return lowest_entropy(v.data(), size_of(v), wanted(kind, size_of(v)), out);
                     }});
    cases.push_back({{.kind = RuleKind::kLeftmost, .count = counted(kind)}, [=](auto& v, auto&, int32_t* out) {
                       return leftmost(size_of(v), wanted(kind, size_of(v)), out);
                     }});
  }
  return cases;
}

// A prompt, a masked position, then holes and tokens at random: any share of masks.
Canvas random_canvas(uint64_t seed) {
  const std::vector<int32_t> prompt(mixed(seed, 1) % 9, 1);
  std::vector<int32_t> rest(1 + mixed(seed, 2) % 90);
  const uint64_t share = mixed(seed, 3) % 9;
  for (size_t i = 0; i < rest.size(); ++i) rest[i] = i == 0 || mixed(seed, 4, i) % 8 < share ? -1 : 2;
  return {prompt, rest, kMask};
}

// Of positions that are not masked, statistics that would end a block.
std::vector<RowStats> random_rows(const Canvas& canvas, int32_t begin, int32_t end, uint64_t seed) {
  const auto random = decode::random_stats(seed, 1 + mixed(seed, 5) % 20, kVocab);
  std::vector<RowStats> out;
  for (int32_t i = begin; i < end; ++i) out.push_back(canvas.masked(i) ? random(i, 0) : RowStats{});
  return out;
}

float value_of(Score score, const RowStats& row, uint64_t seed, uint32_t forward, int32_t position) {
  const auto at = static_cast<uint32_t>(position);
  if (score == Score::kUniform) return open_unit(random_draw(seed, RandomPurpose::kPosition, forward, at, 0).v[0]);
  const float values[] = {row.confidence, row.entropy, row.filtered.confidence, row.filtered.margin,
                          -row.filtered.entropy};
  return values[static_cast<size_t>(score)];
}

TEST(CudaUnmask, EveryRuleWritesWhatTheSelectionFunctionsChoose) {
  const std::vector<RuleCase> cases = rule_cases();
  for (uint64_t round = 0; round < 30; ++round) {
    std::vector<Canvas> canvases;
    std::vector<const Canvas*> pointers;
    for (size_t i = 0; i < cases.size(); ++i) canvases.push_back(random_canvas(mixed(round, i)));
    for (const Canvas& canvas : canvases) pointers.push_back(&canvas);
    Device device(pointers);
    std::vector<UnmaskBlock> blocks;
    std::vector<RowStats> stats;
    std::vector<int32_t> positions, expected_written(stats.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      Canvas& canvas = canvases[i];
      const uint64_t seed = mixed(round, i, 7);
      const auto begin = static_cast<int32_t>(mixed(seed, 1) % static_cast<uint64_t>(canvas.length() + 1));
      const auto length = static_cast<uint64_t>(canvas.length() - begin);
      const auto end = begin + static_cast<int32_t>(mixed(seed, 2) % (length + 1));  // often an empty block
      const auto score = static_cast<Score>(mixed(seed, 3) % 6);
      const UnmaskBlock block{.canvas_begin = device.begins[i],
                              .row_begin = static_cast<int32_t>(stats.size()),
                              .row_count = end - begin,
                              .score = score,
                              .forward = static_cast<uint32_t>(round),
                              .seed = seed,
                              .rule = cases[i].rule};
      blocks.push_back(block);
      const std::vector<RowStats> rows = random_rows(canvas, begin, end, seed);
      stats.insert(stats.end(), rows.begin(), rows.end());
      for (int32_t position = begin; position < end; ++position) positions.push_back(position);

      std::vector<int32_t> eligible;
      canvas.masked_positions(begin, end, eligible);
      Values values;
      for (const int32_t at : eligible) {
        values.push_back(value_of(score, rows[static_cast<size_t>(at - begin)], seed, block.forward, at));
      }
      std::vector<int32_t> chosen(values.size());
      chosen.resize(static_cast<size_t>(cases[i].on_host(values, eligible, chosen.data())));
      expected_written.resize(stats.size(), -1);
      for (size_t k = 0; k < chosen.size(); ++k) {
        const int32_t at = eligible[static_cast<size_t>(chosen[k])];
        const RowStats& row = rows[static_cast<size_t>(at - begin)];
        canvas.commit(at, row.token, row.confidence);
        expected_written[static_cast<size_t>(block.row_begin) + k] = at;
      }
    }
    device.unmask(blocks, stats, positions);
    device.expect_equal(pointers);
    EXPECT_EQ(device.written, expected_written);
    for (size_t i = 0; i < blocks.size(); ++i) {
      const int32_t begin = blocks[i].row_count == 0 ? 0 : positions[static_cast<size_t>(blocks[i].row_begin)];
      EXPECT_EQ(device.reports[i].status, UnmaskStatus::kWritten);
      EXPECT_EQ(device.reports[i].masked, canvases[i].masked_count(begin, begin + blocks[i].row_count));
    }
    if (HasFailure()) FAIL() << "round " << round;
  }
}

// --- whole answers of the registered algorithms ---

struct Step {
  const Driver& driver;
  decode::Progress progress;
  int32_t rows;      // of the plan
  int32_t at_entry;  // masks of the block when it was entered
};

using RuleOf = std::function<Rule(const Step&)>;

struct AlgorithmCase {
  const char* name;
  decode::ParamMap params;
  Score score;
  RuleOf rule_of;
};

Rule capped(const Step& step, int32_t most, const Rule& rule) {
  return step.progress.block_step + 1 >= most ? Rule{} : rule;
}

std::vector<AlgorithmCase> algorithm_cases() {
  using std::string;
  std::vector<AlgorithmCase> cases;
  const auto add = [&](const char* name, decode::ParamMap params, Score score, RuleOf rule_of) {
    cases.push_back({name, std::move(params), score, std::move(rule_of)});
  };
  const decode::ParamMap blocks = {{"block_length", int64_t{8}}, {"max_steps_per_block", int64_t{5}}};
  const auto with = [&](const char* name, decode::ParamValue value) {
    decode::ParamMap params = blocks;
    params.emplace_back(name, std::move(value));
    return params;
  };
  for (const bool random : {false, true}) {
    add("confidence_threshold", with("remasking", string(random ? "random" : "low_confidence")),
        random ? Score::kUniform : Score::kConfidence,
        [](const Step& step) { return capped(step, 5, {.kind = RuleKind::kConfidenceThreshold, .threshold = 0.9f}); });
  }
  add("near_max", with("confidence_threshold", 0.8), Score::kConfidence, [](const Step& step) {
    return capped(step, 5, {.kind = RuleKind::kNearMaximum, .threshold = 0.8f, .slack = 1e-5f});
  });
  add("confidence_factor", with("factor", 0.9), Score::kConfidence,
      [](const Step& step) { return capped(step, 5, {.kind = RuleKind::kFactor, .factor = 0.9}); });
  add("hierarchical", with("low_threshold", 0.4), Score::kConfidence, [](const Step& step) {
    return capped(step, 5, {.kind = RuleKind::kSegmentMaxima, .threshold = 1, .low = 0.4f});
  });
  add("entropy_threshold", with("entropy_threshold", 0.5), Score::kEntropy,
      [](const Step& step) { return capped(step, 5, {.kind = RuleKind::kEntropyThreshold, .threshold = 0.5f}); });
  add("llada_schedule", {{"block_length", int64_t{8}}, {"steps", int64_t{12}}}, Score::kConfidence,
      [](const Step& step) {  // 12 forwards over 24 tokens: 4 for each block
        return Rule{
            .kind = RuleKind::kTopConfidence,
            .count = {
                .kind = CountKind::kSchedule, .masks = step.at_entry, .steps = 4, .step = step.progress.block_step}};
      });
  add("rnd1_entropy", {{"num_steps", int64_t{7}}}, Score::kEntropy, [](const Step& step) {
    return Rule{.kind = RuleKind::kLowestEntropy,
                .count = {.kind = CountKind::kAllBut, .n = 24 * (6 - step.driver.forwards) / 7}};
  });
  // The time points are 1, 3/4, 1/2, 1/4 and 0.
  const auto share = [](const Step& step) {
    const auto left = static_cast<float>(4 - step.driver.forwards);
    return 1 - (left - 1) / left;
  };
  for (const auto& [order, score] :
       {std::pair("entropy", Score::kFilteredCertainty), std::pair("maskgit_plus", Score::kFilteredConfidence),
        std::pair("topk_margin", Score::kFilteredMargin)}) {
    add("dream", {{"order", string(order)}, {"steps", int64_t{4}}, {"eps", 0.0}}, score, [=](const Step& step) {
      return Rule{.kind = RuleKind::kTopConfidence, .count = {.kind = CountKind::kShare, .share = share(step)}};
    });
  }
  add("dream", {{"order", string("origin")}, {"steps", int64_t{4}}, {"eps", 0.0}}, Score::kUniform,
      [=](const Step& step) { return Rule{.kind = RuleKind::kBelow, .threshold = share(step)}; });
  add("low_confidence", {}, Score::kConfidence,
      [](const Step&) { return Rule{.kind = RuleKind::kConfidentOrTop, .threshold = 0.95f, .count = {.n = 1}}; });
  add("fast_dllm_v2", {{"sub_block_length", int64_t{4}}}, Score::kConfidence,
      [](const Step&) { return Rule{.kind = RuleKind::kConfidentOrTop, .threshold = 0.9f, .count = {.n = 1}}; });
  for (const auto& [order, kind] :
       {std::pair("dynamic", RuleKind::kConfidentOrTop), std::pair("static", RuleKind::kTopConfidence),
        std::pair("sequential", RuleKind::kLeftmost)}) {
    add("sdar", {{"order", string(order)}, {"steps_per_block", int64_t{3}}}, Score::kConfidence, [=](const Step& step) {
      return Rule{.kind = kind,
                  .threshold = 0.85f,
                  .count = {.kind = CountKind::kSchedule,
                            .masks = step.driver.model_block,
                            .steps = 3,
                            .step = step.progress.block_step}};
    });
  }
  for (const bool everywhere : {true, false}) {
    add("multi_block_entropy",
        {{"block_length", int64_t{8}}, {"force_scope", string(everywhere ? "all" : "first")}, {"threshold", 0.2}},
        Score::kEntropy, [=](const Step& step) {
          return Rule{.kind = everywhere ? RuleKind::kEntropyThreshold : RuleKind::kPassingEntropy,
                      .threshold = 0.2f,
                      .forced_before = step.progress.block_end};
        });
  }
  return cases;
}

// The kernel on the whole span of the plan's rows, masked and not, beside the algorithm's own commit.
void expect_the_algorithms_answer(const AlgorithmCase& algorithm, uint64_t seed) {
  Driver driver({.prompt = {1, 2, 3}, .max_tokens = 24, .mask_id = kMask, .seed = seed, .block_length = 6},
                algorithm.name, algorithm.params);
  Device device({&driver.canvas});
  const auto random = decode::random_stats(seed, 1 + seed % 30, kVocab);
  int32_t at_entry = 0;
  while (!driver.done()) {
    driver.decoding->plan(driver.canvas, driver.plan);
    const auto& rows = driver.plan.rows;
    const decode::Progress progress = driver.decoding->progress();
    if (progress.block_step == 0) at_entry = static_cast<int32_t>(rows.size());
    const int32_t begin = rows.empty() ? 0 : rows.front(), end = rows.empty() ? 0 : rows.back() + 1;
    std::vector<RowStats> stats, own_stats;
    std::vector<int32_t> positions;
    for (int32_t position = begin; position < end; ++position) {
      positions.push_back(position);
      stats.push_back(driver.canvas.masked(position) ? random(position, driver.forwards) : RowStats{});
    }
    for (const int32_t position : rows) own_stats.push_back(random(position, driver.forwards));
    const Step step{driver, progress, static_cast<int32_t>(rows.size()), at_entry};
    device.unmask({{.row_count = end - begin,
                    .score = algorithm.score,
                    .forward = static_cast<uint32_t>(driver.forwards),
                    .seed = seed,
                    .rule = algorithm.rule_of(step)}},
                  stats, positions);
    driver.decoding->commit(own_stats, driver.canvas);
    ++driver.forwards;
    device.expect_equal({&driver.canvas});
    if (::testing::Test::HasFailure()) FAIL() << algorithm.name << ", seed " << seed << ", forward " << driver.forwards;
  }
}

TEST(CudaUnmask, AnswersOfTheRegisteredAlgorithms) {
  for (const AlgorithmCase& algorithm : algorithm_cases()) {
    for (uint64_t seed = 1; seed <= 6; ++seed) expect_the_algorithms_answer(algorithm, seed);
  }
}

// --- what ends a block ---

struct Failing {
  explicit Failing(RowStats second) : canvas(std::vector<int32_t>{1}, 4, kMask), device({&canvas}) {
    for (int32_t i = 0; i < 4; ++i) {
      const float confidence = 0.5f + 0.1f * static_cast<float>(i);
      stats.push_back(row_of(i, confidence));
    }
    stats[1] = second;
  }
  UnmaskReport report(const Rule& rule) {
    device.unmask({{.row_count = 4, .rule = rule}}, stats, {1, 2, 3, 4});
    return device.reports[0];
  }
  Canvas canvas;
  Device device;
  std::vector<RowStats> stats;
};

void expect_ended(const RowStats& row, const Rule& rule, UnmaskStatus status) {
  Failing failing(row);
  const UnmaskReport report = failing.report(rule);
  EXPECT_EQ(report.status, status);
  EXPECT_EQ(report.position, 2);
  EXPECT_EQ(report.written, 0);
  EXPECT_EQ(report.masked, 4);
  failing.device.expect_equal({&failing.canvas});
}

TEST(CudaUnmask, ANonFiniteRowEndsItsBlockWithoutAWrite) {
  const RowStats broken;
  expect_ended(broken, {.kind = RuleKind::kAll}, UnmaskStatus::kNonFinite);
  expect_ended(broken, {.kind = RuleKind::kTopConfidence, .count = {.n = 1}}, UnmaskStatus::kNonFinite);
}

TEST(CudaUnmask, ATokenThatMayNotBeWrittenEndsItsBlockWhereItIsChosen) {
  const RowStats none = row_of(-1, 0), mask = row_of(kMask, 0);
  expect_ended(none, {.kind = RuleKind::kAll}, UnmaskStatus::kNoToken);
  expect_ended(mask, {.kind = RuleKind::kAll}, UnmaskStatus::kMaskToken);
  Failing failing(none);
  const UnmaskReport report = failing.report({.kind = RuleKind::kTopConfidence, .count = {.n = 2}});
  EXPECT_EQ(report.status, UnmaskStatus::kWritten);
  EXPECT_EQ(report.written, 2);
  EXPECT_EQ(report.masked, 2);
  EXPECT_EQ(std::vector<int32_t>(failing.device.written.begin(), failing.device.written.begin() + 2),
            (std::vector<int32_t>{4, 3}));
}

TEST(CudaUnmask, ABrokenBlockLeavesTheOthersAlone) {
  Canvas first(std::vector<int32_t>{1}, 2, kMask), second(std::vector<int32_t>{}, 2, kMask);
  Device device({&first, &second});
  const RowStats good = row_of(5, 0.5f);
  device.unmask({{.row_count = 2}, {.canvas_begin = device.begins[1], .row_begin = 2, .row_count = 2}},
                {good, RowStats{}, good, good}, {1, 2, 0, 1});
  EXPECT_EQ(device.reports[0].status, UnmaskStatus::kNonFinite);
  EXPECT_EQ(device.reports[0].position, 2);
  second.commit(0, 5, 0.5f);
  second.commit(1, 5, 0.5f);
  device.expect_equal({&first, &second});
}

}  // namespace
}  // namespace pydllm
