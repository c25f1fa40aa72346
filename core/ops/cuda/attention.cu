#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/cuda/launch.h"
#include "ops/cuda/mma.h"

namespace pydllm::ops::cuda {

// Rows (queries x heads of one K/V head) of a tile: with mma.sync 16 per warp, without one per warp.
constexpr int kMmaWarps = 4;
constexpr int kFfmaWarps = 8;
constexpr int kJoinWarps = 4;
// Keys of one step of the streaming softmax (Milakov and Gimelshein, 2018; Dao et al., 2022). The next step's keys are
// on their way while one is used, so two have to fit.
constexpr int kMmaKeys = 32;
template <int Dim>
constexpr int kFfmaKeys = Dim <= 128 ? 32 : 16;
// A sequence's keys are cut into parts of whole multiples of kPartKeys, as many as make about kSplitBlocks blocks: the
// multiprocessors of a large GPU (flash-decoding, Dao et al., 2023).
constexpr int32_t kPartKeys = 64;
constexpr int64_t kSplitBlocks = 128;
// A row of the workspace: head_dim sums, their maximum, their total and two floats unused, for alignment.
constexpr int64_t kPartialExtra = 4;

struct AttentionArgs {
  const float* q;
  int64_t q_width, query_column;
  int32_t group;  // query heads of a K/V head
  int32_t kv_heads, page_size;
  const void* keys;
  const void* values;
  const AttentionTile* tiles;
  const int32_t* pages;
  float scale;
  float* partials;
  void* out;
  DType out_dtype;  // chosen at run time: a kernel for each would cost more in compiling than it saves here
};

// Row r of a tile is query r / group and head r % group of the K/V head.
__device__ inline int64_t head_row(const AttentionArgs& args, const AttentionTile& tile, int row) {
  const int64_t token = tile.query_begin + row / args.group;
  return token * args.kv_heads * args.group + static_cast<int64_t>(blockIdx.y) * args.group + row % args.group;
}

template <int Dim>
__device__ const float* query_of(const AttentionArgs& args, const AttentionTile& tile, int row) {
  const int64_t heads = static_cast<int64_t>(args.kv_heads) * args.group, index = head_row(args, tile, row);
  return args.q + index / heads * args.q_width + args.query_column + index % heads * Dim;
}

// The row sees the keys [key_begin, end) of the tile's; none where end <= key_begin.
__device__ inline int seen_end(const AttentionArgs& args, const AttentionTile& tile, int row) {
  const int visible =
      visible_keys(tile.query_position + row / args.group, tile.block_length, tile.block_origin, tile.kv_length);
  return visible < tile.key_end ? visible : tile.key_end;
}

// The row's place in the workspace.
__device__ inline float* partial_of(const AttentionArgs& args, const AttentionTile& tile, int part, int row, int dim) {
  const int64_t rows = static_cast<int64_t>(tile.query_count) * args.group;
  const int64_t index = (tile.partial_begin + part * rows) * args.kv_heads + blockIdx.y * rows + row;
  return args.partials + index * (dim + kPartialExtra);
}

// Offset of a position's row in the pages of this block's K/V head.
template <int Dim>
__device__ int64_t kv_offset(const AttentionArgs& args, const AttentionTile& tile, int position) {
  const int64_t page = args.pages[tile.pages_begin + position / args.page_size];
  return ((page * args.kv_heads + blockIdx.y) * args.page_size + position % args.page_size) * Dim;
}

__device__ inline void store(const AttentionArgs& args, int64_t index, float x) {
  if (args.out_dtype == DType::kF32) static_cast<float*>(args.out)[index] = x;
  if (args.out_dtype == DType::kBF16) static_cast<BFloat16*>(args.out)[index] = narrow<BFloat16>(x);
  if (args.out_dtype == DType::kF16) static_cast<Float16*>(args.out)[index] = narrow<Float16>(x);
}

// What one load takes from an address that is a multiple of 16 bytes.
template <class T>
struct alignas(16) Chunk {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

template <class T>
__device__ Chunk<T> chunk_at(const T* p) {
  return *reinterpret_cast<const Chunk<T>*>(p);
}

// Keys and values of one step. Rows are 16 bytes longer than they need to be, so that those read together lie in
// different banks.
template <class T, int Dim, int Keys>
struct KeyStep {
  static constexpr int kStride = Dim + Chunk<T>::kSize;
  T keys[Keys][kStride];
  T values[Keys][kStride];
};

// Starts to copy positions [first, first + Keys), zeros from the end of the tile's keys on.
template <class T, int Dim, int Keys>
__device__ void fetch(const AttentionArgs& args, const AttentionTile& tile, int first, KeyStep<T, Dim, Keys>& to) {
  constexpr int kChunk = Chunk<T>::kSize, kRowChunks = Dim / kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < Keys * kRowChunks; i += static_cast<int>(blockDim.x)) {
    const int key = i / kRowChunks, d = i % kRowChunks * kChunk;
    const bool inside = first + key < tile.key_end;
    const int64_t from = inside ? kv_offset<Dim>(args, tile, first + key) + d : 0;
    copy_async(&to.keys[key][d], static_cast<const T*>(args.keys) + from, inside ? 16 : 0);
    copy_async(&to.values[key][d], static_cast<const T*>(args.values) + from, inside ? 16 : 0);
  }
  commit_copies();
}

// What scores are taken relative to. A row that has seen no key yet has a maximum of -infinity, whose difference to
// itself would be NaN.
__device__ inline float base_of(float max) {
  return max == -INFINITY ? 0.0f : max;
}

template <int Dim>
struct FfmaShared {
  using Step = KeyStep<float, Dim, kFfmaKeys<Dim>>;
  float q[kFfmaWarps][Dim];
  Step steps[2];
  float weights[kFfmaWarps][kFfmaKeys<Dim>];
};

// float32 pages: one warp per row. A lane scores one key of each step and sums every 32nd dimension.
template <int Dim>
__global__ void __launch_bounds__(32 * kFfmaWarps) attention_ffma_kernel(AttentionArgs args) {
  constexpr int kOwn = (Dim + 31) / 32, kKeys = kFfmaKeys<Dim>;
  FfmaShared<Dim>& shared = *shared_memory<FfmaShared<Dim>>();
  const AttentionTile tile = args.tiles[blockIdx.x];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const bool has_row = warp < tile.query_count * args.group;
  const int end = has_row ? seen_end(args, tile, warp) : tile.key_begin;
  for (int d = lane; d < Dim; d += 32) {
    shared.q[warp][d] = has_row ? query_of<Dim>(args, tile, warp)[d] * args.scale : 0.0f;
  }
  float sum[kOwn] = {}, max = -INFINITY, total = 0;
  fetch(args, tile, tile.key_begin, shared.steps[0]);
  for (int first = tile.key_begin, turn = 0; first < tile.key_end; first += kKeys, turn ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // the step is there, and the one before, which is fetched anew, has been read
    if (first + kKeys < tile.key_end) fetch(args, tile, first + kKeys, shared.steps[turn ^ 1]);
    const auto& step = shared.steps[turn];
    const int count = end - first < kKeys ? end - first : kKeys;
    if (count <= 0) continue;  // the whole warp; it still helps with the copies
    float score = 0;
    for (int d = 0; d < Dim; d += 4) {
      const Chunk<float> q = chunk_at(&shared.q[warp][d]), key = chunk_at(&step.keys[lane % kKeys][d]);
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) score = fmaf(q.v[e], key.v[e], score);
    }
    if (lane >= count) score = -INFINITY;
    const float top = fmaxf(max, warp_max(score)), base = base_of(top);
    const float factor = expf(max - base), weight = expf(score - base);
    max = top;
    total = total * factor + warp_sum(weight);
    if (lane < kKeys) shared.weights[warp][lane] = weight;
    __syncwarp();
    PYDLLM_UNROLL
    for (int own = 0; own < kOwn; ++own) {
      const int d = lane + 32 * own;
      sum[own] *= factor;
      if (d >= Dim) continue;
      for (int key = 0; key < count; ++key) {
        sum[own] = fmaf(shared.weights[warp][key], step.values[key][d], sum[own]);
      }
    }
    __syncwarp();  // the weights are read before the next step's take their place
  }
  if (!has_row) return;
  const int64_t out = head_row(args, tile, warp) * Dim;
  float* partial = tile.parts > 1 ? partial_of(args, tile, 0, warp, Dim) : nullptr;
  PYDLLM_UNROLL
  for (int own = 0; own < kOwn; ++own) {
    const int d = lane + 32 * own;
    if (d >= Dim) continue;
    if (partial != nullptr) {
      partial[d] = sum[own];
    } else {
      store(args, out + d, sum[own] / total);
    }
  }
  if (partial == nullptr || lane > 0) return;
  partial[Dim] = max;
  partial[Dim + 1] = total;
}

