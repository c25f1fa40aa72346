// LLaDA2.0, 2.1 and 2.2 (mini and flash): block-causal mixtures of experts with packed q, k, v.
#pragma once

#include <memory>

#include "models/config.h"
#include "models/model.h"
#include "models/weights.h"

namespace pydllm {

// Throws InvalidCheckpoint naming the tensor that is missing, misshapen or no float type.
std::unique_ptr<Model> make_llada2(const Context& context, const ModelConfig& config, Weights& weights);

}  // namespace pydllm
