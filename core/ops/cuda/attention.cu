#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/cuda/launch.h"
#include "ops/cuda/mma.h"

namespace pydllm::ops::cuda {

// Keys of one step of the streaming softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
constexpr int kAttentionKeys = 32;
// Rows (queries x heads of one K/V head) of a tile: with mma.sync 16 per warp, without one per warp.
constexpr int kMmaWarps = 4;
constexpr int kFfmaWarps = 8;
// Two blocks then fit on a multiprocessor of every architecture that this is compiled for (163 KB and more).
constexpr size_t kMostSharedBytes = 80 << 10;

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

template <int Dim>
struct FfmaShared {
  float q[kFfmaWarps][Dim];
  float keys[kAttentionKeys][Dim + 1];  // one more, so that the lanes' rows lie in different banks
  float values[kAttentionKeys][Dim];
  float weights[kFfmaWarps][kAttentionKeys];
};

// float32 pages: one warp per row. A lane scores one key of each step and sums every 32nd dimension.
template <int Dim>
__global__ void __launch_bounds__(32 * kFfmaWarps) attention_ffma_kernel(AttentionArgs args) {
  constexpr int kOwn = (Dim + 31) / 32;
  FfmaShared<Dim>& shared = *shared_memory<FfmaShared<Dim>>();
  const AttentionTile tile = args.tiles[blockIdx.x];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const bool has_row = warp < tile.query_count * args.group;
  for (int d = lane; d < Dim; d += 32) {
    shared.q[warp][d] = has_row ? query_of<Dim>(args, tile, warp)[d] * args.scale : 0.0f;
  }
  float sum[kOwn] = {}, max = -INFINITY, total = 0;
  for (int first = 0; first < tile.visible; first += kAttentionKeys) {
    const int count = tile.visible - first < kAttentionKeys ? tile.visible - first : kAttentionKeys;
    __syncthreads();  // the step before has read its keys and values
    for (int i = static_cast<int>(threadIdx.x); i < kAttentionKeys * Dim; i += 32 * kFfmaWarps) {
      const int key = i / Dim, d = i % Dim;
      const int64_t from = key < count ? kv_offset<Dim>(args, tile, first + key) + d : 0;
      shared.keys[key][d] = key < count ? static_cast<const float*>(args.keys)[from] : 0.0f;
      shared.values[key][d] = key < count ? static_cast<const float*>(args.values)[from] : 0.0f;
    }
    __syncthreads();
    float score = 0;
    for (int d = 0; d < Dim; ++d) score = fmaf(shared.q[warp][d], shared.keys[lane][d], score);
    if (lane >= count) score = -INFINITY;
    const float top = fmaxf(max, warp_max(score)), factor = expf(max - top), weight = expf(score - top);
    max = top;
    total = total * factor + warp_sum(weight);
    shared.weights[warp][lane] = weight;
    __syncwarp();
    PYDLLM_UNROLL
    for (int own = 0; own < kOwn; ++own) {
      const int d = lane + 32 * own;
      sum[own] *= factor;
      if (d >= Dim) continue;
      for (int key = 0; key < count; ++key) {
        sum[own] = fmaf(shared.weights[warp][key], shared.values[key][d], sum[own]);
      }
    }
  }
  if (!has_row) return;
  const int64_t out = head_row(args, tile, warp) * Dim;
  PYDLLM_UNROLL
  for (int own = 0; own < kOwn; ++own) {
    if (lane + 32 * own < Dim) store(args, out + lane + 32 * own, sum[own] / total);
  }
}

// Rows are 16 bytes longer than they need to be, so that a fragment's rows lie in different banks.
template <int Dim>
struct MmaShared {
  BFloat16 q[16 * kMmaWarps][Dim + 8];
  BFloat16 keys[kAttentionKeys][Dim + 8];
  BFloat16 values[Dim][kAttentionKeys + 8];  // transposed: a fragment takes pairs of neighbouring keys
};

// bfloat16 pages: 16 rows per warp. Queries and softmax weights are rounded to bfloat16 for the tensor cores; scores,
// maxima and sums are float32, and the weights' sum is that of the rounded weights.
template <int Dim>
__global__ void __launch_bounds__(32 * kMmaWarps) attention_mma_kernel(AttentionArgs args) {
  MmaShared<Dim>& shared = *shared_memory<MmaShared<Dim>>();
  const AttentionTile tile = args.tiles[blockIdx.x];
  const int rows = tile.query_count * args.group, warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane / 4, pair = lane % 4 * 2;
  for (int i = static_cast<int>(threadIdx.x); i < 16 * kMmaWarps * Dim; i += 32 * kMmaWarps) {
    const int row = i / Dim, d = i % Dim;
    shared.q[row][d] = narrow<BFloat16>(row < rows ? query_of<Dim>(args, tile, row)[d] : 0.0f);
  }
  float sum[Dim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};  // of rows quad and quad + 8 of the warp
  for (int first = 0; first < tile.visible; first += kAttentionKeys) {
    const int count = tile.visible - first < kAttentionKeys ? tile.visible - first : kAttentionKeys;
    __syncthreads();  // the step before has read its keys and values
    for (int i = static_cast<int>(threadIdx.x); i < kAttentionKeys * Dim; i += 32 * kMmaWarps) {
      const int key = i / Dim, d = i % Dim;
      const int64_t from = key < count ? kv_offset<Dim>(args, tile, first + key) + d : 0;
      shared.keys[key][d] = key < count ? static_cast<const BFloat16*>(args.keys)[from] : BFloat16{0};
      shared.values[d][key] = key < count ? static_cast<const BFloat16*>(args.values)[from] : BFloat16{0};
    }
    __syncthreads();
    if (warp_row >= rows) continue;  // the whole warp; it still helps with the copies
    float score[kAttentionKeys / 8][4] = {};
    PYDLLM_UNROLL
    for (int d = 0; d < Dim; d += 16) {
      const Pairs<4> a = load_a(&shared.q[warp_row][d], Dim + 8, quad, pair);
      PYDLLM_UNROLL
      for (int n = 0; n < kAttentionKeys / 8; ++n) {
        mma(score[n], a, load_b(&shared.keys[8 * n][d], Dim + 8, quad, pair));
      }
    }
    float top[2] = {max[0], max[1]};
    PYDLLM_UNROLL
    for (int n = 0; n < kAttentionKeys / 8; ++n) {
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) {
        score[n][e] = 8 * n + pair + e % 2 < count ? score[n][e] * args.scale : -INFINITY;
        top[e / 2] = fmaxf(top[e / 2], score[n][e]);
      }
    }
    float factor[2];
    PYDLLM_UNROLL
    for (int half = 0; half < 2; ++half) {  // the four lanes of a row
      top[half] = fmaxf(top[half], __shfl_xor_sync(kAllLanes, top[half], 1));
      top[half] = fmaxf(top[half], __shfl_xor_sync(kAllLanes, top[half], 2));
      factor[half] = expf(max[half] - top[half]);
      max[half] = top[half];
      total[half] *= factor[half];
    }
    PYDLLM_UNROLL
    for (int n = 0; n < Dim / 8; ++n) {
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) sum[n][e] *= factor[e / 2];
    }
    PYDLLM_UNROLL
    for (int n = 0; n < kAttentionKeys / 8; ++n) {
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) {
        score[n][e] = widen(narrow<BFloat16>(expf(score[n][e] - max[e / 2])));
        total[e / 2] += score[n][e];
      }
    }
    PYDLLM_UNROLL
    for (int k = 0; k < kAttentionKeys / 16; ++k) {  // a result of the first product is an operand of the second
      const float *low = score[2 * k], *high = score[2 * k + 1];
      const Pairs<4> weights{
          {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])}};
      PYDLLM_UNROLL
      for (int n = 0; n < Dim / 8; ++n) {
        mma(sum[n], weights, load_b(&shared.values[8 * n][16 * k], kAttentionKeys + 8, quad, pair));
      }
    }
  }
  if (warp_row >= rows) return;
  PYDLLM_UNROLL
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(kAllLanes, total[half], 1);
    total[half] += __shfl_xor_sync(kAllLanes, total[half], 2);
    const int row = warp_row + quad + 8 * half;
    if (row >= rows) continue;
    const int64_t out = head_row(args, tile, row) * Dim;
    PYDLLM_UNROLL
    for (int n = 0; n < Dim / 8; ++n) {
      store(args, out + 8 * n + pair, sum[n][2 * half] / total[half]);
      store(args, out + 8 * n + pair + 1, sum[n][2 * half + 1] / total[half]);
    }
  }
}

