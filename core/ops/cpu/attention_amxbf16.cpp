// Entered only after cpuid showed AMX-BF16 and the operating system granted the tile registers.
#include "ops/cpu/vector_kernels.h"

#if defined(__AMX_BF16__)

#include "ops/cpu/amx.inc"
#include "ops/cpu/attention_tile.inc"

// Streaming-softmax attention over bfloat16 pages with tile products, as in the CUDA kernel: queries and softmax
// weights are rounded to bfloat16, scores, weights' sums and results are float32. A row's sums run over the keys in the
// same steps whatever the other rows are, and a step that the row does not see adds products with zero weights.

namespace pydllm::ops::cpu {
namespace {

constexpr int64_t kStepKeys = 256;  // keys of one step of the streaming softmax
constexpr int64_t kScoreStride = kStepKeys + 16, kWeightStride = kStepKeys + 32;  // rows in different cache sets
constexpr int64_t kBlockRows = 32;                                                // rows that are multiplied together
constexpr int64_t kTileWords = 512;                                               // bfloat16 values of a tile
constexpr int64_t kTilesOfStep = kStepKeys / kTileDepth;

struct Work {
  float* out;         // [rows, padded_dim]: the result
  float* max;         // [rows]
  float* sum;         // [rows]
  float* factor;      // [kBlockRows]: what a row's sums are multiplied by in this step
  float* scores;      // [kBlockRows, kStepKeys], rows kScoreStride apart
  float* product;     // [kBlockRows, 32]
  uint16_t* weights;  // [kBlockRows, kStepKeys], rows kWeightStride apart
  uint16_t* q;        // [rows + kBlockRows, depth]
  uint16_t* keys;     // tiles [kStepKeys / 16, depth / 32] of [16 pairs of dimensions, 16 keys, 2]
  uint16_t* values;   // tiles [depth / 16, kStepKeys / 32] of [16 pairs of keys, 16 dimensions, 2]
};

// head_dim in whole tiles.
inline int64_t depth_of(const AttentionTile& tile) {
  return (tile.head_dim + kTileDepth - 1) / kTileDepth * kTileDepth;
}

Work lay_out(const AttentionTile& tile, WorkMemory& memory) {
  const int64_t rows = tile.rows(), depth = depth_of(tile);
  const auto words = [&](int64_t count) { return reinterpret_cast<uint16_t*>(memory.take((count + 1) / 2)); };
  Work work{};
  work.out = memory.take(rows * tile.padded_dim());
  work.max = memory.take(rows);
  work.sum = memory.take(rows);
  work.factor = memory.take(kBlockRows);
  work.scores = memory.take(kBlockRows * kScoreStride);
  work.product = memory.take(kBlockRows * 2 * kTileColumns);
  work.weights = words(kBlockRows * kWeightStride);
  work.q = words((rows + kBlockRows) * depth);
  work.keys = words(kStepKeys * depth);
  work.values = words(kStepKeys * depth);
  return work;
}

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xFFFF : count <= 0 ? 0 : (1 << count) - 1);
}
inline __mmask32 first_words(int64_t count) {
  return count >= 32 ? ~__mmask32{0} : count <= 0 ? 0 : (__mmask32{1} << count) - 1;
}

// Two vectors rounded to bfloat16, the second behind the first.
inline __m512i to_bf16(__m512 first, __m512 second) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}

// All lanes become op of all lanes, in a fixed tree. (GCC 12 warns of an undefined register in its own reductions.)
template <class Op>
inline float reduce(__m512 x, Op op) {
  x = op(x, _mm512_maskz_shuffle_f32x4(0xFFFF, x, x, 0x4E));
  x = op(x, _mm512_maskz_shuffle_f32x4(0xFFFF, x, x, 0xB1));
  x = op(x, _mm512_maskz_permute_ps(0xFFFF, x, 0x4E));
  x = op(x, _mm512_maskz_permute_ps(0xFFFF, x, 0xB1));
  return x[0];
}

void start_rows(const AttentionTile& tile, const Work& work) {
  const int64_t depth = depth_of(tile), padded = tile.padded_dim();
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const float* const q = tile.q + r / tile.group * tile.q_stride + r % tile.group * tile.head_dim;
    for (int64_t d = 0; d < depth; d += kTileDepth) {
      const __m512 first = _mm512_maskz_loadu_ps(first_lanes(tile.head_dim - d), q + d);
      const __m512 second = _mm512_maskz_loadu_ps(first_lanes(tile.head_dim - d - 16), q + d + 16);
      _mm512_store_si512(work.q + r * depth + d, to_bf16(first, second));
    }
    for (int64_t d = 0; d < padded; d += kLanes) store(work.out + r * padded + d, Vec{});
    work.max[r] = -__builtin_inff();
    work.sum[r] = 0;
  }
}

