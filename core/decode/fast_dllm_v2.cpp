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
};

class FastDllmV2 final : public BlockCausalDecoding {
 public:
  FastDllmV2(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalDecoding(request),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        sub_block_length_(
            static_cast<int32_t>(std::min<int64_t>(values.integer("sub_block_length"), request.block_length))) {}

 private:
  // The first token of a block alone: it is what the row before the block predicts, and the others are to see it.
  void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const override {
    if (canvas.masked(block_begin())) return rows.push_back(block_begin());
    for (int32_t begin = block_begin(); rows.empty(); begin += sub_block_length_) {
      canvas.masked_positions(begin, std::min(begin + sub_block_length_, block_end()), rows);
    }
  }

  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) override {
    commit_confident(rows, stats, threshold_, 1, canvas);
  }

  float threshold_;  // single precision like the confidences
  int32_t sub_block_length_;
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