template <int Dim>
struct MmaShared {
  using Step = KeyStep<BFloat16, Dim, kMmaKeys>;
  BFloat16 q[16 * kMmaWarps][Step::kStride];
  Step steps[2];
};

// What a lane keeps of its warp's 16 rows: of rows quad and quad + 8.
template <int Dim>
struct MmaRows {
  float sum[Dim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  int end[2];  // the keys that they see
};

using Scores = float[kMmaKeys / 8][4];
using Weights = Pairs<4>[kMmaKeys / 16];

template <int Dim>
__device__ void multiply_keys(const BFloat16* q, const typename MmaShared<Dim>::Step& step, int quad, int pair,
                              Scores& score) {
  constexpr int kStride = MmaShared<Dim>::Step::kStride;
  PYDLLM_UNROLL
  for (int d = 0; d < Dim; d += 16) {
    const Pairs<4> a = load_a(q + d, kStride, quad, pair);
    PYDLLM_UNROLL
    for (int n = 0; n < kMmaKeys / 8; ++n) mma(score[n], a, load_b(&step.keys[8 * n][d], kStride, quad, pair));
  }
}

// Scores of positions [first, first + kMmaKeys) to softmax weights relative to the new maximum; the rows' sums follow
// it. Weights are rounded to bfloat16 for the tensor cores, and the total is that of the rounded ones.
template <int Dim>
__device__ void weigh(MmaRows<Dim>& rows, Scores& score, int first, int pair, float scale, Weights& weights) {
  float top[2] = {rows.max[0], rows.max[1]}, base[2], factor[2];
  PYDLLM_UNROLL
  for (int n = 0; n < kMmaKeys / 8; ++n) {
    PYDLLM_UNROLL
    for (int e = 0; e < 4; ++e) {
      score[n][e] = first + 8 * n + pair + e % 2 < rows.end[e / 2] ? score[n][e] * scale : -INFINITY;
      top[e / 2] = fmaxf(top[e / 2], score[n][e]);
    }
  }
  PYDLLM_UNROLL
  for (int half = 0; half < 2; ++half) {  // the four lanes of a row
    top[half] = fmaxf(top[half], __shfl_xor_sync(kAllLanes, top[half], 1));
    top[half] = fmaxf(top[half], __shfl_xor_sync(kAllLanes, top[half], 2));
    base[half] = base_of(top[half]);
    factor[half] = expf(rows.max[half] - base[half]);
    rows.max[half] = top[half];
    rows.total[half] *= factor[half];
  }
  PYDLLM_UNROLL
  for (int n = 0; n < Dim / 8; ++n) {
    PYDLLM_UNROLL
    for (int e = 0; e < 4; ++e) rows.sum[n][e] *= factor[e / 2];
  }
  PYDLLM_UNROLL
  for (int n = 0; n < kMmaKeys / 8; ++n) {
    PYDLLM_UNROLL
    for (int e = 0; e < 4; ++e) {
      score[n][e] = widen(narrow<BFloat16>(expf(score[n][e] - base[e / 2])));
      rows.total[e / 2] += score[n][e];
    }
  }
  PYDLLM_UNROLL
  for (int k = 0; k < kMmaKeys / 16; ++k) {  // a result of the first product is an operand of the second
    const float *low = score[2 * k], *high = score[2 * k + 1];
    weights[k] = {{pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])}};
  }
}

