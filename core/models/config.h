// Hyper-parameters of a model, parsed strictly from config.json in Python and passed as a struct.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace pydllm {

struct ModelConfig {
  std::string architecture;  // architectures[0] of config.json, the registry's key
  int32_t vocab_size = 0;    // rows of the embedding and of the output head
  int32_t hidden_size = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t intermediate_size = 0;
  int32_t max_positions = 0;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // biases on q, k, v
  bool linear_bias = false;     // biases on every other projection
  bool logit_shift = false;     // the logits of row i are about position i + 1
  DType dtype = DType::kF32;    // compute and storage type of the packed weights
};

}  // namespace pydllm
