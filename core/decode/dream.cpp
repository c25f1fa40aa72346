// Dream's sampler: no blocks, a fixed number of steps in continuous time, positions chosen by one of four orders.
#include <cmath>

#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_decoding.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kOrders[] = {"entropy", "maskgit_plus", "topk_margin", "origin"};

constexpr ParamSpec kParams[] = {
    {.name = "order",
     .alias = "alg",
     .type = ParamType::kChoice,
     .default_value = "entropy",
     .choices = kOrders,
     .help = "commit by lowest entropy, highest probability, largest margin, or at random"},
    {.name = "steps",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "max_tokens",
     .minimum = 1,
     .maximum = 1e6,
     .help = "forward passes; the first ones may commit nothing"},
    {.name = "eps",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.001",
     .minimum = 0,
     .maximum = 1,
     .help = "the last time point of the grid that starts at 1"},
    {.name = "alg_temp",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0",
     .minimum = 0,
     .maximum = 1000,
     .help = "above 0 positions are drawn from a softmax of their scores at this temperature"},
};

enum class Order : uint8_t { kEntropy, kMaskgitPlus, kTopkMargin, kOrigin };

Order parse_order(std::string_view name) {
  for (size_t i = 0; i < std::size(kOrders); ++i) {
    if (kOrders[i] == name) return static_cast<Order>(i);
  }
  throw InternalError(format("order: unknown choice ", name));
}

// Point `index` of `steps` + 1 evenly spaced ones from 1 to eps, with the roundings of torch.linspace in single
// precision: from both ends, multiply and add fused. A step's number of tokens is cut to an integer, so the last bit
// matters.
float time_point(int64_t index, int64_t steps, float eps) {
  const float stride = (eps - 1) / static_cast<float>(steps);
  if (index < (steps + 1) / 2) return std::fma(stride, static_cast<float>(index), 1.0f);
  return std::fma(stride, static_cast<float>(index - steps), eps);
}

class Dream final : public BlockDecoding {
 public:
  Dream(const DecodeRequest& request, const ParamValues& values)
      : BlockDecoding(request, request.max_tokens, remasking_of(parse_order(values.choice("order")))),
        order_(parse_order(values.choice("order"))),
        steps_(values.integer_or("steps", tokens_to_generate(request))),
        eps_(static_cast<float>(values.number("eps"))),
        position_temperature_(values.number("alg_temp")) {}

 private:
  static Remasking remasking_of(Order order) {
    return order == Order::kOrigin ? Remasking::kRandom : Remasking::kLowConfidence;
  }

  void extend(ForwardPlan& plan) const override { plan.filtered = order_ != Order::kOrigin; }
  int64_t forwards_due(int32_t /*end_offset*/) const override { return steps_; }

  float score(const RowStats& row) const override {
    if (order_ == Order::kMaskgitPlus) return row.filtered.confidence;
    return order_ == Order::kTopkMargin ? row.filtered.margin : -row.filtered.entropy;
  }

  // The share of the masked positions that this forward commits.
  float share() const {
    const int64_t step = forward();
    if (step + 1 >= steps_) return 1;
    return 1 - time_point(step + 1, steps_, eps_) / time_point(step, steps_, eps_);
  }

  int32_t choose(std::span<const float> ranks, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(ranks.size());
    if (order_ == Order::kOrigin) return select::below(ranks.data(), rows, share(), chosen);
    const auto count = static_cast<int32_t>(static_cast<float>(rows) * share());
    const float* scores = position_temperature_ > 0 ? perturbed(ranks) : ranks.data();
    return select::top_confidence(scores, rows, count, chosen);
  }

  // The best n of score / T + Gumbel noise are n draws without replacement from softmax(score / T).
  const float* perturbed(std::span<const float> ranks) {
    perturbed_.clear();
    for (size_t row = 0; row < ranks.size(); ++row) {
      const double noise = -std::log(-std::log(static_cast<double>(uniform(row))));
      perturbed_.push_back(static_cast<float>(static_cast<double>(ranks[row]) / position_temperature_ + noise));
    }
    return perturbed_.data();
  }

  Order order_;
  int64_t steps_;
  float eps_;
  double position_temperature_;
  std::vector<float> perturbed_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<Dream>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kDream = {
    .name = "dream",
    .aliases = {},
    .params = kParams,
    .summary = "a fixed number of steps over the whole answer, each commits the share that a time grid gives",
    .source = "Dream (arXiv 2508.15487), generation_utils.py of its checkpoints",
    .begin = begin,
};

}  // namespace pydllm::decode
