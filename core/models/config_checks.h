// Ranges of a model's hyper-parameters, checked before a tensor is read.
#pragma once

#include "models/config.h"

namespace pydllm {

// Throws InvalidCheckpoint naming the field, what was expected and what came.
void check_config(const ModelConfig& config);

}  // namespace pydllm
