#include "models/llada.h"

#include <cmath>
#include <string>
#include <vector>

#include "models/load_tensor.h"
#include "models/work_buffer.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace pydllm {
namespace {

// Sizes the forward repeats: hidden H, query width Q = num_heads * head_dim, key width K = num_kv_heads * head_dim,
// intermediate F, vocabulary V.
struct Sizes {
  int64_t hidden, query, key, intermediate, vocab;

  explicit Sizes(const ModelConfig& c)
      : hidden(c.hidden_size),
        query(int64_t{c.num_heads} * c.head_dim),
        key(int64_t{c.num_kv_heads} * c.head_dim),
        intermediate(c.intermediate_size),
        vocab(c.vocab_size) {}
  int64_t qkv() const { return query + 2 * key; }
};

struct Layer {
  Tensor attn_norm;            // float32 [H]
  ops::PackedWeight qkv;       // q_proj | k_proj | v_proj, [Q + 2K, H]
  ops::PackedWeight attn_out;  // [H, Q]
  Tensor ff_norm;              // float32 [H]
  ops::PackedWeight gate_up;   // ff_proj (gate) | up_proj, [2F, H]
  ops::PackedWeight ff_out;    // [H, F]

  int64_t nbytes() const {
    return static_cast<int64_t>(attn_norm.nbytes() + qkv.nbytes() + attn_out.nbytes() + ff_norm.nbytes() +
                                gate_up.nbytes() + ff_out.nbytes());
  }
};

Layer load_layer(const Context& context, const ModelConfig& config, Weights& weights, int32_t index) {
  const Sizes n(config);
  const std::string at = format("model.transformer.blocks.", index, ".");
  const LinearPart qkv[] = {{at + "q_proj", n.query}, {at + "k_proj", n.key}, {at + "v_proj", n.key}};
  const LinearPart attn_out[] = {{at + "attn_out", n.hidden}};
  const LinearPart gate_up[] = {{at + "ff_proj", n.intermediate}, {at + "up_proj", n.intermediate}};
  const LinearPart ff_out[] = {{at + "ff_out", n.hidden}};
  const bool bias = config.linear_bias;

  Layer layer;
  layer.attn_norm = load_vector(weights, at + "attn_norm.weight", n.hidden);
  layer.qkv = load_linear(context, weights, qkv, n.hidden, config.dtype, config.attention_bias);
  layer.attn_out = load_linear(context, weights, attn_out, n.query, config.dtype, bias);
  layer.ff_norm = load_vector(weights, at + "ff_norm.weight", n.hidden);
  layer.gate_up = load_linear(context, weights, gate_up, n.hidden, config.dtype, bias);
  layer.ff_out = load_linear(context, weights, ff_out, n.intermediate, config.dtype, bias);
  return layer;
}

// A tied head is the embedding; it has no bias then, even when the other projections do.
ops::PackedWeight load_head(const Context& context, const ModelConfig& config, Weights& weights, const Tensor& table) {
  if (config.tie_word_embeddings) return ops::PackedWeight::pack(context, std::span(&table, 1), config.dtype);
  const LinearPart head[] = {{"model.transformer.ff_out", config.vocab_size}};
  return load_linear(context, weights, head, config.hidden_size, config.dtype, config.linear_bias);
}

class Llada final : public Model {
 public:
  Llada(const Context& context, const ModelConfig& config, Weights& weights);

  const ModelInfo& info() const override { return info_; }
  Tensor forward(const Context& context, const StepInput& input, KvCache& cache) override;
  void logits(const Context& context, const Tensor& hidden, Tensor& out) override;

 private:
  void attend(const Context& context, const Layer& layer, const StepInput& input, ops::KvLayer kv, Tensor& residual);
  void feed_forward(const Context& context, const Layer& layer, Tensor& residual);
  void describe(const Weights& weights);

  ModelConfig config_;
  Sizes n_;
  float epsilon_;
  ModelInfo info_;

  Tensor embedding_;  // dtype [V, H]
  std::vector<Layer> layers_;
  Tensor final_norm_;       // float32 [H]
  ops::PackedWeight head_;  // [V, H]
  ops::RopeTable rope_;

