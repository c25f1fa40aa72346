#include "models/llada2.h"

#include "models/decoder.h"

namespace pydllm {
namespace {

constexpr TensorNames kNames = {
    .embedding = "model.word_embeddings.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head",
    .layers = "model.layers.",
    .attention_norm = "input_layernorm.weight",
    .packed_qkv = "attention.query_key_value",
    .query_norm = "attention.query_layernorm.weight",
    .key_norm = "attention.key_layernorm.weight",
    .attention_out = "attention.dense",
    .ffn_norm = "post_attention_layernorm.weight",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
    .router = "mlp.gate",
    .router_bias = "mlp.gate.expert_bias",
    .experts = "mlp.experts.",
    .shared = "mlp.shared_experts.",
};

}  // namespace

std::unique_ptr<Model> make_llada2(const Context& context, const ModelConfig& config, Weights& weights) {
  return make_decoder(context, config, weights, kNames);
}

}  // namespace pydllm
