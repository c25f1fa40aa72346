// The selection rules of select.h as data, for code that gets them at run time: the kernel that unmasks on the device.
// The choice itself is made by select.h alone. constexpr and free of std, as there.
#pragma once

#include "base/philox.h"
#include "select/row_stats.h"
#include "select/select.h"

namespace pydllm::select {

// What rows are ranked by.
enum class Score : uint8_t {
  kConfidence,
  kEntropy,
  kFilteredConfidence,
  kFilteredMargin,
  kFilteredCertainty,  // minus the filtered entropy
  kUniform,            // position_draw, whatever the model says
};

// A draw in (0, 1) for one position in one forward of a request, the same whatever else is in the batch.
constexpr float position_draw(uint64_t seed, uint32_t forward, int32_t position) {
  return open_unit(random_draw(seed, RandomPurpose::kPosition, forward, static_cast<uint32_t>(position), 0).v[0]);
}

constexpr float score_of(Score score, const RowStats& row, uint64_t seed, uint32_t forward, int32_t position) {
  switch (score) {
    case Score::kConfidence:
      return row.confidence;
    case Score::kEntropy:
      return row.entropy;
    case Score::kFilteredConfidence:
      return row.filtered.confidence;
    case Score::kFilteredMargin:
      return row.filtered.margin;
    case Score::kFilteredCertainty:
      return -row.filtered.entropy;
    case Score::kUniform:
      return position_draw(seed, forward, position);
  }
  return 0;
}

// How many rows a rule takes, or takes at least, of `rows`.
enum class CountKind : uint8_t {
  kFixed,     // n
  kSchedule,  // scheduled_commits(masks, steps, step)
  kAllBut,    // all but n; none of fewer
  kShare,     // the integer part of rows * share
};

struct Count {
  CountKind kind = CountKind::kFixed;
  int64_t n = 1;
  int64_t masks = 0;  // kSchedule: of the block when it was entered
  int64_t steps = 1;
  int64_t step = 0;
  float share = 0;
};

constexpr int32_t count_of(const Count& count, int32_t rows) {
  switch (count.kind) {
    case CountKind::kFixed:
      return static_cast<int32_t>(count.n);
    case CountKind::kSchedule:
      return static_cast<int32_t>(scheduled_commits(count.masks, count.steps, count.step));
    case CountKind::kAllBut:
      return static_cast<int32_t>(rows > count.n ? rows - count.n : 0);
    case CountKind::kShare:
      return static_cast<int32_t>(static_cast<float>(rows) * count.share);
  }
  return 0;
}

enum class RuleKind : uint8_t {
  kAll,
  kLeftmost,             // count
  kTopConfidence,        // count
  kConfidenceThreshold,  // threshold
  kConfidentOrTop,       // threshold, count
  kNearMaximum,          // threshold, slack
  kFactor,               // factor, last_always
  kSegmentMaxima,        // low, threshold
  kBelow,                // threshold
  kLowestEntropy,        // count
  kEntropyThreshold,     // threshold, comparison
  kPassingEntropy,       // threshold, comparison
};

// Each is the function of that name in select.h; what a kind does not name it does not read.
struct Rule {
  RuleKind kind = RuleKind::kAll;
  Comparison comparison = Comparison::kAtMost;
  bool last_always = false;
  float threshold = 0;
  float low = 0;
  float slack = 0;
  double factor = 0;
  Count count = {};
  // Above 0: then force_lowest_entropy over the rows at positions below this one. For the two entropy thresholds.
  int32_t forced_before = 0;
};

namespace detail {

constexpr int32_t choose_by_kind(const Rule& rule, const float* values, const int32_t* position, int32_t rows,
                                 int32_t* chosen) {
  switch (rule.kind) {
    case RuleKind::kAll:
      return all(rows, chosen);
    case RuleKind::kLeftmost:
      return leftmost(rows, count_of(rule.count, rows), chosen);
    case RuleKind::kTopConfidence:
      return top_confidence(values, rows, count_of(rule.count, rows), chosen);
    case RuleKind::kConfidenceThreshold:
      return confidence_threshold(values, rows, rule.threshold, chosen);
    case RuleKind::kConfidentOrTop:
      return confident_or_top(values, rows, rule.threshold, count_of(rule.count, rows), chosen);
    case RuleKind::kNearMaximum:
      return near_maximum(values, rows, rule.threshold, rule.slack, chosen);
    case RuleKind::kFactor:
      return factor(values, rows, rule.factor, rule.last_always, chosen);
    case RuleKind::kSegmentMaxima:
      return segment_maxima(values, position, rows, rule.low, rule.threshold, chosen);
    case RuleKind::kBelow:
      return below(values, rows, rule.threshold, chosen);
    case RuleKind::kLowestEntropy:
      return lowest_entropy(values, rows, count_of(rule.count, rows), chosen);
    case RuleKind::kEntropyThreshold:
      return entropy_threshold(values, rows, rule.threshold, rule.comparison, chosen);
    case RuleKind::kPassingEntropy:
      return passing_entropy(values, rows, rule.threshold, rule.comparison, chosen);
  }
  return 0;
}

}  // namespace detail

// values, position [rows], position ascending; chosen as in select.h.
constexpr int32_t choose(const Rule& rule, const float* values, const int32_t* position, int32_t rows,
                         int32_t* chosen) {
  const int32_t kept = detail::choose_by_kind(rule, values, position, rows, chosen);
  int32_t forcible = 0;
  while (forcible < rows && position[forcible] < rule.forced_before) ++forcible;
  return forcible > 0 ? force_lowest_entropy(values, forcible, chosen, kept) : kept;
}

}  // namespace pydllm::select
