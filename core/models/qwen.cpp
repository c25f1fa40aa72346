#include "models/qwen.h"

#include "models/decoder.h"

namespace pydllm {
namespace {

constexpr TensorNames kNames = {
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .head = "lm_head",
    .layers = "model.layers.",
    .attention_norm = "input_layernorm.weight",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .query_norm = "self_attn.q_norm.weight",
    .key_norm = "self_attn.k_norm.weight",
    .attention_out = "self_attn.o_proj",
    .ffn_norm = "post_attention_layernorm.weight",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
    .router = "mlp.gate",
    .experts = "mlp.experts.",
};

}  // namespace

std::unique_ptr<Model> make_qwen(const Context& context, const ModelConfig& config, Weights& weights) {
  return make_decoder(context, config, weights, kNames);
}

}  // namespace pydllm
