#include "models/moe_feed_forward.h"

#include <utility>
#include <vector>

#include "base/check.h"
#include "models/load_tensor.h"
#include "ops/expert_ffn.h"
#include "ops/moe_router.h"
#include "ops/rms_norm.h"

namespace pydllm {
namespace {

Extent width_of(const ModelConfig& config) {
  return {config.moe.expert_intermediate_size, "moe.expert_intermediate_size"};
}
Extent experts_of(const ModelConfig& config) {
  return {config.moe.num_experts, "moe.num_experts"};
}

ops::Expert load_expert(const Context& context, const ModelConfig& config, Weights& weights, const std::string& at) {
  const Extent hidden = hidden_of(config), width = width_of(config);
  const LinearPart gate_up[] = {{at + "gate_proj", width}, {at + "up_proj", width}};
  const LinearPart down[] = {{at + "down_proj", hidden}};
  return {load_linear(context, weights, gate_up, hidden, config.dtype, false),
          load_linear(context, weights, down, width, config.dtype, false)};
}

// Expert `index` of a stacked tensor.
Tensor slice(const Tensor& stacked, int64_t index) {
  return stacked.rows(index, 1).view({stacked.size(1), stacked.size(2)});
}

std::vector<ops::Expert> load_stacked(const Context& context, const ModelConfig& config, Weights& weights,
                                      const std::string& at) {
  const Extent count = experts_of(config), hidden = hidden_of(config), width = width_of(config);
  const auto taken = [&](const char* name, const std::vector<Extent>& shape) {
    return packable(context, weights.take(at + name, shape), config.dtype);
  };
  const Tensor gate = taken("gate_proj", {count, width, hidden});
  const Tensor up = taken("up_proj", {count, width, hidden});
  const Tensor down = taken("down_proj", {count, hidden, width});
  std::vector<ops::Expert> experts;
  for (int64_t e = 0; e < count.size; ++e) {
    const Tensor both[] = {slice(gate, e), slice(up, e)}, out[] = {slice(down, e)};
    experts.push_back(
        {ops::PackedWeight::pack(context, both, config.dtype), ops::PackedWeight::pack(context, out, config.dtype)});
  }
  for (const char* name : {"gate_proj", "up_proj", "down_proj"}) weights.done(at + name);
  return experts;
}

std::vector<ops::Expert> load_experts(const Context& context, const ModelConfig& config, Weights& weights,
                                      const std::string& at) {
  if (weights.contains(at + "gate_proj")) return load_stacked(context, config, weights, at);
  std::vector<ops::Expert> experts;
  for (int32_t e = 0; e < config.moe.num_experts; ++e) {
    experts.push_back(load_expert(context, config, weights, format(at, e, ".")));
  }
  return experts;
}

ops::RouterRule rule_of(const ModelConfig& config) {
  const MoeConfig& moe = config.moe;
  return {.score = moe.router_score == "sigmoid" ? ops::RouterScore::kSigmoid : ops::RouterScore::kSoftmax,
          .experts_per_token = moe.experts_per_token,
          .normalize = moe.router_normalize,
          .scale = static_cast<float>(moe.router_scale),
          .groups = moe.expert_groups,
          .groups_kept = moe.expert_groups_kept,
          .block_capacity = moe.expert_capacity,
          .block_length = config.block_length};
}

class Mixture final : public FeedForward {
 public:
  Mixture(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
          const std::string& prefix);
  void forward(const Context& context, const StepInput& input, FeedForwardBuffers& buffers,
               Tensor& residual) const override;
  int64_t nbytes() const override;

 private:
  Tensor router_input(const Context& context, const Tensor& residual, const Tensor& normed,
                      FeedForwardBuffers& buffers) const;

  float epsilon_;
  ops::RouterRule rule_;
  Tensor norm_;               // float32 [H]
  ops::PackedWeight router_;  // float32 [E, H]
  Tensor bias_;               // float32 [E], undefined without one
  std::vector<ops::Expert> experts_;
  bool has_shared_;
  GatedMlp shared_;
};

Mixture::Mixture(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
                 const std::string& prefix)
    : epsilon_(static_cast<float>(config.rms_norm_eps)),
      rule_(rule_of(config)),
      has_shared_(config.moe.shared_intermediate_size > 0) {
  const LinearPart router[] = {{format(prefix, names.router), experts_of(config)}};
  norm_ = load_vector(context, weights, format(prefix, names.ffn_norm), hidden_of(config));
  router_ = load_linear(context, weights, router, hidden_of(config), DType::kF32, false);
  if (config.moe.router_bias)
    bias_ = load_vector(context, weights, format(prefix, names.router_bias), experts_of(config));
  experts_ = ops::arranged(context, load_experts(context, config, weights, format(prefix, names.experts)));
  if (has_shared_) {
    const std::string at = format(prefix, names.shared);
    shared_ = GatedMlp(context, config, weights, at + "gate_proj", at + "up_proj", at + "down_proj",
                       {config.moe.shared_intermediate_size, "moe.shared_intermediate_size"});
  }
}

// The router reads float32: an expert is a choice, and a rounded input would make another one.
Tensor Mixture::router_input(const Context& context, const Tensor& residual, const Tensor& normed,
                             FeedForwardBuffers& buffers) const {
  if (normed.dtype() == DType::kF32) return normed;
  Tensor exact = buffers.router_input.rows(residual.size(0));
  ops::rms_norm(context, residual, norm_, epsilon_, exact);
  return exact;
}

void Mixture::forward(const Context& context, const StepInput& input, FeedForwardBuffers& buffers,
                      Tensor& residual) const {
  const int64_t tokens = residual.size(0);
  Tensor normed = buffers.normed.rows(tokens);
  ops::rms_norm(context, residual, norm_, epsilon_, normed);
  Tensor logits = buffers.router_logits.rows(tokens);
  ops::linear(context, router_input(context, residual, normed, buffers), router_, logits);
  Tensor choice = buffers.choice.rows(tokens), weights = buffers.weights.rows(tokens);
  ops::route(context, logits, bias_, rule_, input.sequences, choice, weights);
  ops::expert_ffn(context, normed, choice, weights, experts_, residual);
  if (has_shared_) shared_.add(context, normed, buffers.shared, residual);
}

int64_t Mixture::nbytes() const {
  size_t total = norm_.nbytes() + router_.nbytes() + bias_.nbytes() + shared_.nbytes();
  for (const ops::Expert& expert : experts_) total += expert.gate_up.nbytes() + expert.down.nbytes();
  return static_cast<int64_t>(total);
}

}  // namespace

std::unique_ptr<FeedForward> make_moe(const Context& context, const ModelConfig& config, Weights& weights,
                                      const TensorNames& names, const std::string& prefix) {
  return std::make_unique<Mixture>(context, config, weights, names, prefix);
}

}  // namespace pydllm
