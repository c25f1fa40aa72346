// SDAR's block diffusion: a schedule over the block, taken in one of three orders.
#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kOrders[] = {"dynamic", "static", "sequential"};

constexpr ParamSpec kParams[] = {
    {.name = "order",
     .alias = "",
     .type = ParamType::kChoice,
     .default_value = "dynamic",
     .choices = kOrders,
     .help = "dynamic: all above the threshold, at least the step's share; static: the share, most confident first; "
             "sequential: the share from the left"},
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.85",
     .minimum = 0,
     .maximum = 1,
     .help = "order dynamic: commit positions whose token has more than this probability"},
    {.name = "steps_per_block",
     .alias = "denoising_steps",
     .type = ParamType::kInt,
     .default_value = "block_length",
     .minimum = 1,
     .maximum = 1e6,
     .help = "the block's positions are shared out over this many steps"},
};

enum class Order : uint8_t { kDynamic, kStatic, kSequential };

Order parse_order(std::string_view name) {
  if (name == "dynamic") return Order::kDynamic;
  if (name == "static") return Order::kStatic;
  if (name == "sequential") return Order::kSequential;
  throw InternalError(format("order: unknown choice ", name));
}

class Sdar final : public BlockCausalChoice {
 public:
  Sdar(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalChoice(request),
        order_(parse_order(values.choice("order"))),
        threshold_(static_cast<float>(values.number("confidence_threshold"))),
        steps_(values.integer_or("steps_per_block", request.block_length)) {}

 private:
  // The schedule is over the whole block, also where the prompt holds a part of it: such a block takes fewer steps. Its
  // shares add up to the block, so the last step finds nothing masked behind it.
  int32_t choose(std::span<const float> confidences, int32_t* chosen) override {
    const auto rows = static_cast<int32_t>(confidences.size());
    const auto share = static_cast<int32_t>(select::scheduled_commits(block_length(), steps_, step()));
    switch (order_) {
      case Order::kDynamic:
        return select::confident_or_top(confidences.data(), rows, threshold_, share, chosen);
      case Order::kStatic:
        return select::top_confidence(confidences.data(), rows, share, chosen);
      case Order::kSequential:
        return select::leftmost(rows, share, chosen);
    }
    throw InternalError("order: unknown");
  }

  Order order_;
  float threshold_;  // single precision like the confidences
  int64_t steps_;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<Sdar>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kSdar = {
    .name = "sdar",
    .aliases = {},
    .params = kParams,
    .summary = "block by block in a given number of steps; confident blocks finish earlier",
    .source = "SDAR (arXiv 2510.06303), JetAstra/SDAR generate.py",
    .attention = AttentionKind::kBlockCausal,
    .begin = begin,
};

}  // namespace pydllm::decode
