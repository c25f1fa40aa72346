// Keys and values in pages, and bidirectional or block-causal attention over them.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// The K/V pages of one layer. Slot s is page s / page_size, row s % page_size.
//   keys, values  float32 | bfloat16 [pages, kv_heads, page_size, head_dim]
struct KvLayer {
  Tensor keys;
  Tensor values;
};

// Writes K and V of this step's tokens into their pages, rounding to the cache's dtype.
//   kv     float32 [tokens, row_width]; keys at column key_column, values at value_column, [kv_heads * head_dim] each
//   slots  int64 [tokens], distinct, each in [0, pages * page_size)
void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer);

// One sequence of a ragged batch: its queries are rows [query_begin, query_begin + query_length) of q and any window of
// the sequence. The keys are the first kv_length positions of the page table, whichever forward wrote them.
//   block_length 0   full attention: every query sees every key
//   block_length L   block-causal: the query at position i sees the key at position j exactly when
//                    block(j) <= block(i), block(p) = floor((p - O) / L) + 1, or 0 where p < O, with O = block_origin.
//                    O = 0: blocks start at position 0 (LLaDA2.x, SDAR). Else what is before O is a block, too (D2F:
//                    the prompt)
struct SequenceSpan {
  int32_t query_begin = 0;
  int32_t query_length = 0;
  int32_t kv_length = 0;
  std::span<const int32_t> pages;  // at least ceil(kv_length / page_size) page ids
  int32_t query_position = 0;      // position of the first query; the others follow it. Read when block_length > 0
  int32_t block_length = 0;
  int32_t block_origin = 0;  // 0 when block_length is
};

namespace cuda {

struct AttentionTile;  // ops/cuda/cuda_ops.h

// A batch as the kernels read it, in the arena's memory.
struct AttentionPlan {
  const AttentionTile* tiles = nullptr;
  int64_t tile_count = 0;
  const int32_t* pages = nullptr;  // the page tables, one after another
  float* workspace = nullptr;      // for the parts of cut keys, one layer after another; null where none are cut
};

}  // namespace cuda

// The sequences of one step as the attention of all its layers takes them: checked once and, on a CUDA device, cut into
// tiles and uploaded once. Valid as long as `sequences` and their page tables, on a device until the arena is reset.
class AttentionBatch {
 public:
  // For `tokens` rows of query_heads heads, a multiple of kv_heads (grouped heads), over layers like `layer`: the same
  // shape, dtype and device. Sequences share no row. Throws InternalError naming the field at fault.
  AttentionBatch(const Context& context, std::span<const SequenceSpan> sequences, int64_t tokens, int64_t query_heads,
                 const KvLayer& layer);

  std::span<const SequenceSpan> sequences() const noexcept { return sequences_; }
  int64_t tokens() const noexcept { return tokens_; }
  int64_t query_heads() const noexcept { return query_heads_; }
  const std::array<int64_t, 4>& layer_shape() const noexcept { return layer_shape_; }  // of the keys, and of the values
  DType layer_dtype() const noexcept { return layer_dtype_; }
  const cuda::AttentionPlan& plan() const noexcept { return plan_; }  // empty on the CPU

 private:
  std::span<const SequenceSpan> sequences_;
  int64_t tokens_;
  int64_t query_heads_;
  std::array<int64_t, 4> layer_shape_;
  DType layer_dtype_;
  cuda::AttentionPlan plan_;
};

// out[t, h, :] = softmax(scale * q[t, h, :] K^T) V over the sequence's visible keys, streaming softmax in float32.
//   q    float32 [batch.tokens, row_width]; head h at column query_column + h * head_dim
//   out  float32 | bfloat16 | float16 [batch.tokens, query_heads * head_dim]
// A row depends on its own query and on the keys it sees only, bit for bit; a key that it does not see is not read for
// it, so that a non-finite one does not reach it.
void attention(const Context& context, const Tensor& q, int64_t query_column, const KvLayer& layer,
               const AttentionBatch& batch, float scale, Tensor& out);

// The same for a batch that one layer needs only.
void attention(const Context& context, const Tensor& q, int64_t query_column, int64_t query_heads, const KvLayer& layer,
               std::span<const SequenceSpan> sequences, float scale, Tensor& out);

}  // namespace pydllm::ops
