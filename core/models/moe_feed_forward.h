// A mixture of experts as the second half of a decoder layer.
#pragma once

#include <memory>
#include <string>

#include "models/feed_forward.h"

namespace pydllm {

// Reads experts that are stored one by one (experts.N.gate_proj.weight [F, H]) or stacked (experts.gate_proj [E, F, H],
// experts.down_proj [E, H, F]). `prefix` is the layer's. Throws InvalidCheckpoint naming the tensor.
std::unique_ptr<FeedForward> make_moe(const Context& context, const ModelConfig& config, Weights& weights,
                                      const TensorNames& names, const std::string& prefix);

}  // namespace pydllm
