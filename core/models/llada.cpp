#include "models/llada.h"

#include "models/decoder.h"

namespace pydllm {
namespace {

constexpr TensorNames kNames = {
    .embedding = "model.transformer.wte.weight",
    .final_norm = "model.transformer.ln_f.weight",
    .head = "model.transformer.ff_out",
    .layers = "model.transformer.blocks.",
    .attention_norm = "attn_norm.weight",
    .query = "q_proj",
    .key = "k_proj",
    .value = "v_proj",
    .attention_out = "attn_out",
    .ffn_norm = "ff_norm.weight",
    .gate = "ff_proj",
    .up = "up_proj",
    .down = "ff_out",
};

}  // namespace

std::unique_ptr<Model> make_llada(const Context& context, const ModelConfig& config, Weights& weights) {
  return make_decoder(context, config, weights, kNames);
}

}  // namespace pydllm
