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

namespace pydllm::ops {
struct RouterRule;  // ops/moe_router.h
}

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
// size. A row's bits depend on that row, the weight and in_features only.
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

// The query at `position` sees the keys [0, visible_keys). The one place that knows the mask (ops/attention.h); it
// never falls from one position to the next.
constexpr int32_t visible_keys(int32_t position, int32_t block_length, int32_t block_origin, int32_t kv_length) {
  if (block_length == 0) return kv_length;
  const int64_t offset = int64_t{position} - block_origin;
  const int64_t block_end = block_origin + (offset < 0 ? 0 : (offset / block_length + 1) * block_length);
  return static_cast<int32_t>(block_end < kv_length ? block_end : kv_length);
}

// Queries of one sequence and the keys [key_begin, key_end) of those that the last of them sees: what a block of the
// kernel computes for one K/V head. The tiles of a query's parts follow one another in rising order of the keys.
struct AttentionTile {
  int32_t query_begin = 0;
  int32_t query_count = 0;
  int32_t query_position = 0;
  int32_t block_length = 0;
  int32_t block_origin = 0;
  int32_t kv_length = 0;
  int32_t pages_begin = 0;
  int32_t key_begin = 0;
  int32_t key_end = 0;
  int32_t parts = 1;          // into which the keys of these queries are cut
  int32_t partial_begin = 0;  // parts > 1: rows (queries x heads of a group) of the workspace before this tile's
};

// In host memory. `group` query heads share one of kv_heads K/V heads; `dtype` is that of the pages. A sequence with
// few tiles has its keys cut into parts, so that a large GPU has a block for each multiprocessor. Parts follow from
// the sequence's own sizes, group, kv_heads and dtype: what else is in the batch changes no bit.
std::vector<AttentionTile> attention_tiles(std::span<const AttentionSequence> sequences, int32_t group,
                                           int32_t kv_heads, DType dtype);

// Floats that `attention` needs as a workspace for these tiles: 0 where no tile is a part.
int64_t attention_workspace(std::span<const AttentionTile> tiles, int32_t group, int32_t kv_heads, int64_t head_dim);

// q float32 [tokens, q_width], head h at column query_column + h * head_dim; keys, values float32 | bfloat16
// [pages, kv_heads, page_size, head_dim], aligned to 16 bytes; tiles [tile_count]; pages int32, the page tables one
// after another; workspace float32 [attention_workspace], null when that is 0; out float32 | bfloat16 | float16
// [tokens, query_heads * head_dim]. The new block's K/V are in the pages already (store_kv). head_dim is 16, 32, 64,
// 128 or 256, else Unsupported("head_dim"). A key that a query does not see does not reach it, whatever it holds.
template <class T, class Out>
void attention(const float* q, int64_t q_width, int64_t query_column, int64_t query_heads, const T* keys,
               const T* values, int64_t kv_heads, int64_t page_size, int64_t head_dim, const AttentionTile* tiles,
               int64_t tile_count, const int32_t* pages, float scale, float* workspace, Out* out, Stream stream);

// The rule of ops/moe_router.h over logits float32 [tokens, experts]; bias float32 [experts] or null; choice int32,
// weights float32 [tokens, rule.experts_per_token]. With block_capacity the tokens are whole blocks of block_length,
// side by side (InternalError otherwise).
void moe_router(const float* logits, const float* bias, int64_t tokens, int64_t experts, const RouterRule& rule,
                int32_t* choice, float* weights, Stream stream);

// Up to 64 pairs (token, choice) of one expert, which are multiplied together; up to 16 or 32 where experts have few.
struct ExpertTile {
  int32_t expert = 0;
  int32_t first = 0;  // of the expert's pairs
  int32_t count = 0;
};
int64_t expert_tiles_bound(int64_t tokens, int64_t kept, int64_t experts);  // tiles of a call at most

// What expert_ffn writes on its way, for the caller to reuse. Pair t * kept + i is choice i of token t.
template <class X>
struct ExpertWorkspace {
  int32_t* pairs = nullptr;     // [experts, tokens], those of each expert
  int32_t* counts = nullptr;    // [experts], how many they are
  ExpertTile* tiles = nullptr;  // [expert_tiles_bound]
  int32_t* tile_count = nullptr;
  X* activated = nullptr;    // [tokens * kept, width], aligned to 16 bytes
  float* outputs = nullptr;  // [tokens * kept, hidden]
};

// y float32 [tokens, hidden] += what ops/expert_ffn.h says, in rising order of the expert. A row of y depends on its
// own token only, so that a batch may be cut to bound the workspace.
//   x, gate_up, down  bfloat16 (tensor cores), float32 and float32, float32 and float16: [tokens, hidden],
//                     [experts, 2 * width, hidden] with gates before ups, [experts, hidden, width]; aligned to 16 bytes
//   choice, weights   int32, float32 [tokens, kept], as moe_router writes them
// The experts are one tensor each, so that a block finds its weights by arithmetic instead of through a table of
// pointers. Expert products that no token chose are not read.
template <class X, class W>
void expert_ffn(const X* x, const int32_t* choice, const float* weights, int64_t tokens, int64_t kept, const W* gate_up,
                const W* down, int64_t experts, int64_t hidden, int64_t width, const ExpertWorkspace<X>& workspace,
                float* y, Stream stream);

// conditional float32 [rows, vocab] = unconditional + (scale + 1) * (conditional - unconditional), the CPU's bits;
// unconditional float32 [rows, vocab].
void guide(float* conditional, const float* unconditional, int64_t rows, int64_t vocab, float scale, Stream stream);

// In place over logits float32 [rows, vocab] as in ops/row_stats.h: those of row r are edits [row_begin[r],
// row_begin[r + 1]); row_begin int64 [rows + 1], from 0 to edit_count; edits [edit_count].
void edit_logits(float* logits, int64_t rows, int64_t vocab, const int64_t* row_begin, const LogitEdit* edits,
                 int64_t edit_count, Stream stream);

// out float32 [count, dim] = rows `rows` int32 [count] of x float32 [*, dim].
void gather_rows(const float* x, const int32_t* rows, int64_t count, int64_t dim, float* out, Stream stream);

struct PageCopy {
  int32_t from = 0;
  int32_t to = 0;
};

// Copies pages within each of `tensors` [tensor_count], a table in device memory of tensors [pages, page_bytes] that
// are aligned to 16 bytes: keys and values of all layers. copies [copy_count]: a page is written once and not read
// then.
void copy_pages(void* const* tensors, int64_t tensor_count, const PageCopy* copies, int64_t copy_count,
                int64_t page_bytes, Stream stream);

}  // namespace pydllm::ops::cuda
