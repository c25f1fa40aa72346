// The CUDA backend of the ops: host functions that launch kernels on a stream. All pointers are device memory; what
// the contracts in ops/*.h ask of values in device memory (ids, rows, positions, slots) the caller has checked. Sizes
// of 0 launch nothing. A launch that CUDA refuses is an InternalError that names the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "select/row_stats.h"
#include "tensor/dtype.h"

struct CUstream_st;

namespace pydllm::ops::cuda {

using Stream = CUstream_st*;  // cudaStream_t, without a CUDA header

// out float32 [tokens, dim] = rows `ids` int32 [tokens] of `table` float32 | bfloat16 | float16 [vocab, dim].
template <class T>
void embedding(const int32_t* ids, int64_t tokens, const T* table, int64_t dim, float* out, Stream stream);

// out float32 | bfloat16 | float16 [count, dim] = rms_norm of rows `rows` int32 [count] (null: 0, 1, ...) of x float32
// [*, dim]; weight float32 [dim]. out may be x when it is float32 and rows is null.
template <class T>
void rms_norm(const float* x, const int32_t* rows, int64_t count, int64_t dim, const float* weight, float epsilon,
              T* out, Stream stream);

// In place over heads of x float32 [tokens, width]; weight float32 [head_dim].
void rms_norm_heads(float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads, int64_t head_dim,
                    const float* weight, float epsilon, Stream stream);

// In place over heads of x float32 [tokens, width]; positions int32 [tokens]; cos, sin float32 [max_positions, half],
// 2 * half <= head_dim. norm_weight float32 [head_dim] or null: rms_norm_heads first, in the same pass.
void rope(float* x, int64_t tokens, int64_t width, int64_t first_column, int64_t heads, int64_t head_dim,
          const int32_t* positions, const float* cos, const float* sin, int64_t half, const float* norm_weight,
          float epsilon, Stream stream);

// gate_up float32 [rows, 2 * width], out float32 | bfloat16 | float16 [rows, width].
template <class T>
void swiglu(const float* gate_up, int64_t rows, int64_t width, T* out, Stream stream);

// kv float32 [tokens, width]; slots int64 [tokens], distinct; keys, values float32 | bfloat16
// [pages, kv_heads, page_size, head_dim].
template <class T>
void store_kv(const float* kv, int64_t tokens, int64_t width, int64_t key_column, int64_t value_column,
              const int64_t* slots, int64_t kv_heads, int64_t page_size, int64_t head_dim, T* keys, T* values,
              Stream stream);

// A block of row_stats reads this many logits of a row and leaves a summary of so many bytes.
constexpr int64_t kRowStatsSegment = 4096;
constexpr int64_t kRowStatsPartBytes = 64;
int64_t row_stats_segments(int64_t vocab);  // summaries of a row

// logits float32 [rows, vocab], vocab >= 1; sampling, out [rows]; forbidden int32 [forbidden_count], rising;
// workspace kRowStatsPartBytes [rows, row_stats_segments(vocab)], aligned to 8 bytes. Not in the kernel yet: top_k,
// top_p, min_p, filtered statistics, edits and controls; check_row_sampling refuses them.
void row_stats(const float* logits, int64_t rows, int64_t vocab, const RowSampling* sampling, const int32_t* forbidden,
               int32_t forbidden_count, void* workspace, RowStats* out, Stream stream);

// sampling in host memory. Throws Unsupported, naming the field, for what row_stats cannot do.
void check_row_sampling(std::span<const RowSampling> sampling);

// y float32 [rows, out_features] = (accumulate: y +) x W^T + bias, float32 sums: the hand-written fallback for every
// size.
//   x, weight  bfloat16 and bfloat16 (tensor cores), float32 and float32, float32 and float16: [rows, in_features] and
//              [out_features, in_features], aligned to 16 bytes
//   bias       float32 [out_features] or null
template <class X, class W>
void linear(const X* x, const W* weight, const float* bias, int64_t rows, int64_t in_features, int64_t out_features,
            float* y, bool accumulate, Stream stream);

// A sequence of a ragged batch as in ops/attention.h, its page table at pages_begin of a common one. Causal attention
// is block_length 1.
struct AttentionSequence {
  int32_t query_begin = 0;
  int32_t query_length = 0;
  int32_t kv_length = 0;
  int32_t pages_begin = 0;
  int32_t query_position = 0;
  int32_t block_length = 0;
  int32_t block_origin = 0;
};

// Queries of one sequence that see the same keys [0, visible): what a block of the kernel computes for one K/V head.
struct AttentionTile {
  int32_t query_begin = 0;
  int32_t query_count = 0;
  int32_t visible = 0;
  int32_t pages_begin = 0;
};

// In host memory. `group` query heads share a K/V head; `dtype` is that of the pages. A tile never crosses a block's
// end, so that no query's arithmetic meets a key that it does not see.
std::vector<AttentionTile> attention_tiles(std::span<const AttentionSequence> sequences, int32_t group, DType dtype);

// q float32 [tokens, q_width], head h at column query_column + h * head_dim; keys, values float32 | bfloat16
// [pages, kv_heads, page_size, head_dim]; tiles [tile_count]; pages int32, the page tables one after another;
// out float32 | bfloat16 | float16 [tokens, query_heads * head_dim]. The new block's K/V are in the pages already
// (store_kv). head_dim is 16, 32, 64, 128 or 256, else Unsupported("head_dim").
template <class T, class Out>
void attention(const float* q, int64_t q_width, int64_t query_column, int64_t query_heads, const T* keys,
               const T* values, int64_t kv_heads, int64_t page_size, int64_t head_dim, const AttentionTile* tiles,
               int64_t tile_count, const int32_t* pages, float scale, Out* out, Stream stream);

}  // namespace pydllm::ops::cuda