__device__ inline bool is_finite(uint32_t bits) {
  return (bits & 0x7F80U) != 0x7F80U;
}

// Of two bfloat16 those that are finite, 0 for others.
__device__ inline uint32_t finite_of(uint32_t two) {
  return (is_finite(two) ? two & 0xFFFFU : 0) | (is_finite(two >> 16) ? two & 0xFFFF0000U : 0);
}

template <bool FiniteOnly, int Dim>
__device__ void add_values(MmaRows<Dim>& rows, const typename MmaShared<Dim>::Step& step, const Weights& weights,
                           int quad, int pair) {
  PYDLLM_UNROLL
  for (int k = 0; k < kMmaKeys / 16; ++k) {
    PYDLLM_UNROLL
    for (int n = 0; n < Dim / 8; ++n) {
      Pairs<2> b = load_b_rows(&step.values[16 * k][8 * n], MmaShared<Dim>::Step::kStride, quad, pair);
      if constexpr (FiniteOnly) b = {{finite_of(b.v[0]), finite_of(b.v[1])}};
      mma(rows.sum[n], weights[k], b);
    }
  }
}

// Values that are not finite go past the tensor cores, where they would also meet the weights 0 of rows that do not see
// them. The sums of those that do are not finite afterwards.
template <int Dim>
__device__ void add_non_finite(MmaRows<Dim>& rows, const typename MmaShared<Dim>::Step& step, int first, int pair) {
  PYDLLM_UNROLL
  for (int n = 0; n < Dim / 8; ++n) {
    PYDLLM_UNROLL
    for (int e = 0; e < 4; ++e) {
      for (int key = 0; key < kMmaKeys; ++key) {
        const BFloat16 value = step.values[key][8 * n + pair + e % 2];
        if (!is_finite(value.bits) && first + key < rows.end[e / 2]) rows.sum[n][e] += widen(value);
      }
    }
  }
}

