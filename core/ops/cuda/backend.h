// The CUDA backend of the ops, as ops/cpu/cpu_ops.h is the CPU's: called by <op>.cpp once shapes, dtypes and devices
// are checked, it turns tensors into the pointers of cuda_ops.h. Indices held in device tensors are not checked: who
// made them has done that. Everything runs on the arena's stream; only row_stats waits for it.
#pragma once

#include <span>

#include "ops/attention.h"
#include "ops/expert_ffn.h"
#include "ops/linear.h"
#include "ops/moe_router.h"
#include "ops/rope.h"
#include "select/row_stats.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops::cuda {

void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out);
// rows: undefined for all rows of x.
void rms_norm(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
              Tensor& out);
void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon);
// norm_weight: undefined without a norm before the rotation.
void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& norm_weight, float epsilon, const Tensor& positions, const RopeTable& table);
void swiglu(const Context& context, const Tensor& gate_up, Tensor& out);
void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer);
// Tiles, page tables and workspace for layers like `layer`, in the arena's memory.
AttentionPlan plan_attention(const Context& context, std::span<const SequenceSpan> sequences, int64_t query_heads,
                             const KvLayer& layer);
void attention(const Context& context, const Tensor& q, int64_t query_column, const KvLayer& layer,
               const AttentionBatch& batch, float scale, Tensor& out);
void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out);
void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling);
void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale);
void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule, Tensor& experts,
           Tensor& weights);
// The weights of all experts as contiguous() leaves them.
void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y);
// weight: [out_features, in_features], row by row.
void linear(const Context& context, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode);

}  // namespace pydllm::ops::cuda
