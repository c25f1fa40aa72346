// d3LLM's sequential entropy rule: commit every position of low entropy, and always the lowest one.
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "decode/comparison.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"EntropyThreshold"};

constexpr ParamSpec kParams[] = {
    {.name = "entropy_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.5",
     .minimum = 0,
     .maximum = 100,
     .help = "commit positions whose entropy (nats) passes this"},
    kComparisonParam,
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

class EntropyThreshold final : public CappedBlockDecoding {
 public:
  EntropyThreshold(const DecodeRequest& request, const ParamValues& values)
      : CappedBlockDecoding(request, values),
        threshold_(static_cast<float>(values.number("entropy_threshold"))),
        comparison_(parse_comparison(values.choice("comparison"))) {}

 private:
  float score(const RowStats& row) const override { return row.entropy; }

  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::entropy_threshold(ranks.data(), static_cast<int32_t>(ranks.size()), threshold_, comparison_, chosen);
  }

  float threshold_;  // single precision like the entropies
  select::Comparison comparison_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<EntropyThreshold>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kEntropyThreshold = {
    .name = "entropy_threshold",
    .aliases = kAliases,
    .params = kParams,
    .summary = "commits every position whose entropy passes the threshold, at least one per step",
    .source = "d3LLM (arXiv 2601.07568), get_transfer_index_entropy",
    .begin = begin,
};

}  // namespace pydllm::decode
