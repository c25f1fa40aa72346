// dInfer's threshold decoder: a confidence threshold that falls to just below the best position when nothing reaches
// it.
#include "decode/algorithms.h"
#include "decode/either_walk.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr float kSlack = 1e-5f;  // of the original

constexpr std::string_view kAliases[] = {"dinfer_threshold"};

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

template <class Walk>
class NearMax final : public Walk {
 public:
  NearMax(const DecodeRequest& request, const ParamValues& values)
      : Walk(request, values), threshold_(static_cast<float>(values.number("confidence_threshold"))) {}

 private:
  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::near_maximum(ranks.data(), static_cast<int32_t>(ranks.size()), threshold_, kSlack, chosen);
  }

  float threshold_;  // single precision like the confidences
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return begin_on_walk<NearMax>(request, kParams);
}

}  // namespace

constinit const Algorithm kNearMax = {
    .name = "near_max",
    .aliases = kAliases,
    .params = kParams,
    .summary = "commits every position that reaches the threshold, or else every one within 1e-5 of the surest",
    .source = "dInfer (arXiv 2510.08666), ThresholdParallelDecoder",
    .attention = kEitherAttention,
    .begin = begin,
};

}  // namespace pydllm::decode