// Whether the values of keys [begin, end) of the step are finite; all lanes of a warp ask together.
template <int Dim>
__device__ bool all_finite(const typename MmaShared<Dim>::Step& step, int begin, int end, int lane) {
  constexpr int kChunk = Chunk<BFloat16>::kSize, kRowChunks = Dim / kChunk;
  float found = 0;
  for (int i = begin * kRowChunks + lane; i < end * kRowChunks; i += 32) {
    const Chunk<BFloat16> values = chunk_at(&step.values[i / kRowChunks][i % kRowChunks * kChunk]);
    for (const BFloat16 value : values.v) found = is_finite(value.bits) ? found : 1;
  }
  return warp_max(found) == 0;
}

template <int Dim>
__device__ void store_rows(const AttentionArgs& args, const AttentionTile& tile, const MmaRows<Dim>& rows,
                           int first_row, int pair) {
  PYDLLM_UNROLL
  for (int half = 0; half < 2; ++half) {
    float total = rows.total[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    const int row = first_row + 8 * half;
    if (row >= tile.query_count * args.group) continue;
    if (tile.parts > 1) {
      float* partial = partial_of(args, tile, 0, row, Dim);
      PYDLLM_UNROLL
      for (int n = 0; n < Dim / 8; ++n) {
        partial[8 * n + pair] = rows.sum[n][2 * half];
        partial[8 * n + pair + 1] = rows.sum[n][2 * half + 1];
      }
      if (pair == 0) partial[Dim] = rows.max[half];
      if (pair == 0) partial[Dim + 1] = total;
      continue;
    }
    const int64_t out = head_row(args, tile, row) * Dim;
    PYDLLM_UNROLL
    for (int n = 0; n < Dim / 8; ++n) {
      store(args, out + 8 * n + pair, rows.sum[n][2 * half] / total);
      store(args, out + 8 * n + pair + 1, rows.sum[n][2 * half + 1] / total);
    }
  }
}

// bfloat16 pages: 16 rows per warp. Queries are rounded to bfloat16 for the tensor cores; scores, maxima and sums are
// float32.
template <int Dim>
__global__ void __launch_bounds__(32 * kMmaWarps) attention_mma_kernel(AttentionArgs args) {
  MmaShared<Dim>& shared = *shared_memory<MmaShared<Dim>>();
  const AttentionTile tile = args.tiles[blockIdx.x];
  const int count = tile.query_count * args.group, warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane / 4, pair = lane % 4 * 2;
  fetch(args, tile, tile.key_begin, shared.steps[0]);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * kMmaWarps * Dim; i += 32 * kMmaWarps) {
    const int row = i / Dim, d = i % Dim;
    shared.q[row][d] = narrow<BFloat16>(row < count ? query_of<Dim>(args, tile, row)[d] : 0.0f);
  }
  // Rows that fill up a warp see what the last one sees.
  const auto end_of = [&](int row) { return seen_end(args, tile, row < count ? row : count - 1); };
  const int least = end_of(warp_row), most = warp_row < count ? end_of(warp_row + 15) : tile.key_begin;
  MmaRows<Dim> rows;
  rows.end[0] = end_of(warp_row + quad);
  rows.end[1] = end_of(warp_row + quad + 8);
  for (int first = tile.key_begin, turn = 0; first < tile.key_end; first += kMmaKeys, turn ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // the step is there, and the one before, which is fetched anew, has been read
    if (first + kMmaKeys < tile.key_end) fetch(args, tile, first + kMmaKeys, shared.steps[turn ^ 1]);
    if (first >= most) continue;  // the whole warp; it still helps with the copies
    const auto& step = shared.steps[turn];
    Scores score = {};
    multiply_keys<Dim>(shared.q[warp_row], step, quad, pair, score);
    Weights weights;
    weigh(rows, score, first, pair, args.scale, weights);
    const int unseen = least > first ? least - first : 0;  // by a row of the warp, from here on
    const int held = tile.key_end - first < kMmaKeys ? tile.key_end - first : kMmaKeys;
    if (unseen >= held || all_finite<Dim>(step, unseen, held, lane)) {
      add_values<false>(rows, step, weights, quad, pair);
    } else {
      add_values<true>(rows, step, weights, quad, pair);
      add_non_finite(rows, step, first, pair);
    }
  }
  // Read anew, so that it takes no registers meanwhile.
  if (warp_row < count) store_rows(args, args.tiles[blockIdx.x], rows, warp_row + quad, pair);
}

