// The transformer that every family here is a case of: pre-norm layers of rotary attention and gated feed-forward
// blocks over a float32 residual stream. What a family adds is in its config and its table of tensor names.
#pragma once

#include <memory>

#include "models/config.h"
#include "models/model.h"
#include "models/tensor_names.h"
#include "models/weights.h"

namespace pydllm {

// Throws InvalidCheckpoint naming the tensor that is missing, misshapen or no float type.
std::unique_ptr<Model> make_decoder(const Context& context, const ModelConfig& config, Weights& weights,
                                    const TensorNames& names);

}  // namespace pydllm
