// Keys and values in pages, and bidirectional or block-causal attention over them.
#pragma once

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

// out[t, h, :] = softmax(scale * q[t, h, :] K^T) V over the sequence's visible keys, streaming softmax in float32.
//   q    float32 [tokens, row_width]; head h at column query_column + h * head_dim
//   out  float32 | bfloat16 | float16 [tokens, query_heads * head_dim]
// query_heads is a multiple of kv_heads (grouped heads). A row depends on its own query and on the keys it sees only,
// bit for bit; a key that it does not see is not read for it, so that a non-finite one does not reach it.
void attention(const Context& context, const Tensor& q, int64_t query_column, int64_t query_heads, const KvLayer& layer,
               std::span<const SequenceSpan> sequences, float scale, Tensor& out);

}  // namespace pydllm::ops
