// The attention half of a decoder layer.
#pragma once

#include <cstdint>
#include <string>

#include "models/config.h"
#include "models/model.h"
#include "models/tensor_names.h"
#include "models/weights.h"
#include "models/work_buffer.h"
#include "ops/linear.h"
#include "ops/rope.h"

namespace pydllm {

// Widths of one layer's attention: query Q = num_heads * head_dim, key and value K = num_kv_heads * head_dim.
struct AttentionSizes {
  int64_t query, key;

  explicit AttentionSizes(const ModelConfig& config)
      : query(int64_t{config.num_heads} * config.head_dim), key(int64_t{config.num_kv_heads} * config.head_dim) {}
  int64_t qkv() const { return query + 2 * key; }
};

// Work memory that all layers of a model share.
struct AttentionBuffers {
  WorkBuffer normed;    // input type of linear [tokens, H]
  WorkBuffer qkv;       // float32 [tokens, Q + 2K]
  WorkBuffer attended;  // input type of linear [tokens, Q]

  AttentionBuffers(const ModelConfig& config, Device device);
};

class AttentionBlock {
 public:
  // `prefix` is the layer's. Throws InvalidCheckpoint naming the tensor.
  AttentionBlock(const Context& context, const ModelConfig& config, Weights& weights, const TensorNames& names,
                 const std::string& prefix);

  // residual += out(attention(rope(q), rope(k), v)) of the normed residual, q and k normed head by head where the model
  // does that; writes K/V of every token into `kv`.
  //   batch     of the input's sequences, for layers like `kv`
  //   residual  float32 [tokens, H]
  void forward(const Context& context, const StepInput& input, const ops::AttentionBatch& batch,
               const ops::RopeTable& rope, ops::KvLayer kv, AttentionBuffers& buffers, Tensor& residual) const;
  int64_t nbytes() const;

 private:
  // rope of `heads` heads at this column of qkv, after their norm where there is one.
  void rotate(const Context& context, Tensor& qkv, int64_t column, int32_t heads, const Tensor& norm,
              const Tensor& positions, const ops::RopeTable& rope) const;

  int32_t heads_, kv_heads_, head_dim_;
  AttentionSizes sizes_;
  float epsilon_;
  Tensor norm_;            // float32 [H]
  Tensor query_norm_;      // float32 [head_dim], undefined without qk-norm
  Tensor key_norm_;        // the same
  ops::PackedWeight qkv_;  // query | key | value, [Q + 2K, H]
  ops::PackedWeight out_;  // [H, Q]
};

}  // namespace pydllm