std::vector<AttentionTile> attention_tiles(std::span<const AttentionSequence> sequences, int32_t group, DType dtype) {
  check(dtype == DType::kF32 || dtype == DType::kBF16, "attention: expected float32 or bfloat16 pages, got ",
        name_of(dtype));
  const int32_t rows = dtype == DType::kF32 ? kFfmaWarps : 16 * kMmaWarps;
  check(group >= 1 && group <= rows, "attention: expected 1 to ", rows, " query heads to a K/V head, got ", group);
  std::vector<AttentionTile> tiles;
  for (const AttentionSequence& sequence : sequences) {
    for (int32_t done = 0; done < sequence.query_length;) {
      int32_t count = std::min(rows / group, sequence.query_length - done), visible = sequence.kv_length;
      if (sequence.block_length > 0) {
        const int64_t position = int64_t{sequence.query_position} + done, length = sequence.block_length;
        const int64_t offset = position - sequence.block_origin;
        const int64_t block_end = sequence.block_origin + (offset < 0 ? 0 : (offset / length + 1) * length);
        count = static_cast<int32_t>(std::min<int64_t>(count, block_end - position));
        visible = static_cast<int32_t>(std::min<int64_t>(visible, block_end));
      }
      tiles.push_back({sequence.query_begin + done, count, visible, sequence.pages_begin});
      done += count;
    }
  }
  return tiles;
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
}

template <class T, class Out>
void attention(const float* q, int64_t q_width, int64_t query_column, int64_t query_heads, const T* keys,
               const T* values, int64_t kv_heads, int64_t page_size, int64_t head_dim, const AttentionTile* tiles,
               int64_t tile_count, const int32_t* pages, float scale, Out* out, Stream stream) {
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
                          const AttentionTile*, int64_t, const int32_t*, float, Out*, Stream)
PYDLLM_ATTENTION(float, float);
PYDLLM_ATTENTION(float, BFloat16);
PYDLLM_ATTENTION(float, Float16);
PYDLLM_ATTENTION(BFloat16, float);
PYDLLM_ATTENTION(BFloat16, BFloat16);
PYDLLM_ATTENTION(BFloat16, Float16);
#undef PYDLLM_ATTENTION

}  // namespace pydllm::ops::cuda
