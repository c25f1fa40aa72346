// Fast-dLLM's parallel decoding: commit every position the model is sure of, and always the surest one.
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"fast_dllm"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has at least this probability"},
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

class ConfidenceThreshold final : public CappedBlockDecoding {
 public:
  ConfidenceThreshold(const DecodeRequest& request, const ParamValues& values)
      : CappedBlockDecoding(request, values), threshold_(static_cast<float>(values.number("confidence_threshold"))) {}

 private:
  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::confidence_threshold(ranks.data(), static_cast<int32_t>(ranks.size()), threshold_, chosen);
  }

  float threshold_;  // single precision like the confidences, so that 0.9 from any client is the same number
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<ConfidenceThreshold>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kConfidenceThreshold = {
    .name = "confidence_threshold",
    .aliases = kAliases,
    .params = kParams,
    .summary = "commits every position whose confidence reaches the threshold, at least one per step",
    .source = "Fast-dLLM (arXiv 2505.22618), NVlabs/Fast-dLLM llada/generate.py",
    .begin = begin,
};

}  // namespace pydllm::decode