inline BitVec widen(__m256i x) {
  return __builtin_convertvector(reinterpret_cast<HalfVec>(x), BitVec);
}

typedef int64_t PairVec __attribute__((vector_size(64)));

// Columns of 32-bit words become rows: out[j] = words j of x[0..15]. (Shuffles of GCC's own: those of its intrinsics
// warn of an undefined register in GCC 12.)
inline void transpose(IntVec (&x)[16]) {
  IntVec y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  const auto low = [](IntVec a, IntVec b) {
    return reinterpret_cast<IntVec>(
        __builtin_shufflevector(reinterpret_cast<PairVec>(a), reinterpret_cast<PairVec>(b), 0, 8, 2, 10, 4, 12, 6, 14));
  };
  const auto high = [](IntVec a, IntVec b) {
    return reinterpret_cast<IntVec>(
        __builtin_shufflevector(reinterpret_cast<PairVec>(a), reinterpret_cast<PairVec>(b), 1, 9, 3, 11, 5, 13, 7, 15));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = low(y[i], y[i + 2]);
    x[i + 1] = high(y[i], y[i + 2]);
    x[i + 2] = low(y[i + 1], y[i + 3]);
    x[i + 3] = high(y[i + 1], y[i + 3]);
  }
  const auto even = [](IntVec a, IntVec b) {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  };
  const auto odd = [](IntVec a, IntVec b) {
    return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  };
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    y[i] = even(x[i], x[i + 4]);
    y[i + 4] = odd(x[i], x[i + 4]);
    y[i + 8] = even(x[i + 8], x[i + 12]);
    y[i + 12] = odd(x[i + 8], x[i + 12]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = even(y[i], y[i + 8]);
    x[i + 4] = even(y[i + 4], y[i + 12]);
    x[i + 8] = odd(y[i], y[i + 8]);
    x[i + 12] = odd(y[i + 4], y[i + 12]);
  }
}

// Keys [first, first + count); columns up to the next multiple of 16 repeat the last key.
void gather_keys(const AttentionTile& tile, int64_t first, int64_t count, const Work& work) {
  const int64_t depth = depth_of(tile);
  uint16_t* out = work.keys;
  for (int64_t j = 0; j < count; j += kTileColumns) {
    const uint16_t* row[kTileColumns];
    for (int64_t i = 0; i < kTileColumns; ++i) {
      row[i] = row_at<uint16_t>(tile, tile.keys, first + (j + i < count ? j + i : count - 1));
    }
    for (int64_t d = 0; d < depth; d += kTileDepth, out += kTileWords) {
      const __mmask32 held = first_words(tile.head_dim - d);
      IntVec x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = reinterpret_cast<IntVec>(_mm512_maskz_loadu_epi16(held, row[i] + d));
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * 32, reinterpret_cast<__m512i>(x[i]));
    }
  }
}

// Values [first, first + count), zeros behind them up to the next multiple of 32. False when one is not finite.
bool gather_values(const AttentionTile& tile, int64_t first, int64_t count, const Work& work) {
  const __m512i exponent = _mm512_set1_epi16(0x7F80);
  const int64_t depth = depth_of(tile), pairs = (count + kTileDepth - 1) / kTileDepth * kTileRows;
  __mmask32 infinite = 0;
  for (int64_t p = 0; p < pairs; ++p) {
    const bool one = 2 * p < count, two = 2 * p + 1 < count;
    const uint16_t* const a = one ? row_at<uint16_t>(tile, tile.values, first + 2 * p) : nullptr;
    const uint16_t* const b = two ? row_at<uint16_t>(tile, tile.values, first + 2 * p + 1) : nullptr;
    uint16_t* out = work.values + p / kTileRows * kTileWords + p % kTileRows * 32;
    for (int64_t d = 0; d < depth; d += kTileColumns, out += kTilesOfStep * kTileWords) {
      const __mmask16 held = first_lanes(tile.head_dim - d);
      const BitVec low = widen(_mm256_maskz_loadu_epi16(one ? held : 0, a + d));
      const BitVec high = widen(_mm256_maskz_loadu_epi16(two ? held : 0, b + d));
      const auto both = reinterpret_cast<__m512i>(low | high << 16);
      infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(both, exponent), exponent);
      _mm512_store_si512(out, both);
    }
  }
  return infinite == 0;
}

