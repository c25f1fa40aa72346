// dInfer's port of the factor rule: the more positions are committed together, the surer each of them has to be.
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr ParamSpec kParams[] = {
    {.name = "factor",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "1",
     .minimum = 0,
     .maximum = 1000,
     .help = "the n-th surest position needs a confidence of 1 - factor / (n + 1)"},
    {.name = "factor_strict",
     .alias = "",
     .type = ParamType::kBool,
     .default_value = "true",
     .help = "false: like the original, the last position is committed with all others whatever its confidence"},
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

class ConfidenceFactor final : public CappedBlockDecoding {
 public:
  ConfidenceFactor(const DecodeRequest& request, const ParamValues& values)
      : CappedBlockDecoding(request, values),
        factor_(values.number("factor")),
        strict_(values.boolean("factor_strict")) {}

 private:
  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::factor(ranks.data(), static_cast<int32_t>(ranks.size()), factor_, !strict_, chosen);
  }

  double factor_;
  bool strict_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<ConfidenceFactor>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kConfidenceFactor = {
    .name = "confidence_factor",
    .aliases = {},
    .params = kParams,
    .summary = "commits the n surest positions while the n-th reaches 1 - factor / (n + 1), at least one per step",
    .source = "Fast-dLLM (arXiv 2505.22618), as get_transfer_index_dynamic of dInfer (arXiv 2510.08666)",
    .begin = begin,
};

}  // namespace pydllm::decode
