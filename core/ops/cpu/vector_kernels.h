// The inner loops of the element-wise ops, attention and row_stats, compiled once per instruction set. Plain pointers
// and counts only: the sources behind this table are built with wider instruction sets and may not share inline code
// with the rest of the program.
#pragma once

#include <cstdint>

namespace pydllm::ops::cpu {

inline constexpr int64_t kMaxLanes = 16;  // floats in the widest vector
inline constexpr int64_t kKeyTile = 64;   // keys of one step of the streaming softmax in float32

inline constexpr int64_t kAttentionRows = 128;  // of a tile in float32; see VectorKernels::bf16_attention_rows

// Queries of one sequence against one key/value head. Row r of the tile is query r / group of query head r % group.
struct AttentionTile {
  const float* q;  // head `group * kv_head` of the first query
  int64_t q_stride;
  int64_t queries;
  int64_t group;  // query heads that share the key/value head
  int64_t head_dim;
  float scale;
  const void* keys;    // float32 or bfloat16 [pages, kv_heads, page_size, head_dim], at this key/value head
  const void* values;  // the same
  bool bf16;
  int64_t page_stride;  // elements from one page to the next
  int64_t page_size;
  const int32_t* pages;
  int64_t kv_length;
  int64_t position;      // of the first query in its sequence
  int64_t block_length;  // 0: full attention
  int64_t block_origin;  // where blocks start; what is before is one block

  int64_t rows() const { return queries * group; }
  int64_t padded_dim() const { return (head_dim + kMaxLanes - 1) / kMaxLanes * kMaxLanes; }
};

struct VectorKernels {
  const char* isa;

  // out = silu(gate) * up
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* out);
  float (*sum_of_squares)(const float* x, int64_t n);
  // out = x * factor * weight; out may be x
  void (*scale)(const float* x, float factor, const float* weight, int64_t n, float* out);
  // Rounds to nearest even; NaN stays NaN.
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);
  void (*from_bf16)(const uint16_t* x, int64_t n, float* out);
  // out = e^x: within 2 ulp, exactly 1 at 0, 0 below -87.33 (where e^x leaves the normal range), infinity above 88.72.
  void (*exp)(const float* x, int64_t n, float* out);

  // The largest of n >= 1 logits; finite = whether all are finite (the maximum means nothing otherwise).
  float (*chunk_max)(const float* x, int64_t n, bool* finite);
  // z = sum e^(x - max), s = sum (x - max) e^(x - max) over n logits, none above max.
  void (*chunk_sums)(const float* x, int64_t n, float max, double* z, double* s);
  // The first index in [begin, n) with x[index] > bound, or n.
  int64_t (*next_above)(const float* x, int64_t begin, int64_t n, float bound);

  // Rows of a tile, with bfloat16 pages: enough that gathering keys and values is a small part of using them, few
  // enough that the work memory stays in the second-level cache.
  int64_t bf16_attention_rows;
  // Floats of work memory, aligned to 64 bytes, that the kernel wants for a tile.
  int64_t (*attention_memory)(const AttentionTile& tile);
  // Leaves its result, [rows, padded_dim], at the beginning of the work memory.
  void (*attention)(const AttentionTile& tile, float* memory);
};

// Null where the build's target has no such instruction set. Call a kernel only after checking the CPU.
const VectorKernels* portable_kernels();
const VectorKernels* avx2_kernels();
const VectorKernels* avx512_kernels();
const VectorKernels* amxbf16_kernels();

// The widest this CPU can run, capped by PYDLLM_CPU_ISA.
const VectorKernels& vector_kernels();

}  // namespace pydllm::ops::cpu
