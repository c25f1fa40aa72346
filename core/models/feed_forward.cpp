#include "models/feed_forward.h"

#include "base/check.h"
#include "models/load_tensor.h"
#include "ops/rms_norm.h"

namespace pydllm {
namespace {

class Dense final : public FeedForward {
 public:
  Dense(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
        const std::string& prefix)
      : epsilon_(static_cast<float>(config.rms_norm_eps)),
        norm_(load_vector(context, weights, format(prefix, names.ffn_norm), hidden_of(config))),
        mlp_(context, config, weights, format(prefix, names.gate), format(prefix, names.up), format(prefix, names.down),
             {config.intermediate_size, "intermediate_size"}) {}

  void forward(const Context& context, const StepInput&, FeedForwardBuffers& buffers, Tensor& residual) const override {
    Tensor normed = buffers.normed.rows(residual.size(0));
    ops::rms_norm(context, residual, norm_, epsilon_, normed);
    mlp_.add(context, normed, buffers.dense, residual);
  }
  int64_t nbytes() const override { return static_cast<int64_t>(norm_.nbytes() + mlp_.nbytes()); }

 private:
  float epsilon_;
  Tensor norm_;  // float32 [H]
  GatedMlp mlp_;
};

}  // namespace

FeedForwardBuffers::FeedForwardBuffers(const ModelConfig& config, Device device)
    : normed(config.hidden_size, ops::linear_input_dtype(config.dtype), device),
      dense(config.intermediate_size, config, device),
      shared(config.moe.shared_intermediate_size, config, device),
      router_input(config.hidden_size, DType::kF32, device),
      router_logits(config.moe.num_experts, DType::kF32, device),
      choice(config.moe.experts_per_token, DType::kI32, device),
      weights(config.moe.experts_per_token, DType::kF32, device) {}

std::unique_ptr<FeedForward> make_dense(const Context& context, const ModelConfig& config, Weights& weights,
                                        const TensorNames& names, const std::string& prefix) {
  return std::make_unique<Dense>(context, config, weights, names, prefix);
}

}  // namespace pydllm
