// LLaDA's original sampler: a fixed number of steps per block, the most confident positions first.
#include <algorithm>
#include <vector>

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

// Forwards that have run when the first n blocks are done, for every n. The originals demand steps % blocks == 0;
// shares in proportion to what a block has to generate are the same numbers there and keep the total exact everywhere
// else. A block whose tokens are all fixed gets none, any other at least one.
std::vector<int64_t> forwards_by_block(const DecodeRequest& request, int64_t steps, int32_t block_length) {
  std::vector<int64_t> tokens = {0};
  int64_t blocks = 0;
  for (int64_t begin = 0; begin < request.max_tokens; begin += block_length) {
    const auto end = static_cast<int32_t>(std::min<int64_t>(begin + block_length, request.max_tokens));
    tokens.push_back(tokens.back() + tokens_to_generate(request, static_cast<int32_t>(begin), end));
    blocks += tokens.back() > tokens[tokens.size() - 2] ? 1 : 0;
  }
  if (steps < blocks) {
    throw InvalidRequest("diffusion.extra.steps",
                         format("steps: expected at least one per block (", blocks, " blocks), got ", steps));
  }
  std::vector<int64_t> due = {0};
  for (size_t block = 1; block < tokens.size(); ++block) {
    const bool works = tokens[block] > tokens[block - 1];
    blocks -= works ? 1 : 0;
    due.push_back(works ? std::clamp(steps * tokens[block] / tokens.back(), due.back() + 1, steps - blocks)
                        : due.back());
  }
  return due;
}

class LladaSchedule final : public BlockDecoding {
 public:
  LladaSchedule(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, values.integer("block_length"), parse_remasking(values.choice("remasking")),
                      parse_cache(values.choice("cache"))),
        due_(
            forwards_by_block(request, values.integer_or("steps", tokens_to_generate(request)), walk().block_length())),
        cfg_scale_(static_cast<float>(values.number("cfg_scale"))) {}

 private:
  int64_t forwards_due(int32_t end_offset) const override {
    const int32_t length = walk().block_length();
    return due_[static_cast<size_t>((end_offset + length - 1) / length)];
  }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    if (step() == 0) masks_at_entry_ = rows;
    const int64_t steps = forwards_due(walk().end_offset()) - forwards_due(walk().begin_offset());
    const int64_t n = select::scheduled_commits(masks_at_entry_, steps, step());
    return select::top_confidence(ranks.data(), rows, static_cast<int32_t>(n), chosen);
  }

  void extend(ForwardPlan& plan) const override {
    plan.guided = cfg_scale_ > 0;
    plan.guidance_scale = cfg_scale_;
  }

  std::vector<int64_t> due_;
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
