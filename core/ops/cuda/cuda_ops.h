// The CUDA backend of the ops: host functions that launch kernels on a stream. All pointers are device memory; what
// the contracts in ops/*.h ask of values in device memory (ids, rows, positions, slots) the caller has checked. Sizes
// of 0 launch nothing. A launch that CUDA refuses is an InternalError that names the kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "select/row_stats.h"
#include "select/rule.h"
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

// Rising ids for each row: those of row r are ids[begin[r]] to ids[begin[r + 1] - 1]. begin null: none for any row.
struct IdLists {
  const int64_t* begin = nullptr;  // [rows + 1]
  const int32_t* ids = nullptr;
};

// The same in host memory, to be copied to the device.
struct HostIdLists {
  std::vector<int64_t> begin = {0};
  std::vector<int32_t> ids;
};

// Of every row, from host memory: the ids that its edits ban, and those that are no text.
HostIdLists banned_ids(std::span<const RowSampling> sampling);
HostIdLists control_ids(std::span<const RowSampling> sampling);

// logits float32 [rows, vocab], vocab >= 1; sampling, out [rows]; forbidden int32 [forbidden_count], rising;
// workspace kRowStatsPartBytes [rows, row_stats_segments(vocab)], aligned to 8 bytes. The spans in `sampling` are not
// read: `banned` and `controls` say on the device what they say on the host.
void row_stats(const float* logits, int64_t rows, int64_t vocab, const RowSampling* sampling, const int32_t* forbidden,
               int32_t forbidden_count, IdLists banned, IdLists controls, void* workspace, RowStats* out,
               Stream stream);

// The canvases of all requests, one after another: what decode::Canvas holds of a position.
struct DeviceCanvas {
  int32_t* tokens = nullptr;
  float* confidences = nullptr;  // of the forward that wrote the token
  uint8_t* masked = nullptr;     // not 0: still to be generated
};

// One denoised block of one request: rows [row_begin, row_begin + row_count) of the step, at ascending positions. Those
// at masked positions are ranked by `score`, and what `rule` chooses of them is written.
struct UnmaskBlock {
  int64_t canvas_begin = 0;  // where the request's position 0 is in the canvases
  int32_t row_begin = 0;
  int32_t row_count = 0;
  select::Score score = select::Score::kConfidence;
  uint32_t forward = 0;  // of the request, and its seed: for Score::kUniform
  uint64_t seed = 0;
  select::Rule rule = {};
};

// What decode::Canvas::commit and its callers refuse ends the block without a write.
enum class UnmaskStatus : int32_t {
  kWritten,
  kNonFinite,  // a masked row's logits are not finite
  kNoToken,    // a chosen row allows no token
  kMaskToken,  // a chosen row's token is the mask
};

struct UnmaskReport {
  UnmaskStatus status = UnmaskStatus::kWritten;
  int32_t written = 0;    // positions
  int32_t masked = 0;     // of the block's rows, those still masked
  int32_t position = -1;  // that ended the block: the first, in the order of the choice
};

// Bytes for one row of unmask's workspace.
constexpr int64_t kUnmaskRowBytes = 16;

// unmask_blocks, reports [block_count], over disjoint rows and positions; stats [rows]; positions int32 [rows],
// absolute in the request's canvas; workspace kUnmaskRowBytes [rows], aligned to 4 bytes; written int32 [rows]: block
// b's reports[b].written positions from its row_begin on, in the order of the choice.
void unmask(const UnmaskBlock* unmask_blocks, int64_t block_count, const RowStats* stats, const int32_t* positions,
            int64_t rows, int32_t mask_token_id, DeviceCanvas canvas, void* workspace, int32_t* written,
            UnmaskReport* reports, Stream stream);

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
