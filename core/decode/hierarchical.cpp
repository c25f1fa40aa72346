// dInfer's hierarchical decoder: the surest position of every gap, so that gaps are halved like intervals.
#include "decode/algorithms.h"
#include "decode/either_walk.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"dinfer_hierarchy"};

constexpr ParamSpec kParams[] = {
    {.name = "low_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.4",
     .minimum = 0,
     .maximum = 1,
     .help = "commit the surest position of a run of masks if its confidence is above this"},
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "1",
     .minimum = 0,
     .maximum = 1,
     .help = "commit every position whose confidence is above this; 1: none"},
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

template <class Walk>
class Hierarchical final : public Walk {
 public:
  Hierarchical(const DecodeRequest& request, const ParamValues& values)
      : Walk(request, values),
        low_(static_cast<float>(values.number("low_threshold"))),
        high_(static_cast<float>(values.number("confidence_threshold"))) {}

 private:
  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::segment_maxima(ranks.data(), this->positions().data(), static_cast<int32_t>(ranks.size()), low_,
                                  high_, chosen);
  }

  float low_, high_;  // single precision like the confidences
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return begin_on_walk<Hierarchical>(request, kParams);
}

}  // namespace

constinit const Algorithm kHierarchical = {
    .name = "hierarchical",
    .aliases = kAliases,
    .params = kParams,
    .summary = "commits the surest position of every run of masks, so that gaps shrink from the middle",
    .source = "dInfer (arXiv 2510.08666), HierarchyDecoder",
    .attention = kEitherAttention,
    .begin = begin,
};

}  // namespace pydllm::decode
