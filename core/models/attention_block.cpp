#include "models/attention_block.h"

#include <cmath>

#include "base/check.h"
#include "models/load_tensor.h"
#include "ops/attention.h"
#include "ops/rms_norm.h"

namespace pydllm {
namespace {

constexpr std::string_view kQuerySize = "num_heads * head_dim";

ops::PackedWeight load_qkv(const Context& context, const ModelConfig& config, Weights& weights,
                           const TensorNames& names, const std::string& prefix) {
  const AttentionSizes n(config);
  if (!names.packed_qkv.empty()) {
    const LinearPart packed[] = {
        {format(prefix, names.packed_qkv), {n.qkv(), "(num_heads + 2 * num_kv_heads) * head_dim"}}};
    return load_linear(context, weights, packed, hidden_of(config), config.dtype, config.attention_bias);
  }
  const Extent query(n.query, kQuerySize), key(n.key, "num_kv_heads * head_dim");
  const LinearPart parts[] = {
      {format(prefix, names.query), query}, {format(prefix, names.key), key}, {format(prefix, names.value), key}};
  return load_linear(context, weights, parts, hidden_of(config), config.dtype, config.attention_bias);
}

}  // namespace

AttentionBuffers::AttentionBuffers(const ModelConfig& config, Device device)
    : normed(config.hidden_size, ops::linear_input_dtype(config.dtype), device),
      qkv(AttentionSizes(config).qkv(), DType::kF32, device),
      attended(AttentionSizes(config).query, ops::linear_input_dtype(config.dtype), device) {}

AttentionBlock::AttentionBlock(const Context& context, const ModelConfig& config, Weights& weights,
                               const TensorNames& names, const std::string& prefix)
    : heads_(config.num_heads),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      sizes_(config),
      epsilon_(static_cast<float>(config.rms_norm_eps)) {
  norm_ = load_vector(context, weights, format(prefix, names.attention_norm), hidden_of(config));
  qkv_ = load_qkv(context, config, weights, names, prefix);
  if (config.qk_norm) {
    const Extent head_dim(config.head_dim, "head_dim");
    query_norm_ = load_vector(context, weights, format(prefix, names.query_norm), head_dim);
    key_norm_ = load_vector(context, weights, format(prefix, names.key_norm), head_dim);
  }
  const LinearPart out[] = {{format(prefix, names.attention_out), hidden_of(config)}};
  out_ = load_linear(context, weights, out, {sizes_.query, kQuerySize}, config.dtype, config.linear_bias);
}

void AttentionBlock::rotate(const Context& context, Tensor& qkv, int64_t column, int32_t heads, const Tensor& norm,
                            const Tensor& positions, const ops::RopeTable& rope) const {
  if (norm.defined()) return ops::norm_rope(context, qkv, column, heads, norm, epsilon_, positions, rope);
  ops::rope(context, qkv, column, heads, head_dim_, positions, rope);
}

void AttentionBlock::forward(const Context& context, const StepInput& input, const ops::AttentionBatch& batch,
                             const ops::RopeTable& rope, ops::KvLayer kv, AttentionBuffers& buffers,
                             Tensor& residual) const {
  const int64_t tokens = residual.size(0);
  Tensor normed = buffers.normed.rows(tokens);
  ops::rms_norm(context, residual, norm_, epsilon_, normed);
  Tensor qkv = buffers.qkv.rows(tokens);
  ops::linear(context, normed, qkv_, qkv);

  const int64_t key_column = sizes_.query, value_column = sizes_.query + sizes_.key;
  rotate(context, qkv, 0, heads_, query_norm_, input.positions, rope);
  rotate(context, qkv, key_column, kv_heads_, key_norm_, input.positions, rope);
  ops::store_kv(context, qkv, key_column, value_column, input.slots, kv);

  Tensor attended = buffers.attended.rows(tokens);
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
  ops::attention(context, qkv, 0, kv, batch, scale, attended);
  ops::linear(context, attended, out_, residual, ops::LinearMode::kAccumulate);
}

int64_t AttentionBlock::nbytes() const {
  return static_cast<int64_t>(norm_.nbytes() + query_norm_.nbytes() + key_norm_.nbytes() + qkv_.nbytes() +
                              out_.nbytes());
}

}  // namespace pydllm
