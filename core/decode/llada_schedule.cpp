// LLaDA's original sampler: a fixed number of steps per block, the most confident positions first.
#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr ParamSpec kParams[] = {
    {.name = "steps",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "max_tokens",
     .minimum = 1,
     .maximum = 1e6,
     .help = "forward passes over all blocks; at least one per block"},
    kBlockLengthParam,
    kRemaskingParam,
    kCacheParam,
    {.name = "cfg_scale",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0",
     .minimum = 0,
     .maximum = 1000,
     .help = "classifier-free guidance; above 0 every step costs two forwards"},
};

class LladaSchedule final : public BlockDecoding {
 public:
  LladaSchedule(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, values.integer("block_length"), parse_remasking(values.choice("remasking")),
                      parse_cache(values.choice("cache"))),
        steps_(values.integer_or("steps", request.max_tokens)),
        max_tokens_(request.max_tokens),
        cfg_scale_(static_cast<float>(values.number("cfg_scale"))) {
    if (steps_ < walk().count()) {
      throw InvalidRequest("diffusion.extra.steps", format("steps: expected at least one per block (", walk().count(),
                                                           " blocks), got ", steps_));
    }
  }

 private:
  // The originals demand steps % blocks == 0; a proportional share is the same number there and keeps the total exact
  // everywhere else.
  int64_t forwards_due(int32_t end_offset) const override { return steps_ * end_offset / max_tokens_; }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    if (walk().step() == 0) masks_at_entry_ = rows;
    const int64_t steps = forwards_due(walk().end_offset()) - forwards_due(walk().begin_offset());
    const int64_t n = select::scheduled_commits(masks_at_entry_, steps, walk().step());
    return select::top_confidence(ranks.data(), rows, static_cast<int32_t>(n), chosen);
  }

  void extend(ForwardPlan& plan) const override {
    plan.guided = cfg_scale_ > 0;
    plan.guidance_scale = cfg_scale_;
  }

  int64_t steps_;
  int64_t max_tokens_;
  float cfg_scale_;
  int32_t masks_at_entry_ = 0;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<LladaSchedule>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kLladaSchedule = {
    .name = "llada_schedule",
    .aliases = {},
    .params = kParams,
    .summary = "a fixed number of steps: each commits its share of the block's masks, most confident first",
    .source = "LLaDA (arXiv 2502.09992), ML-GSAI/LLaDA generate.py",
    .begin = begin,
};

}  // namespace pydllm::decode
