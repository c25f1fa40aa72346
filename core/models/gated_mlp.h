// down(silu(gate(x)) * up(x)): a feed-forward block or the shared expert of a mixture (Shazeer, 2020).
#pragma once

#include <cstdint>
#include <string>

#include "models/config.h"
#include "models/weights.h"
#include "models/work_buffer.h"
#include "ops/linear.h"
#include "tensor/context.h"

namespace pydllm {

// Work memory for blocks of one intermediate width F.
struct GatedBuffers {
  WorkBuffer gate_up;    // float32 [tokens, 2F]
  WorkBuffer activated;  // input type of linear [tokens, F]

  GatedBuffers(int64_t width, const ModelConfig& config, Device device);
};

class GatedMlp {
 public:
  GatedMlp() = default;
  // Full names without ".weight" and ".bias". Throws InvalidCheckpoint naming the tensor.
  GatedMlp(const Context& context, const ModelConfig& config, Weights& weights, const std::string& gate,
           const std::string& up, const std::string& down, Extent width);

  // y += the block's output. x input type of linear [tokens, H], y float32 [tokens, H].
  void add(const Context& context, const Tensor& x, GatedBuffers& buffers, Tensor& y) const;
  size_t nbytes() const { return gate_up_.nbytes() + down_.nbytes(); }

 private:
  ops::PackedWeight gate_up_;  // gate | up, [2F, H]
  ops::PackedWeight down_;     // [H, F]
};

}  // namespace pydllm