  WorkBuffer residual_;   // float32 [tokens, H]
  WorkBuffer normed_;     // input type of linear [tokens, H]
  WorkBuffer qkv_;        // float32 [tokens, Q + 2K]
  WorkBuffer attended_;   // input type of linear [tokens, Q]
  WorkBuffer gate_up_;    // float32 [tokens, 2F]
  WorkBuffer activated_;  // input type of linear [tokens, F]
  WorkBuffer final_;      // input type of linear [rows, H]
};

Llada::Llada(const Context& context, const ModelConfig& config, Weights& weights)
    : config_(config),
      n_(config),
      epsilon_(static_cast<float>(config.rms_norm_eps)),
      residual_(n_.hidden, DType::kF32, context.device),
      normed_(n_.hidden, ops::linear_input_dtype(config.dtype), context.device),
      qkv_(n_.qkv(), DType::kF32, context.device),
      attended_(n_.query, ops::linear_input_dtype(config.dtype), context.device),
      gate_up_(2 * n_.intermediate, DType::kF32, context.device),
      activated_(n_.intermediate, ops::linear_input_dtype(config.dtype), context.device),
      final_(n_.hidden, ops::linear_input_dtype(config.dtype), context.device) {
  embedding_ = load_matrix(context, weights, "model.transformer.wte.weight", n_.vocab, n_.hidden, config.dtype);
  for (int32_t i = 0; i < config.num_layers; ++i) layers_.push_back(load_layer(context, config, weights, i));
  final_norm_ = load_vector(weights, "model.transformer.ln_f.weight", n_.hidden);
  head_ = load_head(context, config, weights, embedding_);
  rope_ = ops::make_rope_table(config.max_positions, config.head_dim, config.rope_theta);
  describe(weights);
}

void Llada::describe(const Weights& weights) {
  info_.architecture = config_.architecture;
  info_.vocab_size = config_.vocab_size;
  info_.hidden_size = config_.hidden_size;
  info_.max_positions = config_.max_positions;
  info_.parameter_count = weights.taken_elements();
  info_.weight_bytes = static_cast<int64_t>(embedding_.nbytes() + final_norm_.nbytes() + head_.nbytes());
  for (const Layer& layer : layers_) info_.weight_bytes += layer.nbytes();
  info_.weight_dtype = config_.dtype;
  info_.hidden_dtype = ops::linear_input_dtype(config_.dtype);
  info_.kv_layers = config_.num_layers;
  info_.kv_heads = config_.num_kv_heads;
  info_.head_dim = config_.head_dim;
  info_.kv_dtype = config_.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

Tensor Llada::forward(const Context& context, const StepInput& input, KvCache& cache) {
  Tensor residual = residual_.rows(input.tokens.numel());
  ops::embedding(context, input.tokens, embedding_, residual);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    attend(context, layers_[i], input, {cache.keys(index), cache.values(index)}, residual);
    feed_forward(context, layers_[i], residual);
  }
  Tensor out = final_.rows(input.hidden_rows.numel());
  ops::rms_norm_rows(context, residual, input.hidden_rows, final_norm_, epsilon_, out);
  return out;
}

// residual += attn_out(attention(rope(q), rope(k), v)), every token seeing its whole sequence.
void Llada::attend(const Context& context, const Layer& layer, const StepInput& input, ops::KvLayer kv,
                   Tensor& residual) {
  const int64_t tokens = residual.size(0);
  Tensor normed = normed_.rows(tokens);
  ops::rms_norm(context, residual, layer.attn_norm, epsilon_, normed);
  Tensor qkv = qkv_.rows(tokens);
  ops::linear(context, normed, layer.qkv, qkv);

  const int64_t key_column = n_.query, value_column = n_.query + n_.key;
  ops::rope(context, qkv, 0, config_.num_heads, config_.head_dim, input.positions, rope_);
  ops::rope(context, qkv, key_column, config_.num_kv_heads, config_.head_dim, input.positions, rope_);
  ops::store_kv(context, qkv, key_column, value_column, input.slots, kv);

  Tensor attended = attended_.rows(tokens);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
  ops::attention(context, qkv, 0, config_.num_heads, kv, input.sequences, scale, attended);
  ops::linear(context, attended, layer.attn_out, residual, ops::LinearMode::kAccumulate);
}

// residual += ff_out(silu(ff_proj(x)) * up_proj(x))
void Llada::feed_forward(const Context& context, const Layer& layer, Tensor& residual) {
  const int64_t tokens = residual.size(0);
  Tensor normed = normed_.rows(tokens);
  ops::rms_norm(context, residual, layer.ff_norm, epsilon_, normed);
  Tensor gate_up = gate_up_.rows(tokens);
  ops::linear(context, normed, layer.gate_up, gate_up);
  Tensor activated = activated_.rows(tokens);
  ops::swiglu(context, gate_up, activated);
  ops::linear(context, activated, layer.ff_out, residual, ops::LinearMode::kAccumulate);
}

void Llada::logits(const Context& context, const Tensor& hidden, Tensor& out) {
  ops::linear(context, hidden, head_, out);
}

}  // namespace

std::unique_ptr<Model> make_llada(const Context& context, const ModelConfig& config, Weights& weights) {
  return std::make_unique<Llada>(context, config, weights);
}

}  // namespace pydllm
