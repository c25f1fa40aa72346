// d3LLM's sequential entropy rule: commit every position of low entropy, and always the lowest one.
#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"EntropyThreshold"};
constexpr std::string_view kComparisons[] = {"le", "lt"};

constexpr ParamSpec kParams[] = {
    {.name = "entropy_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.5",
     .minimum = 0,
     .maximum = 100,
     .help = "commit positions whose entropy (nats) passes this"},
    {.name = "comparison",
     .alias = "",
     .type = ParamType::kChoice,
     .default_value = "le",
     .choices = kComparisons,
     .help = "le: entropy <= threshold passes (LLaDA); lt: entropy < threshold (Dream)"},
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

select::Comparison parse_comparison(std::string_view name) {
  if (name == "le") return select::Comparison::kAtMost;
  if (name == "lt") return select::Comparison::kBelow;
  throw InternalError(format("comparison: unknown choice ", name));
}

class EntropyThreshold final : public BlockDecoding {
 public:
  EntropyThreshold(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, values),
        threshold_(static_cast<float>(values.number("entropy_threshold"))),
        comparison_(parse_comparison(values.choice("comparison"))),
        max_steps_(values.integer_or("max_steps_per_block", values.integer("block_length"))) {}

 private:
  float score(const RowStats& row) const override { return row.entropy; }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    if (last_allowed_step(walk(), max_steps_)) return select::all(rows, chosen);
    return select::entropy_threshold(ranks.data(), rows, threshold_, comparison_, chosen);
  }

  float threshold_;  // single precision like the entropies
  select::Comparison comparison_;
  int64_t max_steps_;
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
