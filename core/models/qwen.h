// Families with the tensor names that Llama gave and Qwen2 and Qwen3 kept: Dream (Ye et al., 2025) and its descendants
// (Dream-Coder, DiffuCoder, d3LLM-Dream), Fast-dLLM v2 (biases on q, k, v); SDAR, SDAR-MoE, RND1 and LLaDA-MoE (norms
// on the heads of q and k); Stable-DiffCoder (neither).
#pragma once

#include <memory>

#include "models/config.h"
#include "models/model.h"
#include "models/weights.h"

namespace pydllm {

// Throws InvalidCheckpoint naming the tensor that is missing, misshapen or no float type.
std::unique_ptr<Model> make_qwen(const Context& context, const ModelConfig& config, Weights& weights);

}  // namespace pydllm
