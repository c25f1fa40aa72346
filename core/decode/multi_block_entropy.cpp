// d3LLM's multi-block decoding: the next block is opened while earlier ones still hold masks, and everything open is
// decoded by entropy in the same forward.
#include <algorithm>

#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "decode/comparison.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"FullAttnMultiBlock", "d3llm"};
constexpr std::string_view kForceScopes[] = {"all", "first"};
constexpr std::string_view kCaches[] = {"none", "delayed"};

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
    {.name = "cache",
     .alias = "",
     .type = ParamType::kChoice,
     .default_value = "none",
     .choices = kCaches,
     .help = "delayed: leading blocks that stay complete for a while are fed no more; an approximation"},
    {.name = "cache_delay_iter",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "2",
     .minimum = 1,
     .maximum = 1e6,
     .help = "cache delayed: forwards from the one that finds a block complete to the last one that feeds it"},
    {.name = "cache_refresh_interval",
     .alias = "refresh_interval",
     .type = ParamType::kInt,
     .default_value = "10000",
     .minimum = 0,
     .maximum = 1e6,
     .help = "cache delayed: every so many forwards all positions are fed; 0: never for that reason"},
};

// What leading part of the canvas is fed no more. One length says it: [0, kept) keeps the K/V of the last forward that
// fed it. The prompt is the first block.
class DelayedCache {
 public:
  DelayedCache(const DecodeRequest& request, const ParamValues& values)
      : prompt_length_(request.prompt_length),
        block_length_(values.integer("block_length")),
        enabled_(values.choice("cache") == "delayed"),
        delay_(values.integer("cache_delay_iter")),
        interval_(values.integer("cache_refresh_interval")) {
    for (const std::string_view name : {"cache_delay_iter", "cache_refresh_interval"}) {
      if (enabled_ || !values.given(name) || values.integer(name) == 0) continue;
      throw InvalidRequest(param_field(name), format(name, ": expected with cache delayed only, got cache none"));
    }
  }

  // Where the window of this forward begins, 1-based; once for each, in order.
  int32_t window_begin(const Canvas& canvas, int64_t forward) {
    if (!enabled_) return 0;
    const int32_t kept = kept_;
    const bool waiting = keep_what_is_due(canvas, forward);
    if (kept_ > kept) return kept;  // fed for the last time
    return waiting || (interval_ > 0 && forward % interval_ == 0) ? 0 : kept;
  }

 private:
  int32_t block_end(const Canvas& canvas) const {
    return static_cast<int32_t>(std::min<int64_t>(canvas.length(), prompt_length_ + blocks_kept_ * block_length_));
  }

  // Whether the next block to keep is complete and not due yet: then earlier K/V are renewed along with its own.
  bool keep_what_is_due(const Canvas& canvas, int64_t forward) {
    while (kept_ < canvas.length() && canvas.masked_count(kept_, block_end(canvas)) == 0) {
      if (completed_at_ < 0) completed_at_ = blocks_kept_ == 0 ? 0 : forward;
      if (forward - completed_at_ < delay_) return true;
      kept_ = block_end(canvas);
      ++blocks_kept_;
      completed_at_ = -1;
    }
    return false;
  }

  int64_t prompt_length_;
  int64_t block_length_;
  bool enabled_;
  int64_t delay_;
  int64_t interval_;
  int32_t kept_ = 0;           // from the next forward on
  int64_t blocks_kept_ = 0;    // the prompt included
  int64_t completed_at_ = -1;  // the forward that found the next block complete; -1: none has
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
        cache_(request, values),
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

  void set_window(const Canvas& canvas, ForwardPlan& plan) override {
    if (windowed_before_ <= forward()) {
      window_begin_ = cache_.window_begin(canvas, int64_t{forward()} + 1);
      windowed_before_ = forward() + 1;
    }
    plan.query_begin = window_begin_;
    plan.query_end = canvas.length();
    plan.stale_context = window_begin_ > 0;
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
    return select::force_lowest_entropy(ranks.data(), first_block, chosen, count);
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
  DelayedCache cache_;
  std::span<const int32_t> eos_;
  uint32_t opened_before_ = 0;    // forward, exclusive, up to which blocks were opened
  uint32_t windowed_before_ = 0;  // likewise, up to which window_begin_ holds
  int32_t window_begin_ = 0;
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
    .source = "d3LLM (arXiv 2601.07568), generate_multi_block and its variant with a K/V cache",
    .begin = begin,
};

}  // namespace pydllm::decode
