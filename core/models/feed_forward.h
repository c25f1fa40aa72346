// The gated feed-forward half of a decoder layer (Shazeer, 2020).
#pragma once

#include <cstdint>
#include <string>

#include "models/config.h"
#include "models/tensor_names.h"
#include "models/weights.h"
#include "models/work_buffer.h"
#include "ops/linear.h"
#include "tensor/context.h"

namespace pydllm {

// Work memory that all layers of a model share. F: intermediate_size.
struct FeedForwardBuffers {
  WorkBuffer normed;     // input type of linear [tokens, H]
  WorkBuffer gate_up;    // float32 [tokens, 2F]
  WorkBuffer activated;  // input type of linear [tokens, F]

  FeedForwardBuffers(const ModelConfig& config, Device device);
};

class FeedForward {
 public:
  // `prefix` is the layer's. Throws InvalidCheckpoint naming the tensor.
  FeedForward(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
              const std::string& prefix);

  // residual += down(silu(gate(x)) * up(x)) with x the normed residual, float32 [tokens, H].
  void forward(const Context& context, FeedForwardBuffers& buffers, Tensor& residual) const;
  int64_t nbytes() const;

 private:
  float epsilon_;
  Tensor norm_;                // float32 [H]
  ops::PackedWeight gate_up_;  // gate | up, [2F, H]
  ops::PackedWeight down_;     // [H, F]
};

}  // namespace pydllm
