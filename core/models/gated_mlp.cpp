#include "models/gated_mlp.h"

#include "models/load_tensor.h"
#include "ops/swiglu.h"

namespace pydllm {

GatedBuffers::GatedBuffers(int64_t width, const ModelConfig& config, Device device)
    : gate_up(2 * width, DType::kF32, device), activated(width, ops::linear_input_dtype(config.dtype), device) {}

GatedMlp::GatedMlp(const Context& context, const ModelConfig& config, Weights& weights, const std::string& gate,
                   const std::string& up, const std::string& down, Extent width) {
  const LinearPart both[] = {{gate, width}, {up, width}};
  const LinearPart out[] = {{down, hidden_of(config)}};
  gate_up_ = load_linear(context, weights, both, hidden_of(config), config.dtype, config.linear_bias);
  down_ = load_linear(context, weights, out, width, config.dtype, config.linear_bias);
}

void GatedMlp::add(const Context& context, const Tensor& x, GatedBuffers& buffers, Tensor& y) const {
  Tensor gate_up = buffers.gate_up.rows(x.size(0));
  ops::linear(context, x, gate_up_, gate_up);
  Tensor activated = buffers.activated.rows(x.size(0));
  ops::swiglu(context, gate_up, activated);
  ops::linear(context, activated, down_, y, ops::LinearMode::kAccumulate);
}

}  // namespace pydllm
