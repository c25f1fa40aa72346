// RND1's entropy schedule: after every forward a fixed share stays masked, the positions of highest entropy.
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr ParamSpec kParams[] = {
    {.name = "num_steps",
     .alias = "steps",
     .type = ParamType::kInt,
     .default_value = "max_tokens",
     .minimum = 1,
     .maximum = 1e6,
     .help = "forward passes; fewer run when all tokens are committed before"},
};

class Rnd1Entropy final : public BlockDecoding {
 public:
  Rnd1Entropy(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, request.max_tokens, Remasking::kLowConfidence),
        steps_(values.integer_or("num_steps", tokens_to_generate(request))),
        tokens_(tokens_to_generate(request)) {}

 private:
  float score(const RowStats& row) const override { return row.entropy; }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    const int64_t kept_masked = tokens_ * (steps_ - 1 - int64_t{forward()}) / steps_;
    return select::lowest_entropy(ranks.data(), rows, static_cast<int32_t>(rows - kept_masked), chosen);
  }

  int64_t steps_;
  int64_t tokens_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<Rnd1Entropy>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kRnd1Entropy = {
    .name = "rnd1_entropy",
    .aliases = {},
    .params = kParams,
    .summary = "a fixed number of steps over the whole answer: the positions of highest entropy stay masked longest",
    .source = "RND1 (Radical Numerics), its diffusion sampler",
    .begin = begin,
};

}  // namespace pydllm::decode