// The parts' sums of a row, each relative to its own maximum, in rising order of the keys.
__global__ void __launch_bounds__(32 * kJoinWarps) attention_join_kernel(AttentionArgs args, int dim) {
  const AttentionTile tile = args.tiles[blockIdx.x];
  if (tile.parts == 1 || tile.key_begin > 0) return;  // the first part's block joins
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int row = warp; row < tile.query_count * args.group; row += kJoinWarps) {
    float max = -INFINITY;
    for (int part = 0; part < tile.parts; ++part) max = fmaxf(max, partial_of(args, tile, part, row, dim)[dim]);
    const float base = base_of(max);
    const int64_t out = head_row(args, tile, row) * dim;
    for (int d = lane; d < dim; d += 32) {
      float sum = 0, total = 0;
      for (int part = 0; part < tile.parts; ++part) {
        const float* partial = partial_of(args, tile, part, row, dim);
        const float factor = expf(partial[dim] - base);
        sum = fmaf(partial[d], factor, sum);
        total = fmaf(partial[dim + 1], factor, total);
      }
      store(args, out + d, sum / total);
    }
  }
}

static int32_t keys_of_a_part(int64_t blocks, int32_t keys) {
  const int64_t parts = std::max<int64_t>(1, kSplitBlocks / blocks);
  const int64_t length = (keys + parts - 1) / parts;
  return static_cast<int32_t>((length + kPartKeys - 1) / kPartKeys * kPartKeys);
}

static int32_t rows_of_a_tile(DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBF16, "attention: expected float32 or bfloat16 pages, got ",
        name_of(dtype));
  return dtype == DType::kF32 ? kFfmaWarps : 16 * kMmaWarps;
}

std::vector<AttentionTile> attention_tiles(std::span<const AttentionSequence> sequences, int32_t group,
                                           int32_t kv_heads, DType dtype) {
  const int32_t rows = rows_of_a_tile(dtype);
  check(group >= 1 && group <= rows, "attention: expected 1 to ", rows, " query heads to a K/V head, got ", group);
  check(kv_heads >= 1 && kv_heads <= 65535, "attention: expected 1 to 65535 K/V heads, got ", kv_heads);
  std::vector<AttentionTile> tiles;
  int64_t partial_rows = 0;
  for (const AttentionSequence& sequence : sequences) {
    const int32_t most = rows / group;
    const int64_t blocks = int64_t{(sequence.query_length + most - 1) / most} * kv_heads;
    for (int32_t done = 0; done < sequence.query_length; done += most) {
      AttentionTile tile{.query_begin = sequence.query_begin + done,
                         .query_count = std::min(most, sequence.query_length - done),
                         .query_position = sequence.query_position + done,
                         .block_length = sequence.block_length,
                         .block_origin = sequence.block_origin,
                         .kv_length = sequence.kv_length,
                         .pages_begin = sequence.pages_begin};
      const auto seen = [&](int32_t query) {
        return visible_keys(sequence.query_position + query, sequence.block_length, sequence.block_origin,
                            sequence.kv_length);
      };
      const int32_t length = keys_of_a_part(blocks, seen(sequence.query_length - 1));
      const int32_t end = seen(done + tile.query_count - 1);
      tile.parts = std::max(1, (end + length - 1) / length);
      for (int32_t part = 0; part < tile.parts; ++part) {
        tile.key_begin = part * length;
        tile.key_end = std::min(end, tile.key_begin + length);
        tile.partial_begin = static_cast<int32_t>(partial_rows);
        if (tile.parts > 1) partial_rows += int64_t{tile.query_count} * group;
        tiles.push_back(tile);
      }
    }
  }
  check(partial_rows <= 0x7FFFFFFF, "attention: expected at most 2^31 - 1 rows of parts, got ", partial_rows);
  return tiles;
}

