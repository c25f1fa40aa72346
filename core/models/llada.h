// LLaDA: a bidirectional LLaMA-style transformer (Nie et al., 2025; LLaDA-8B, LLaDA-1.5, d3LLM-LLaDA).
#pragma once

#include <memory>

#include "models/config.h"
#include "models/model.h"
#include "models/weights.h"

namespace pydllm {

// Throws InvalidCheckpoint naming the tensor that is missing, misshapen or no float type.
std::unique_ptr<Model> make_llada(const Context& context, const ModelConfig& config, Weights& weights);

}  // namespace pydllm
