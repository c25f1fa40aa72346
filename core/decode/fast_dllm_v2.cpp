// Fast-dLLM v2: inside a block, sub-blocks from left to right by a confidence threshold; a block's first token is
// decoded autoregressively.
#include <algorithm>

#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"

namespace pydllm::decode {
namespace {

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has more than this probability"},
    {.name = "sub_block_length",
     .alias = "sub_block_size",
     .type = ParamType::kInt,
     .default_value = "8",
     .minimum = 1,
     .maximum = 1e6,
     .help = "positions of a block that are denoised together; more than the block means all of it"},
    {.name = "block_cache",
     .alias = "use_block_cache",
     .type = ParamType::kBool,
     .default_value = "false",
     .help = "true: steps of a sub-block whose first token is known feed the sub-block only; an approximation"},
};

class FastDllmV2 final : public BlockCausalDecoding {
 public:
  FastDllmV2(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalDecoding(request),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        sub_block_length_(
            static_cast<int32_t>(std::min<int64_t>(values.integer("sub_block_length"), request.block_length))),
        block_cache_(values.boolean("block_cache")) {}

 private:
  // The first token of a block alone: it is what the row before the block predicts, and the others are to see it.
  void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const override {
    if (canvas.masked(block_begin())) return rows.push_back(block_begin());
    for (int32_t begin = block_begin(); rows.empty(); begin += sub_block_length_) {
      canvas.masked_positions(begin, std::min(begin + sub_block_length_, block_end()), rows);
    }
  }

  // A sub-block alone, once a forward that saw the block's first token has fed the block. While the sub-block's first
  // token is a mask all is fed: with shifted logits the position before the sub-block predicts it.
  std::pair<int32_t, int32_t> fed(const Canvas& canvas, std::span<const int32_t> rows) override {
    const int32_t offset = (rows.front() - block_begin()) / sub_block_length_ * sub_block_length_;
    const int32_t begin = block_begin() + offset, end = std::min(begin + sub_block_length_, block_end());
    const bool alone = block_cache_ && stored_block_ == block_begin() && !canvas.masked(begin);
    stores_ = !alone && !canvas.masked(block_begin());
    return alone ? std::pair(begin, end) : std::pair(block_begin(), block_end());
  }

  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) override {
    if (stores_) stored_block_ = block_begin();
    commit_confident(rows, stats, threshold_, 1, canvas);
  }

  float threshold_;  // single precision like the confidences
  int32_t sub_block_length_;
  bool block_cache_;
  bool stores_ = false;        // whether the planned forward feeds the whole block, first token included
  int32_t stored_block_ = -1;  // begin of the block whose K/V such a forward wrote
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<FastDllmV2>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kFastDllmV2 = {
    .name = "fast_dllm_v2",
    .aliases = {},
    .params = kParams,
    .summary = "an autoregressive first token, then sub-blocks from left to right by a confidence threshold",
    .source = "Fast-dLLM v2 (arXiv 2509.26328), batch_sample",
    .attention = AttentionKind::kBlockCausal,
    .begin = begin,
};

}  // namespace pydllm::decode
