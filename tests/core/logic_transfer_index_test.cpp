// Golden table: one-step choices recorded from Fast-dLLM's get_transfer_index (threshold and fixed k) and d3LLM's
// get_transfer_index_entropy. The text is made by tests/decode/make_logic_golden.py from the recording.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "decode/algorithm.h"
#include "ops/row_stats.h"
#include "select/select.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::decode {
namespace {

using Flags = std::vector<bool>;

struct GoldenRow {
  int id = 0;
  double threshold = 0;
  int32_t k = 0;
  double entropy_threshold = 0;
  bool ties = false;  // equal confidences: which of them the original takes is unspecified
  std::vector<int32_t> ids;
  Flags masked;
  Flags by_threshold;
  std::vector<int32_t> predicted;
  Flags by_k;
  Flags by_entropy;
  std::vector<std::vector<float>> logits;
};

std::vector<int32_t> read_ints(std::istream& in, size_t count) {
  std::vector<int32_t> out(count);
  for (int32_t& value : out) in >> value;
  return out;
}

Flags read_flags(std::istream& in, size_t count) {
  const std::vector<int32_t> values = read_ints(in, count);
  return Flags(values.begin(), values.end());
}

std::vector<float> read_logits(std::istream& in, size_t vocab) {
  std::string digits;
  in >> digits;
  EXPECT_EQ(digits.size(), vocab * 8);
  std::vector<float> out;
  for (size_t i = 0; i < vocab; ++i) {
    out.push_back(std::bit_cast<float>(static_cast<uint32_t>(std::stoul(digits.substr(i * 8, 8), nullptr, 16))));
  }
  return out;
}

GoldenRow read_row(std::istream& in, size_t vocab) {
  GoldenRow row;
  size_t positions = 0;
  in >> row.id >> row.threshold >> row.k >> row.entropy_threshold >> row.ties >> positions;
  row.ids = read_ints(in, positions);
  row.masked = read_flags(in, positions);
  row.by_threshold = read_flags(in, positions);
  row.predicted = read_ints(in, positions);
  row.by_k = read_flags(in, positions);
  row.by_entropy = read_flags(in, positions);
  for (size_t i = 0; i < positions; ++i) row.logits.push_back(read_logits(in, vocab));
  return row;
}

const std::vector<GoldenRow>& golden_rows() {
  static const std::vector<GoldenRow> rows = [] {
    const std::filesystem::path path = std::filesystem::path(PYDLLM_TESTS) / "core/golden_logic/transfer_index.txt";
    std::ifstream in(path);
    size_t count = 0, vocab = 0, mask_id = 0;
    in >> count >> vocab >> mask_id;
    std::vector<GoldenRow> table;
    for (size_t i = 0; i < count; ++i) table.push_back(read_row(in, vocab));
    EXPECT_TRUE(in.good()) << path << " is missing or cut short";
    return table;
  }();
  return rows;
}

// Row statistics by their definition, in double precision.
RowStats reference_stats(const std::vector<float>& logits) {
  const auto best = static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  double z = 0;
  for (const float logit : logits) z += std::exp(double{logit} - double{logits[best]});
  RowStats stats;
  stats.token = stats.top1 = static_cast<int32_t>(best);
  stats.confidence = stats.top1_probability = static_cast<float>(1 / z);
  double entropy = 0;
  for (const float logit : logits) {
    const double p = std::exp(double{logit} - double{logits[best]}) / z;
    if (p > 0) entropy -= p * std::log(p);
  }
  stats.entropy = static_cast<float>(entropy);
  stats.log_sum_exp = static_cast<float>(double{logits[best]} + std::log(z));
  stats.finite = true;
  return stats;
}

std::vector<RowStats> reference_rows(const GoldenRow& row) {
  std::vector<RowStats> stats;
  for (const auto& logits : row.logits) stats.push_back(reference_stats(logits));
  return stats;
}

std::vector<RowStats> engine_rows(const GoldenRow& row) {
  ThreadPool pool(1);
  const auto positions = static_cast<int64_t>(row.logits.size());
  const auto vocab = static_cast<int64_t>(row.logits.front().size());
  const Tensor logits = Tensor::empty({positions, vocab}, DType::kF32);
  for (int64_t i = 0; i < positions; ++i) {
    const auto& source = row.logits[static_cast<size_t>(i)];
    std::copy(source.begin(), source.end(), logits.data<float>() + i * vocab);
  }
  // The originals may predict the mask, so nothing is forbidden here.
  std::vector<RowStats> stats(row.logits.size());
  ops::row_stats(Context{{}, &pool}, logits, std::vector<RowSampling>(stats.size()), {}, stats);
  return stats;
}

// A rule of select/ over the masked positions, as flags over all positions.
template <class Rule>
Flags chosen_by(const GoldenRow& row, const std::vector<RowStats>& stats, float RowStats::* value, Rule rule) {
  std::vector<int32_t> positions;
  std::vector<float> values;
  for (size_t i = 0; i < stats.size(); ++i) {
    if (!row.masked[i]) continue;
    positions.push_back(static_cast<int32_t>(i));
    values.push_back(stats[i].*value);
  }
  std::vector<int32_t> chosen(values.size());
  chosen.resize(static_cast<size_t>(rule(values.data(), static_cast<int32_t>(values.size()), chosen.data())));
  Flags flags(stats.size());
  for (const int32_t index : chosen) flags[static_cast<size_t>(positions[static_cast<size_t>(index)])] = true;
  return flags;
}

Flags k_choice(const GoldenRow& row, const std::vector<RowStats>& stats) {
  return chosen_by(row, stats, &RowStats::confidence, [&](const float* values, int32_t count, int32_t* out) {
    return select::top_confidence(values, count, row.k, out);
  });
}

// One forward of an algorithm over a canvas whose open positions are the row's; the mask id is outside the vocabulary
// because the recording lets the model predict it.
Canvas after_one_forward(const GoldenRow& row, const std::vector<RowStats>& stats, const char* name, double threshold) {
  const auto length = static_cast<int32_t>(row.ids.size());
  const std::vector<int32_t> prompt = {0};
  Canvas canvas(prompt, length, static_cast<int32_t>(row.logits.front().size()));
  for (int32_t i = 0; i < length; ++i) {
    if (!row.masked[static_cast<size_t>(i)]) canvas.commit(i + 1, row.ids[static_cast<size_t>(i)], 0.5f);
  }
  const Algorithm& algorithm = find_algorithm(name);
  const ParamMap params =
      check_params(algorithm, AttentionKind::kFull, {{"threshold", threshold}, {"block_length", int64_t{length}}});
  const auto decoding = algorithm.begin({.prompt_length = 1, .max_tokens = length, .seed = 0, .params = &params});
  ForwardPlan plan;
  decoding->plan(canvas, plan);
  std::vector<RowStats> wanted;
  for (const int32_t position : plan.rows) wanted.push_back(stats[static_cast<size_t>(position - 1)]);
  decoding->commit(wanted, canvas);
  return canvas;
}

Flags committed(const GoldenRow& row, const Canvas& canvas) {
  Flags flags(row.ids.size());
  for (size_t i = 0; i < flags.size(); ++i) flags[i] = row.masked[i] && !canvas.masked(static_cast<int32_t>(i) + 1);
  return flags;
}

void expect_predicted_ids(const GoldenRow& row, const Canvas& canvas) {
  for (size_t i = 0; i < row.ids.size(); ++i) {
    if (canvas.masked(static_cast<int32_t>(i) + 1)) continue;
    EXPECT_EQ(canvas.tokens()[i + 1], row.masked[i] ? row.predicted[i] : row.ids[i]) << "row " << row.id << " at " << i;
  }
}

auto count_of(const Flags& flags) {
  return std::count(flags.begin(), flags.end(), true);
}

struct Tally {
  int exact = 0;
  int by_count = 0;
  int entropy = 0;
};

void judge(const GoldenRow& row, const std::vector<RowStats>& stats, Tally& tally) {
  const Canvas by_threshold = after_one_forward(row, stats, "confidence_threshold", row.threshold);
  const Canvas by_entropy = after_one_forward(row, stats, "entropy_threshold", row.entropy_threshold);
  const Flags threshold_choice = committed(row, by_threshold);
  if (row.ties) {
    tally.by_count += count_of(threshold_choice) == count_of(row.by_threshold) &&
                      count_of(k_choice(row, stats)) == count_of(row.by_k);
  } else {
    tally.exact += threshold_choice == row.by_threshold && k_choice(row, stats) == row.by_k;
  }
  tally.entropy += committed(row, by_entropy) == row.by_entropy;
  expect_predicted_ids(row, by_threshold);
  expect_predicted_ids(row, by_entropy);
}

void expect_all_match(const char* what, std::vector<RowStats> (*stats_of)(const GoldenRow&)) {
  Tally tally;
  for (const GoldenRow& row : golden_rows()) judge(row, stats_of(row), tally);
  EXPECT_EQ(tally.exact, 45);
  EXPECT_EQ(tally.by_count, 15);
  EXPECT_EQ(tally.entropy, 60);
  std::cout << "logic_transfer_index, " << what << ": " << tally.exact << "/45 exact, " << tally.by_count
            << "/15 by count, " << tally.entropy << "/60 entropy\n";
}

TEST(LogicTransferIndex, ChoicesMatchTheOriginalsOnReferenceStatistics) {
  expect_all_match("double-precision statistics", reference_rows);
}

TEST(LogicTransferIndex, ChoicesMatchTheOriginalsThroughRowStats) {
  expect_all_match("ops::row_stats", engine_rows);
}

}  // namespace
}  // namespace pydllm::decode
