// Discrete diffusion forcing: blocks are taken on one after another while earlier ones still hold masks, and see no
// later ones, so that what a finished block's K/V are made from never changes.
#include <algorithm>

#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kStrategies[] = {"default", "margin_confidence", "neg_entropy"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "skip_threshold",
     .type = ParamType::kFloat,
     .default_value = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has more than this probability in the distribution it is drawn from"},
    {.name = "block_add_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.1",
     .minimum = 0,
     .maximum = 1,
     .help = "take on the next block when this share of the last one is committed"},
    {.name = "decoded_token_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.95",
     .minimum = 0,
     .maximum = 1,
     .help = "a block commits at least one token per step once this share of the one before it is committed"},
    {.name = "sampling_strategy",
     .alias = "",
     .type = ParamType::kChoice,
     .default_value = "default",
     .choices = kStrategies,
     .help = "a block where nothing passes commits its highest probability, largest margin or lowest entropy"},
    kBlockLengthParam,
};

enum class Strategy : uint8_t { kDefault, kMargin, kNegEntropy };

Strategy parse_strategy(std::string_view name) {
  for (size_t i = 0; i < std::size(kStrategies); ++i) {
    if (kStrategies[i] == name) return static_cast<Strategy>(i);
  }
  throw InternalError(format("sampling_strategy: unknown choice ", name));
}

class D2f final : public Decoding {
 public:
  D2f(const DecodeRequest& request, const ParamValues& values)
      : first_(request, values.integer("block_length")),
        last_(first_),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        block_add_(values.number("block_add_threshold")),
        decoded_(values.number("decoded_token_threshold")),
        strategy_(parse_strategy(values.choice("sampling_strategy"))),
        eos_(request.eos_token_ids) {}

  void plan(const Canvas& canvas, ForwardPlan& plan) override {
    rows_.clear();
    canvas.masked_positions(first_.begin(), last_.end(), rows_);
    plan = {};
    plan.query_begin = first_.begin();
    plan.query_end = last_.end();
    plan.rows = rows_;
    plan.filtered = true;
    plan.block_length = first_.block_length();
  }

  void commit(std::span<const RowStats> stats, Canvas& canvas) override {
    check(stats.size() == rows_.size(), "decoding: ", stats.size(), " row statistics for ", rows_.size(), " rows");
    for (size_t i = 0; i < stats.size(); ++i) {
      check(stats[i].finite, "decoding: non-finite logits at position ", rows_[i]);
    }
    write_blocks(stats, canvas);
    first_.count_step();
    take_on(canvas);
    while (first_.end() < last_.end() && canvas.final_end() >= first_.end()) first_.next_block();
  }

  bool done(const Canvas& canvas) const override { return canvas.masked_count() == 0; }

  Progress progress() const override {
    Progress progress = first_.progress();
    progress.active_end = last_.end();
    return progress;
  }

 private:
  static double filled(const Canvas& canvas, const BlockWalk& block) {
    const double total = block.end() - block.begin();
    return 1 - canvas.masked_count(block.begin(), block.end()) / total;
  }

  // Every block by itself, judged by the state before this step. Everything before the first one is complete.
  void write_blocks(std::span<const RowStats> stats, Canvas& canvas) {
    bool forced = true;
    size_t end = 0;
    for (BlockWalk block = first_; block.begin() < last_.end(); block.next_block()) {
      const bool next_forced = filled(canvas, block) >= decoded_;
      const size_t begin = end;
      while (end < rows_.size() && rows_[end] < block.end()) ++end;
      write(std::span(rows_).subspan(begin, end - begin), stats.subspan(begin, end - begin), forced, canvas);
      forced = next_forced;
    }
  }

  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, bool forced, Canvas& canvas) {
    std::vector<float> confidences, scores;
    for (const RowStats& row : stats) {
      confidences.push_back(row.filtered.confidence);
      scores.push_back(score(row));
    }
    const auto count = static_cast<int32_t>(rows.size());
    std::vector<int32_t> chosen(rows.size());
    int32_t taken = select::confident_or_top(confidences.data(), count, threshold_, 0, chosen.data());
    if (taken == 0 && forced) taken = select::top_confidence(scores.data(), count, 1, chosen.data());
    for (int32_t i = 0; i < taken; ++i) {
      const auto row = static_cast<size_t>(chosen[static_cast<size_t>(i)]);
      canvas.commit(rows[row], stats[row].token, stats[row].confidence);
      ended_ = ended_ || std::ranges::find(eos_, stats[row].token) != eos_.end();
    }
  }

  float score(const RowStats& row) const {
    if (strategy_ == Strategy::kDefault) return row.filtered.confidence;
    return strategy_ == Strategy::kMargin ? row.filtered.margin : -row.filtered.entropy;
  }

  // At most one block per forward. Behind an end of sequence nothing more is taken on, unless nothing else is left.
  void take_on(const Canvas& canvas) {
    const bool wanted = !ended_ && filled(canvas, last_) >= block_add_;
    const bool needed = canvas.masked_count(first_.begin(), last_.end()) == 0;
    if (!last_.last() && (wanted || needed)) last_.next_block();
  }

  BlockWalk first_;  // the first unfinished block
  BlockWalk last_;   // the last one taken on
  float threshold_;  // single precision like the confidences
  double block_add_;
  double decoded_;
  Strategy strategy_;
  std::span<const int32_t> eos_;
  bool ended_ = false;         // an end of sequence is written somewhere
  std::vector<int32_t> rows_;  // of the last plan
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<D2f>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kD2f = {
    .name = "d2f",
    .aliases = {},
    .params = kParams,
    .summary = "denoises a growing row of blocks together that see the prompt and the blocks before them only",
    .source = "D2F (arXiv 2508.09192), its evaluation code as in d3LLM",
    .attention = AttentionKind::kPromptBlockCausal,
    .begin = begin,
};

}  // namespace pydllm::decode
