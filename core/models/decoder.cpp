#include "models/decoder.h"

#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "models/attention_block.h"
#include "models/feed_forward.h"
#include "models/load_tensor.h"
#include "models/moe_feed_forward.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"
#include "tensor/copy.h"

namespace pydllm {
namespace {

struct Layer {
  AttentionBlock attention;
  std::unique_ptr<FeedForward> feed_forward;

  int64_t nbytes() const { return attention.nbytes() + feed_forward->nbytes(); }
};

Layer load_layer(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
                 int32_t index) {
  const std::string prefix = format(names.layers, index, ".");
  const bool dense = config.moe.num_experts == 0 || index < config.moe.dense_layers;
  AttentionBlock attention(context, config, weights, names, prefix);
  return {std::move(attention), dense ? make_dense(context, config, weights, names, prefix)
                                      : make_moe(context, config, weights, names, prefix)};
}

Extent vocab_of(const ModelConfig& config) {
  return {config.vocab_size, "vocab_size"};
}

// A tied head is the embedding; it has no bias then, even when the other projections do.
ops::PackedWeight load_head(const Context& context, const ModelConfig& config, Weights& weights,
                            const TensorNames& names, const Tensor& table) {
  if (config.tie_word_embeddings) return ops::PackedWeight::pack(context, std::span(&table, 1), config.dtype);
  const LinearPart head[] = {{std::string(names.head), vocab_of(config)}};
  return load_linear(context, weights, head, hidden_of(config), config.dtype, config.linear_bias);
}

class Decoder final : public Model {
 public:
  Decoder(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names);

  const ModelInfo& info() const override { return info_; }
  Tensor forward(const Context& context, const StepInput& input, KvCache& cache) override;
  void logits(const Context& context, const Tensor& hidden, Tensor& out) override;

 private:
  void describe(const Context& context, const ModelConfig& config, const Weights& weights);

  float epsilon_;
  int32_t num_heads_;
  ModelInfo info_;

  Tensor embedding_;  // dtype [V, H]
  std::vector<Layer> layers_;
  Tensor final_norm_;       // float32 [H]
  ops::PackedWeight head_;  // [V, H]
  ops::RopeTable rope_;

  WorkBuffer residual_;  // float32 [tokens, H]
  AttentionBuffers attention_buffers_;
  FeedForwardBuffers feed_forward_buffers_;
  WorkBuffer final_;  // input type of linear [rows, H]
};

Decoder::Decoder(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names)
    : epsilon_(static_cast<float>(config.rms_norm_eps)),
      num_heads_(config.num_heads),
      residual_(config.hidden_size, DType::kF32, context.device),
      attention_buffers_(config, context.device),
      feed_forward_buffers_(config, context.device),
      final_(config.hidden_size, ops::linear_input_dtype(config.dtype), context.device) {
  embedding_ =
      load_matrix(context, weights, std::string(names.embedding), vocab_of(config), hidden_of(config), config.dtype);
  for (int32_t i = 0; i < config.num_layers; ++i) {
    layers_.push_back(load_layer(context, config, weights, names, i));
  }
  final_norm_ = load_vector(context, weights, std::string(names.final_norm), hidden_of(config));
  head_ = load_head(context, config, weights, names, embedding_);
  const ops::RopeTable rope = ops::make_rope_table(
      config.max_positions, config.rotary_dim > 0 ? config.rotary_dim : config.head_dim, config.rope_theta);
  rope_ = {to_device(context, rope.cos), to_device(context, rope.sin)};
  describe(context, config, weights);
}

void Decoder::describe(const Context& context, const ModelConfig& config, const Weights& weights) {
  info_.architecture = config.architecture;
  info_.device = context.device;
  info_.vocab_size = config.vocab_size;
  info_.hidden_size = config.hidden_size;
  info_.max_positions = config.max_positions;
  info_.parameter_count = weights.taken_elements();
  info_.weight_bytes = static_cast<int64_t>(embedding_.nbytes() + final_norm_.nbytes());
  if (head_.panels().raw() != embedding_.raw()) info_.weight_bytes += static_cast<int64_t>(head_.nbytes());
  for (const Layer& layer : layers_) info_.weight_bytes += layer.nbytes();
  info_.weight_dtype = config.dtype;
  info_.hidden_dtype = ops::linear_input_dtype(config.dtype);
  info_.kv_layers = config.num_layers;
  info_.kv_heads = config.num_kv_heads;
  info_.head_dim = config.head_dim;
  info_.kv_dtype = config.dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  info_.attention = config.block_length > 0 ? AttentionKind::kBlockCausal : AttentionKind::kFull;
  info_.block_length = config.block_length;
  info_.logit_shift = config.logit_shift;
}

Tensor Decoder::forward(const Context& context, const StepInput& input, KvCache& cache) {
  const int64_t tokens = input.tokens.numel();
  Tensor residual = residual_.rows(tokens);
  ops::embedding(context, input.tokens, embedding_, residual);
  const ops::AttentionBatch batch(context, input.sequences, tokens, num_heads_, {cache.keys(0), cache.values(0)});
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto index = static_cast<int32_t>(i);
    layers_[i].attention.forward(context, input, batch, rope_, {cache.keys(index), cache.values(index)},
                                 attention_buffers_, residual);
    layers_[i].feed_forward->forward(context, input, feed_forward_buffers_, residual);
  }
  Tensor out = final_.rows(input.hidden_rows.numel());
  ops::rms_norm_rows(context, residual, input.hidden_rows, final_norm_, epsilon_, out);
  return out;
}

void Decoder::logits(const Context& context, const Tensor& hidden, Tensor& out) {
  ops::linear(context, hidden, head_, out);
}

}  // namespace

std::unique_ptr<Model> make_decoder(const Context& context, const ModelConfig& config, Weights& weights,
                                    const TensorNames& names) {
  return std::make_unique<Decoder>(context, config, weights, names);
}

}  // namespace pydllm