// out[rows, 32] of two by two tiles: left [rows, steps * 32] with rows `left_stride` values apart; right two rows of
// tiles, `right_stride` values apart. kLower: more than 16 of the rows exist.
template <bool kLower>
inline void multiply(const uint16_t* left, int64_t left_stride, const uint16_t* right, int64_t right_stride,
                     int64_t steps, float* out, int64_t out_stride) {
  const int64_t left_bytes = left_stride * 2, out_bytes = out_stride * 4;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kLower) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; ++s, left += kTileDepth, right += kTileWords) {
    _tile_loadd(6, right, 64);
    _tile_loadd(4, left, left_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, right + right_stride, 64);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kLower) {
      _tile_loadd(5, left + kTileRows * left_stride, left_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_bytes);
  _tile_stored(1, out + kTileColumns, out_bytes);
  if constexpr (kLower) {
    _tile_stored(2, out + kTileRows * out_stride, out_bytes);
    _tile_stored(3, out + kTileRows * out_stride + kTileColumns, out_bytes);
  }
}

// Scores of one row become weights e^(score - max), rounded, with zeros up to `width`, for the `view` keys it sees.
void soften_row(const AttentionTile& tile, const Work& work, int64_t row, int64_t place, int64_t view, int64_t width) {
  float* const scores = work.scores + place * kScoreStride;
  uint16_t* const weights = work.weights + place * kWeightStride;
  const __m512 scale = _mm512_set1_ps(tile.scale), nothing = _mm512_set1_ps(-__builtin_inff());
  __m512 best = _mm512_set1_ps(work.max[row]);
  for (int64_t j = 0; j < view; j += kLanes) {
    const __m512 scaled = _mm512_maskz_mul_ps(0xFFFF, _mm512_load_ps(scores + j), scale);
    const __m512 seen = _mm512_mask_mov_ps(nothing, first_lanes(view - j), scaled);
    _mm512_store_ps(scores + j, seen);
    best = max(best, seen);
  }
  const float top = view > 0 ? reduce(best, [](__m512 a, __m512 b) { return max(a, b); }) : work.max[row];
  const float factor = top == work.max[row] ? 1 : exp_nonpositive(broadcast(work.max[row] - top))[0];
  __m512 sum = _mm512_setzero_ps();
  for (int64_t j = 0; j < width; j += 2 * kLanes) {
    __m512 weight[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const int64_t begin = j + half * kLanes;
      const Vec e = begin < view ? exp_nonpositive(load(scores + begin) - top) : Vec{};
      weight[half] = _mm512_maskz_mov_ps(first_lanes(view - begin), e);
      sum = sum + weight[half];
    }
    _mm512_store_si512(weights + j, to_bf16(weight[0], weight[1]));
  }
  work.max[row] = top;
  work.sum[row] = work.sum[row] * factor + reduce(sum, [](__m512 a, __m512 b) { return a + b; });
  work.factor[place] = factor;
}

// out = out * factor + weights x values of `count` rows from `row` on.
void add_values(const AttentionTile& tile, const Work& work, int64_t row, int64_t count, int64_t steps) {
  const int64_t padded = tile.padded_dim();
  const auto run = count > kTileRows ? multiply<true> : multiply<false>;
  for (int64_t d = 0; d < depth_of(tile); d += 2 * kTileColumns) {
    const uint16_t* const values = work.values + d / kTileColumns * kTilesOfStep * kTileWords;
    settle_memory();
    run(work.weights, kWeightStride, values, kTilesOfStep * kTileWords, steps, work.product, 2 * kTileColumns);
    settle_memory();
    for (int64_t r = 0; r < count; ++r) {
      const Vec factor = broadcast(work.factor[r]);
      float* const out = work.out + (row + r) * padded;
      for (int64_t c = d; c < padded && c < d + 2 * kTileColumns; c += kLanes) {
        store(out + c, fma(load(out + c), factor, load(work.product + r * 2 * kTileColumns + c - d)));
      }
    }
  }
}

