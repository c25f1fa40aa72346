// The second half of a decoder layer: one gated block, or a mixture of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "models/config.h"
#include "models/gated_mlp.h"
#include "models/model.h"
#include "models/tensor_names.h"
#include "models/weights.h"
#include "models/work_buffer.h"

namespace pydllm {

// Work memory that all layers of a model share. E experts, k of them for a token.
struct FeedForwardBuffers {
  WorkBuffer normed;  // input type of linear [tokens, H]
  GatedBuffers dense;
  GatedBuffers shared;
  WorkBuffer router_input;   // float32 [tokens, H]
  WorkBuffer router_logits;  // float32 [tokens, E]
  WorkBuffer choice;         // int32 [tokens, k]
  WorkBuffer weights;        // float32 [tokens, k]

  FeedForwardBuffers(const ModelConfig& config, Device device);
};

class FeedForward {
 public:
  virtual ~FeedForward() = default;
  // residual += the block's output for the normed residual, float32 [tokens, H].
  virtual void forward(const Context& context, const StepInput& input, FeedForwardBuffers& buffers,
                       Tensor& residual) const = 0;
  virtual int64_t nbytes() const = 0;
};

// `prefix` is the layer's. Throws InvalidCheckpoint naming the tensor.
std::unique_ptr<FeedForward> make_dense(const Context& context, const ModelConfig& config, Weights& weights,
                                        const TensorNames& names, const std::string& prefix);

}  // namespace pydllm
