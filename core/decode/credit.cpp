// dInfer's credit decoding: what a position predicted in earlier steps counts, so that a token the model keeps coming
// back to passes the threshold sooner.
#include <algorithm>
#include <cmath>
#include <map>

#include "decode/algorithms.h"
#include "decode/either_walk.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr float kSlack = 1e-5f;  // of the original, as in near_max

constexpr std::string_view kAliases[] = {"dinfer_credit"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "commit positions whose token has at least this probability once its credit counts"},
    {.name = "credit_alpha",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.7",
     .minimum = 0,
     .maximum = 100,
     .help = "a token of credit C has credit_alpha * ln(C + 1) added to its logit; 0 is near_max"},
    {.name = "boost_gamma",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.2",
     .minimum = 0,
     .maximum = 100,
     .help = "a step gives a position's most probable token p^boost_gamma of credit"},
    {.name = "decay_beta",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.8",
     .minimum = 0,
     .maximum = 1,
     .help = "the share of its credit that a token keeps from step to step"},
    kBlockLengthParam,
    kMaxStepsPerBlockParam,
    kRemaskingParam,
    kCacheParam,
};

struct TokenCredit {
  int32_t id = 0;
  float credit = 0;
};

template <class Walk>
class Credit final : public Walk {
 public:
  Credit(const DecodeRequest& request, const ParamValues& values)
      : Walk(request, values),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        alpha_(static_cast<float>(values.number("credit_alpha"))),
        gamma_(static_cast<float>(values.number("boost_gamma"))),
        beta_(static_cast<float>(values.number("decay_beta"))) {}

  // Credit comes from the model's own statistics and counts in the same step.
  void reconsider(size_t row, const RowStats& stats, std::vector<LogitEdit>& edits) override {
    std::vector<TokenCredit>& credits = credits_[this->positions()[row]];
    for (TokenCredit& token : credits) token.credit *= beta_;
    auto best = std::ranges::lower_bound(credits, stats.top1, {}, &TokenCredit::id);
    if (best == credits.end() || best->id != stats.top1) best = credits.insert(best, {.id = stats.top1});
    best->credit += std::pow(stats.top1_probability, gamma_);
    for (const auto& [id, credit] : credits) edits.push_back({.id = id, .bias = alpha_ * std::log(credit + 1)});
  }

 private:
  void extend(ForwardPlan& plan) const override { plan.reconsidered = true; }

  int32_t take(std::span<const float> ranks, int32_t* chosen) const override {
    return select::near_maximum(ranks.data(), static_cast<int32_t>(ranks.size()), threshold_, kSlack, chosen);
  }

  void settle(Canvas& canvas) override {
    std::erase_if(credits_, [&](const auto& entry) { return !canvas.masked(entry.first); });
  }

  float threshold_;  // single precision like the confidences
  float alpha_;
  float gamma_;
  float beta_;
  // Of masked positions: every token that was the most probable one in some step, ascending ids.
  std::map<int32_t, std::vector<TokenCredit>> credits_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return begin_on_walk<Credit>(request, kParams);
}

}  // namespace

constinit const Algorithm kCredit = {
    .name = "credit",
    .aliases = kAliases,
    .params = kParams,
    .summary = "near_max on logits to which each position's earlier predictions add, with decay",
    .source = "dInfer (arXiv 2510.08666), CreditThreshold decoder",
    .attention = kEitherAttention,
    .begin = begin,
};

}  // namespace pydllm::decode
