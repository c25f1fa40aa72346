// Hyper-parameters of a model, parsed strictly from config.json in Python and passed as a struct.
#pragma once

#include <cstdint>
#include <string>

#include "tensor/dtype.h"

namespace pydllm {

// A mixture of experts in place of the feed-forward block (core/ops/moe_router.h has the meaning of the router's
// fields).
struct MoeConfig {
  int32_t num_experts = 0;  // 0: there is none, the other fields mean nothing
  int32_t experts_per_token = 0;
  int32_t expert_intermediate_size = 0;
  int32_t shared_intermediate_size = 0;  // of the expert that every token goes to; 0: there is none
  int32_t dense_layers = 0;              // layers at the start that keep an ordinary feed-forward block
  std::string router_score = "softmax";  // or "sigmoid"
  bool router_bias = false;              // a bias for the choice
  bool router_normalize = false;
  double router_scale = 1.0;
  int32_t expert_groups = 1;
  int32_t expert_groups_kept = 1;
  int32_t expert_capacity = 0;  // experts that a block keeps; 0: no block routing
};

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
  bool qk_norm = false;         // an RMSNorm over each head of q and k, before rotation
  int32_t rotary_dim = 0;       // leading dimensions of a head that rotate; 0: all
  int32_t block_length = 0;     // of block-causal attention; 0: full attention
  MoeConfig moe;
  DType dtype = DType::kF32;  // compute and storage type of the packed weights
};

}  // namespace pydllm
