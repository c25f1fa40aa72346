// d3LLM's multi-block decoding: the next block is opened while earlier ones still hold masks, and everything open is
// decoded by entropy in the same forward.
#include <algorithm>

#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "decode/comparison.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"FullAttnMultiBlock", "d3llm"};
constexpr std::string_view kForceScopes[] = {"all", "first"};

constexpr ParamSpec kParams[] = {
    {.name = "entropy_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.5",
     .minimum = 0,
     .maximum = 100,
     .help = "commit positions whose entropy (nats) passes this"},
    kComparisonParam,
    {.name = "force_scope",
     .alias = "",
     .type = ParamType::kChoice,
     .default_value = "all",
     .choices = kForceScopes,
     .help = "all: the lowest entropy of the open blocks is committed in any case, and one position of the first "
             "unfinished block (LLaDA); first: only the latter (Dream)"},
    {.name = "block_add_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.1",
     .minimum = 0,
     .maximum = 1,
     .help = "open the next block when this share of the last open one is committed"},
    {.name = "decoded_token_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.95",
     .minimum = 0,
     .maximum = 1,
     .help = "a block may be forced once this share of the one before it is committed; the first unfinished block, the "
             "only one ever forced, passes any value"},
    kBlockLengthParam,
};

class MultiBlockEntropy final : public BlockDecoding {
 public:
  MultiBlockEntropy(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, values.integer("block_length"), Remasking::kLowConfidence),
        open_(request, values.integer("block_length")),
        threshold_(static_cast<float>(values.number("entropy_threshold"))),
        comparison_(parse_comparison(values.choice("comparison"))),
        force_all_(values.choice("force_scope") == "all"),
        block_add_threshold_(values.number("block_add_threshold")),
        eos_(request.eos_token_ids) {}

  Progress progress() const override {
    Progress progress = BlockDecoding::progress();
    progress.active_end = open_.end();
    return progress;
  }

 private:
  float score(const RowStats& row) const override { return row.entropy; }

  int32_t eligible_end(const Canvas& canvas) override {
    if (opened_before_ <= forward()) {
      open_next(canvas);
      opened_before_ = forward() + 1;
    }
    return open_.end();
  }

  // At most one block with something to generate per forward.
  void open_next(const Canvas& canvas) {
    const double total = open_.end() - open_.begin();
    const double progress = 1.0 - canvas.masked_count(open_.begin(), open_.end()) / total;
    if (!open_.last() && progress >= block_add_threshold_) open_.next_block();
    while (open_.end() < walk().end()) open_.next_block();  // blocks without a hole are passed over
  }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    const int32_t count = force_all_ ? select::entropy_threshold(ranks.data(), rows, threshold_, comparison_, chosen)
                                     : select::passing_entropy(ranks.data(), rows, threshold_, comparison_, chosen);
    const auto first_block =
        static_cast<int32_t>(std::ranges::lower_bound(positions(), walk().end()) - positions().begin());
    // Rows ascend, so the first unfinished block got something if anything did.
    const bool forced = count == 0 || chosen[0] >= first_block;
    return forced ? count + select::lowest_entropy(ranks.data(), first_block, 1, chosen + count) : count;
  }

  // What follows an end-of-sequence token is not part of the answer, even while something before it is masked.
  void settle(Canvas& canvas) override {
    for (int32_t position = walk().begin(); position < open_.end(); ++position) {
      const int32_t token = canvas.tokens()[static_cast<size_t>(position)];
      if (canvas.masked(position) || canvas.fixed(position) || std::ranges::find(eos_, token) == eos_.end()) continue;
      return canvas.fill_after(position);
    }
  }

  BlockWalk open_;   // stands at the last open block
  float threshold_;  // single precision like the entropies
  select::Comparison comparison_;
  bool force_all_;
  double block_add_threshold_;
  std::span<const int32_t> eos_;
  uint32_t opened_before_ = 0;  // forward, exclusive, up to which blocks were opened
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<MultiBlockEntropy>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kMultiBlockEntropy = {
    .name = "multi_block_entropy",
    .aliases = kAliases,
    .params = kParams,
    .summary = "decodes several blocks in one forward: commits every open position whose entropy passes the threshold",
    .source = "d3LLM (arXiv 2601.07568), generate_multi_block",
    .begin = begin,
};

}  // namespace pydllm::decode
