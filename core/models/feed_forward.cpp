#include "models/feed_forward.h"

#include "base/check.h"
#include "models/load_tensor.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace pydllm {

FeedForwardBuffers::FeedForwardBuffers(const ModelConfig& config, Device device)
    : normed(config.hidden_size, ops::linear_input_dtype(config.dtype), device),
      gate_up(int64_t{2} * config.intermediate_size, DType::kF32, device),
      activated(config.intermediate_size, ops::linear_input_dtype(config.dtype), device) {}

FeedForward::FeedForward(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
                         const std::string& prefix)
    : epsilon_(static_cast<float>(config.rms_norm_eps)) {
  const int64_t hidden = config.hidden_size, width = config.intermediate_size;
  const LinearPart gate_up[] = {{format(prefix, names.gate), width}, {format(prefix, names.up), width}};
  const LinearPart down[] = {{format(prefix, names.down), hidden}};
  norm_ = load_vector(weights, format(prefix, names.ffn_norm), hidden);
  gate_up_ = load_linear(context, weights, gate_up, hidden, config.dtype, config.linear_bias);
  down_ = load_linear(context, weights, down, width, config.dtype, config.linear_bias);
}

void FeedForward::forward(const Context& context, FeedForwardBuffers& buffers, Tensor& residual) const {
  const int64_t tokens = residual.size(0);
  Tensor normed = buffers.normed.rows(tokens);
  ops::rms_norm(context, residual, norm_, epsilon_, normed);
  Tensor gate_up = buffers.gate_up.rows(tokens);
  ops::linear(context, normed, gate_up_, gate_up);
  Tensor activated = buffers.activated.rows(tokens);
  ops::swiglu(context, gate_up, activated);
  ops::linear(context, activated, down_, residual, ops::LinearMode::kAccumulate);
}

int64_t FeedForward::nbytes() const {
  return static_cast<int64_t>(norm_.nbytes() + gate_up_.nbytes() + down_.nbytes());
}

}  // namespace pydllm
