// SGLang's LowConfidence: commit every position of the block above the threshold, else the surest one.
#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"LowConfidence"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.95",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has more than this probability"},
};

class LowConfidence final : public BlockCausalChoice {
 public:
  LowConfidence(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalChoice(request), threshold_(static_cast<float>(values.number("confidence_threshold"))) {}

 private:
  int32_t choose(std::span<const float> confidences, int32_t* chosen) override {
    return select::confident_or_top(confidences.data(), static_cast<int32_t>(confidences.size()), threshold_, 1,
                                    chosen);
  }

  float threshold_;  // single precision like the confidences
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<LowConfidence>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kLowConfidenceDecoding = {
    .name = "low_confidence",
    .aliases = kAliases,
    .params = kParams,
    .summary = "block by block, commits every position above the threshold, at least one per step",
    .source = "SGLang 0.5.23, srt/dllm/algorithm LowConfidence (LLaDA2.x, SDAR)",
    .attention = AttentionKind::kBlockCausal,
    .begin = begin,
};

}  // namespace pydllm::decode
