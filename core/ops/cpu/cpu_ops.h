// The CPU backend of the ops: called by <op>.cpp once shapes, dtypes and devices are checked. Indices held in tensors
// are checked here, where they can be read.
#pragma once

#include <span>

#include "ops/attention.h"
#include "ops/expert_ffn.h"
#include "ops/moe_router.h"
#include "ops/rope.h"
#include "select/row_stats.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops::cpu {

void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out);
// rows: undefined for all rows of x.
void rms_norm(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
              Tensor& out);
void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon);
void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& positions, const RopeTable& table);
void swiglu(const Context& context, const Tensor& gate_up, Tensor& out);
void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer);
void attention(const Context& context, const Tensor& q, int64_t query_column, int64_t query_heads, const KvLayer& layer,
               std::span<const SequenceSpan> sequences, float scale, Tensor& out);
void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out);
void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling);
void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule, Tensor& experts,
           Tensor& weights);
void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y);
void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale);

}  // namespace pydllm::ops::cpu