int64_t attention_workspace(std::span<const AttentionTile> tiles, int32_t group, int32_t kv_heads, int64_t head_dim) {
  int64_t rows = 0;
  for (const AttentionTile& tile : tiles) rows += tile.parts > 1 ? int64_t{tile.query_count} * group * kv_heads : 0;
  return rows * (head_dim + kPartialExtra);
}

template <class T, int Dim>
static void launch_attention(const AttentionArgs& args, int64_t tiles, Stream stream) {
  const dim3 grid{blocks("attention", tiles), static_cast<unsigned>(args.kv_heads), 1};
  static_assert(sizeof(FfmaShared<Dim>) <= kMostSharedBytes && sizeof(MmaShared<Dim>) <= kMostSharedBytes);
  if constexpr (std::is_same_v<T, float>) {
    launch("attention_ffma", attention_ffma_kernel<Dim>, grid, 32 * kFfmaWarps, sizeof(FfmaShared<Dim>), stream, args);
  } else {
    launch("attention_mma", attention_mma_kernel<Dim>, grid, 32 * kMmaWarps, sizeof(MmaShared<Dim>), stream, args);
  }
  if (args.partials != nullptr) {
    launch("attention_join", attention_join_kernel, grid, 32 * kJoinWarps, 0, stream, args, Dim);
  }
}

template <class T, class Out>
void attention(const float* q, int64_t q_width, int64_t query_column, int64_t query_heads, const T* keys,
               const T* values, int64_t kv_heads, int64_t page_size, int64_t head_dim, const AttentionTile* tiles,
               int64_t tile_count, const int32_t* pages, float scale, float* workspace, Out* out, Stream stream) {
  if (tile_count == 0) return;
  check(kv_heads >= 1 && kv_heads <= 65535, "attention: expected 1 to 65535 K/V heads, got ", kv_heads);
  const AttentionArgs args{q,
                           q_width,
                           query_column,
                           static_cast<int32_t>(query_heads / kv_heads),
                           static_cast<int32_t>(kv_heads),
                           static_cast<int32_t>(page_size),
                           keys,
                           values,
                           tiles,
                           pages,
                           scale,
                           workspace,
                           out,
                           DTypeOf<Out>::value};
  switch (head_dim) {
    case 16:
      return launch_attention<T, 16>(args, tile_count, stream);
    case 32:
      return launch_attention<T, 32>(args, tile_count, stream);
    case 64:
      return launch_attention<T, 64>(args, tile_count, stream);
    case 128:
      return launch_attention<T, 128>(args, tile_count, stream);
    case 256:
      return launch_attention<T, 256>(args, tile_count, stream);
    default:
      throw Unsupported("head_dim", format("head_dim: expected 16, 32, 64, 128 or 256 on CUDA, got ", head_dim));
  }
}

#define PYDLLM_ATTENTION(T, Out)                                                                                  \
  template void attention(const float*, int64_t, int64_t, int64_t, const T*, const T*, int64_t, int64_t, int64_t, \
                          const AttentionTile*, int64_t, const int32_t*, float, float*, Out*, Stream)
PYDLLM_ATTENTION(float, float);
PYDLLM_ATTENTION(float, BFloat16);
PYDLLM_ATTENTION(float, Float16);
PYDLLM_ATTENTION(BFloat16, float);
PYDLLM_ATTENTION(BFloat16, BFloat16);
PYDLLM_ATTENTION(BFloat16, Float16);
#undef PYDLLM_ATTENTION

}  // namespace pydllm::ops::cuda
