// Diffulex's multi-block decoding: a few consecutive blocks are denoised together, a later one before the earlier are
// done.
#include <algorithm>

#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"multi_bd"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "accept_threshold",
     .type = ParamType::kFloat,
     .default_value = "0.95",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has more than this probability"},
    {.name = "buffer_size",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "4",
     .minimum = 1,
     .maximum = 1024,
     .help = "most blocks of a forward, finished ones that it commits included"},
    {.name = "add_block_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.1",
     .minimum = 0,
     .maximum = 1,
     .help = "take on the next block when this share of the last one is filled"},
    {.name = "semi_complete_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "a block commits at least one token per step when this share of the block before it is filled"},
};

class MultiBlock final : public BlockCausalDecoding {
 public:
  MultiBlock(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalDecoding(request),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        buffer_size_(values.integer("buffer_size")),
        add_block_(values.number("add_block_threshold")),
        semi_complete_(values.number("semi_complete_threshold")) {}

 private:
  // The share of a block that is filled, prompt tokens included.
  double filled(const Canvas& canvas, int32_t begin) const {
    return 1 - static_cast<double>(canvas.masked_count(begin, begin + block_length())) / block_length();
  }

  // At most one block is taken on per forward; a plan that is made again stays the same.
  int32_t next_window_end(const Canvas& canvas) override {
    if (!planned_) take_on(canvas);
    planned_ = true;
    return active_end_;
  }

  // Blocks that left the window since the last forward are fed once more, to be committed: they count as buffered.
  void take_on(const Canvas& canvas) {
    const int32_t buffered_from = last_begin_ < 0 ? block_begin() : last_begin_;
    const int64_t buffered = (std::max(active_end_, block_begin()) - buffered_from) / block_length();
    last_begin_ = block_begin();
    if (active_end_ <= block_begin()) {
      active_end_ = block_end();
    } else if (active_end_ < canvas.length() && buffered < buffer_size_ &&
               filled(canvas, active_end_ - block_length()) >= add_block_) {
      active_end_ += block_length();
    }
  }

  // Every block by itself, judged by the state before this step.
  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) override {
    bool forced = true;
    size_t row = 0;
    for (int32_t begin = block_begin(); begin < window_end(); begin += block_length()) {
      const bool next_forced = filled(canvas, begin) >= semi_complete_;
      const size_t first = row;
      while (row < rows.size() && rows[row] < begin + block_length()) ++row;
      commit_confident(rows.subspan(first, row - first), stats.subspan(first, row - first), threshold_, forced ? 1 : 0,
                       canvas);
      forced = next_forced;
    }
    planned_ = false;
  }

  float threshold_;  // single precision like the confidences
  int64_t buffer_size_;
  double add_block_;
  double semi_complete_;
  int32_t active_end_ = 0;
  int32_t last_begin_ = -1;  // where the window of the last forward began
  bool planned_ = false;     // since the last forward
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<MultiBlock>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kMultiBlock = {
    .name = "multi_block",
    .aliases = kAliases,
    .params = kParams,
    .summary = "denoises a few consecutive blocks together, each by a confidence threshold",
    .source = "Diffulex, multi_bd strategy",
    .attention = AttentionKind::kBlockCausal,
    .begin = begin,
};

}  // namespace pydllm::decode