// Of the step that begins at key `first` and has `count` keys.
inline int64_t seen_by(const AttentionTile& tile, int64_t row, int64_t first, int64_t count) {
  const int64_t left = visible_keys(tile, row / tile.group) - first;
  return left < 0 ? 0 : left < count ? left : count;
}

// Adds a step's keys to `count` rows, at most kBlockRows; the last of them sees most.
void add_keys(const AttentionTile& tile, const Work& work, int64_t row, int64_t count, int64_t first, int64_t keys) {
  const int64_t depth = depth_of(tile), most = seen_by(tile, row + count - 1, first, keys);
  const int64_t steps = (most + kTileDepth - 1) / kTileDepth, key_tiles = depth / kTileDepth * kTileWords;
  const auto run = count > kTileRows ? multiply<true> : multiply<false>;
  settle_memory();
  for (int64_t s = 0; s < steps; ++s) {
    run(work.q + row * depth, depth, work.keys + 2 * s * key_tiles, key_tiles, depth / kTileDepth,
        work.scores + s * kTileDepth, kScoreStride);
  }
  settle_memory();
  for (int64_t r = 0; r < count; ++r) {
    soften_row(tile, work, row + r, r, seen_by(tile, row + r, first, keys), steps * kTileDepth);
  }
  add_values(tile, work, row, count, steps);
}

// The same where a value that some of the rows do not see is not finite, which a zero weight would not keep from them:
// rows that see equally much are taken together, with zeros for the rest.
void add_keys_by_view(const AttentionTile& tile, const Work& work, int64_t row, int64_t count, int64_t first,
                      int64_t keys) {
  for (int64_t begin = row, end = row; begin < row + count; begin = end) {
    const int64_t view = seen_by(tile, begin, first, keys);
    while (end < row + count && seen_by(tile, end, first, keys) == view) ++end;
    if (view == 0) continue;
    gather_values(tile, first, view, work);
    add_keys(tile, work, begin, end - begin, first, keys);
  }
  gather_values(tile, first, keys, work);
}

void add_step(const AttentionTile& tile, const Work& work, int64_t first, int64_t keys) {
  gather_keys(tile, first, keys, work);
  const bool finite = gather_values(tile, first, keys, work);
  for (int64_t row = 0; row < tile.rows(); row += kBlockRows) {
    const int64_t count = tile.rows() - row < kBlockRows ? tile.rows() - row : kBlockRows;
    if (seen_by(tile, row + count - 1, first, keys) == 0) continue;
    if (finite || seen_by(tile, row, first, keys) == keys) {
      add_keys(tile, work, row, count, first, keys);
    } else {
      add_keys_by_view(tile, work, row, count, first, keys);
    }
  }
}

int64_t memory_kernel(const AttentionTile& tile) {
  if (!tile.bf16) return avx512_kernels()->attention_memory(tile);
  WorkMemory memory{nullptr};
  lay_out(tile, memory);
  return memory.floats;
}

void kernel(const AttentionTile& tile, float* memory) {
  if (!tile.bf16) return avx512_kernels()->attention(tile, memory);
  WorkMemory space{memory};
  const Work work = lay_out(tile, space);
  start_rows(tile, work);
  configure_tiles();
  const int64_t keys = visible_keys(tile, tile.queries - 1);
  for (int64_t first = 0; first < keys; first += kStepKeys) {
    add_step(tile, work, first, keys - first < kStepKeys ? keys - first : kStepKeys);
  }
  _tile_release();  // a thread that holds tiles is dearer to switch
  const int64_t padded = tile.padded_dim();
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const Vec factor = broadcast(1.0f / work.sum[r]);
    for (int64_t d = 0; d < padded; d += kLanes)
      store(work.out + r * padded + d, load(work.out + r * padded + d) * factor);
  }
}

constexpr int64_t kRows = 384;

VectorKernels with_tiles() {
  VectorKernels kernels = *avx512_kernels();
  kernels.isa = "amxbf16";
  kernels.bf16_attention_rows = kRows;
  kernels.attention_memory = memory_kernel;
  kernels.attention = kernel;
  return kernels;
}

}  // namespace

const VectorKernels* amxbf16_kernels() {
  static const VectorKernels kernels = with_tiles();
  return &kernels;
}

}  // namespace pydllm::ops::cpu

#else

namespace pydllm::ops::cpu {

const VectorKernels* amxbf16_kernels() {
  return nullptr;
}

}  // namespace pydllm::ops::cpu

#endif
