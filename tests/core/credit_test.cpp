// credit on the executed examples of dInfer's decoder, and against the formula written out in float64 on its own
// tables.
#include <gtest/gtest.h>

#include <map>

#include "decode_examples.h"

namespace pydllm::decode {
namespace {

using Offsets = std::set<int32_t>;
using Row = std::vector<double>;  // probabilities
using Table = std::vector<Row>;   // of each position of the answer

RowStats stats_of(const Row& p, int32_t mask) {
  RowStats stats;
  for (int32_t id = 0; id < static_cast<int32_t>(p.size()); ++id) {
    if (id == mask || (stats.token >= 0 && p[static_cast<size_t>(id)] <= p[static_cast<size_t>(stats.token)])) continue;
    stats.token = id;
  }
  stats.top1 = stats.token;
  stats.confidence = stats.top1_probability = static_cast<float>(p[static_cast<size_t>(stats.token)]);
  stats.finite = true;
  return stats;
}

// Probabilities after biases of the logits.
Row biased(Row p, std::span<const LogitEdit> edits) {
  for (const LogitEdit& edit : edits) p[static_cast<size_t>(edit.id)] *= std::exp(static_cast<double>(edit.bias));
  double total = 0;
  for (const double value : p) total += value;
  for (double& value : p) value /= total;
  return p;
}

constexpr int32_t kPrompt = 1;

constexpr AttentionKind kModels[] = {AttentionKind::kFull, AttentionKind::kBlockCausal};

// A run over tables, one for each forward; the last one stays. A block-causal model's block is prompt and answer.
struct TableRun {
  TableRun(AttentionKind model, int32_t max_tokens, int32_t mask, const ParamMap& params, std::vector<Table> given)
      : driver({.max_tokens = max_tokens, .mask_id = mask, .block_length = kPrompt + max_tokens, .attention = model},
               "credit", params),
        tables(std::move(given)) {
    driver.edited = [this, mask](const RowStats&, int32_t position, std::span<const LogitEdit> edits) {
      seen[position] = biased(row(position), edits);
      added[position].assign(edits.begin(), edits.end());
      return stats_of(seen[position], mask);
    };
  }
  const Row& row(int32_t position) const {
    const auto forward = std::min<size_t>(static_cast<size_t>(driver.forwards), tables.size() - 1);
    return tables[forward][static_cast<size_t>(position - kPrompt)];
  }
  Offsets step() {
    driver.step([this](int32_t position, int32_t) { return stats_of(row(position), driver.canvas.mask_token_id()); });
    return committed_offsets(driver.canvas);
  }

  Driver driver;
  std::vector<Table> tables;
  std::map<int32_t, Row> seen;                      // of the last forward, after the edits
  std::map<int32_t, std::vector<LogitEdit>> added;  // of the last forward
};

const Table kExample = {{.70, .20, .09, .01}, {.55, .40, .04, .01}};

TEST(Credit, IsTheOriginalsExample) {
  for (const AttentionKind model : kModels) {
    TableRun run(model, 2, 3, {{"threshold", .8}}, {kExample});
    EXPECT_EQ(run.step(), (Offsets{0})) << "nothing reaches .8, so the best";
    EXPECT_NEAR(run.seen.at(1)[0], .78717, 1e-5);
    EXPECT_NEAR(run.seen.at(2)[0], .65595, 1e-5);
    EXPECT_NEAR(std::exp(run.added.at(1)[0].bias / .7f) - 1, .93115, 5e-6);
    EXPECT_NEAR(std::exp(run.added.at(2)[0].bias / .7f) - 1, .88730, 5e-6);
    EXPECT_EQ(run.step(), (Offsets{0, 1}));
    EXPECT_TRUE(run.driver.done());
  }
}

TEST(Credit, AThresholdThatCreditReachesTakesBoth) {
  for (const AttentionKind model : kModels) {
    TableRun run(model, 2, 3, {{"confidence_threshold", .65}}, {kExample});
    EXPECT_EQ(run.step(), (Offsets{0, 1}));
    TableRun without(model, 2, 3, {{"confidence_threshold", .65}, {"credit_alpha", 0.0}}, {kExample});
    EXPECT_EQ(without.step(), (Offsets{0}));
  }
}

// What position 2 was sure of at first wins over what it would say by now.
TEST(Credit, ATokenOfEarlierStepsCanBeWritten) {
  for (const AttentionKind model : kModels) {
    const Table first = {{.99, .005, .004, .001}, {.52, .28, .19, .01}},
                later = {{.99, .005, .004, .001}, {.40, .41, .18, .01}};
    TableRun run(model, 2, 3, {}, {first, later});
    EXPECT_EQ(run.step(), (Offsets{0}));
    EXPECT_EQ(run.step(), (Offsets{0, 1}));
    EXPECT_EQ(run.driver.canvas.tokens()[2], 1) << "its own best has fresh credit, too";
    TableRun kept(model, 2, 3, {{"decay_beta", 1.0}, {"boost_gamma", 2.0}}, {first, later});
    kept.step();
    kept.step();
    EXPECT_EQ(kept.driver.canvas.tokens()[2], 0);
  }
}

TEST(Credit, EarlierBlocksLeaveNoCredit) {
  const Table table(4, Row{.5, .3, .19, .01});
  TableRun run(AttentionKind::kFull, 4, 3, {{"block_length", int64_t{2}}, {"max_steps_per_block", int64_t{1}}},
               {table});
  EXPECT_EQ(run.step(), (Offsets{0, 1}));
  const std::vector<LogitEdit> first = run.added.at(1);
  EXPECT_EQ(run.step(), (Offsets{0, 1, 2, 3}));
  ASSERT_EQ(run.added.at(3).size(), 1u);
  EXPECT_EQ(run.added.at(3)[0].bias, first[0].bias);
}

Row random_row(uint64_t seed, int32_t position, int32_t forward) {
  Row row;
  double total = 0;
  for (uint64_t id = 0; id < 6; ++id) {
    const uint64_t bits = mixed(seed, static_cast<uint64_t>(position) * 64 + static_cast<uint64_t>(forward), id);
    total += row.emplace_back(std::pow(static_cast<double>(bits % 1000 + 1) / 1000, 3));
  }
  for (double& value : row) value /= total;
  return row;
}

// C *= beta, C[best] += p^gamma, logits + alpha ln(C + 1), in float64 and for the whole matrix.
struct Reference {
  double alpha, gamma, beta;
  std::vector<Row> credit;

  Row step(size_t position, const Row& p, int32_t mask) {
    for (double& value : credit[position]) value *= beta;
    const int32_t best = stats_of(p, mask).token;
    credit[position][static_cast<size_t>(best)] += std::pow(p[static_cast<size_t>(best)], gamma);
    Row out = p;
    double total = 0;
    for (size_t id = 0; id < p.size(); ++id) total += out[id] *= std::exp(alpha * std::log(credit[position][id] + 1));
    for (double& value : out) value /= total;
    return out;
  }
};

TEST(Credit, EveryRowIsTheFormulaInFloat64) {
  for (const AttentionKind model : kModels) {
    constexpr int32_t kTokens = 9, kMaskId = 5;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const double alpha = .35 * static_cast<double>(seed % 4), gamma = .2 + .4 * static_cast<double>(seed % 3),
                   beta = .25 * static_cast<double>(seed % 5);
      std::vector<Table> tables;
      for (int32_t forward = 0; forward < kTokens; ++forward) {
        Table& table = tables.emplace_back();
        for (int32_t position = 0; position < kTokens; ++position) table.push_back(random_row(seed, position, forward));
      }
      TableRun run(model, kTokens, kMaskId,
                   {{"credit_alpha", alpha}, {"boost_gamma", gamma}, {"decay_beta", beta}, {"threshold", .7}}, tables);
      Reference reference{alpha, gamma, beta, std::vector<Row>(kTokens, Row(6, 0))};
      for (size_t forward = 0; !run.driver.done(); ++forward) {
        std::vector<std::pair<int32_t, Row>> expected;
        for (int32_t i = 0; i < kTokens; ++i) {
          if (!run.driver.canvas.masked(kPrompt + i)) continue;
          expected.emplace_back(
              kPrompt + i, reference.step(static_cast<size_t>(i), tables[forward][static_cast<size_t>(i)], kMaskId));
        }
        run.step();
        double best = 0;
        for (const auto& [position, row] : expected) {
          best = std::max(best, static_cast<double>(stats_of(row, kMaskId).confidence));
        }
        for (const auto& [position, row] : expected) {
          for (size_t id = 0; id < row.size(); ++id) EXPECT_NEAR(run.seen.at(position)[id], row[id], 1e-5);
          const RowStats stats = stats_of(row, kMaskId);
          const double bar = std::min(.7, best - 1e-5), confidence = static_cast<double>(stats.confidence);
          if (std::abs(confidence - bar) < 1e-6) continue;
          EXPECT_EQ(run.driver.canvas.masked(position), confidence < bar)
              << "seed " << seed << " position " << position;
          if (confidence < bar) continue;
          EXPECT_EQ(run.driver.canvas.tokens()[static_cast<size_t>(position)], stats.token);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pydllm::decode
