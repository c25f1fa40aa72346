// Entered only after cpuid showed AMX-BF16 and the operating system granted the tile registers.
#if defined(__x86_64__)

#include <immintrin.h>

#include "ops/cpu/linear_panel.h"

// A tile register is 16 rows of 64 bytes: 16 sums of float32, or 32 k of a row of x, or the 16 columns of 16 k-pairs,
// which is how a panel holds them. TDPBF16PS multiplies two and adds to a third. Two by two tiles of sums use every
// tile that is loaded twice.

namespace pydllm::ops::cpu {
namespace {

constexpr int kTileRows = 16, kTileDepth = 32, kTileColumns = 16;
constexpr int kGroupRows = 2 * kTileRows;            // rows that are summed together
constexpr int kGroupColumns = 2 * kTileColumns;      // and columns
constexpr int64_t kPairBytes = kPanelWidth * 2 * 2;  // a k-pair of a panel

// GCC does not know which memory its tile intrinsics read and write: nothing moves across this.
[[gnu::always_inline]] inline void settle_memory() {
  asm volatile("" ::: "memory");
}

// What LDTILECFG reads (Intel SDM, volume 1, 18.2).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 columns of the panel.
inline void configure() {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = kTileRows;
  }
  settle_memory();
  _tile_loadconfig(&config);
}

// One step of 32 k: x is [32 rows, 32], w the first k-pair's first column. kLower: more than 16 of the rows exist.
template <bool kLower>
[[gnu::always_inline]] inline void step(const char* x, const char* w, int64_t w_stride) {
  _tile_loadd(6, w, w_stride);
  _tile_loadd(4, x, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, w + kTileColumns * 4, w_stride);
  _tile_dpbf16ps(1, 4, 7);
  if constexpr (kLower) {
    _tile_loadd(5, x + kTileRows * 64, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// The last k when there are fewer than 32: the panel's are copied, with zeros behind them. What lies behind them in
// memory is another panel, or nobody's.
template <bool kLower>
inline void last_step(const char* x, const char* w, int depth) {
  alignas(64) char columns[kTileRows * kGroupColumns * 4];
  __builtin_memset(columns, 0, sizeof(columns));
  for (int pair = 0; pair < (depth + 1) / 2; ++pair) {
    __builtin_memcpy(columns + pair * kGroupColumns * 4, w + pair * kPairBytes, kGroupColumns * 4);
  }
  settle_memory();
  step<kLower>(x, columns, kGroupColumns * 4);
  settle_memory();
}

// sums[r, 0 : 32] of a group of rows, a row of `sums` being kPanelWidth floats. Every sum runs over k in the same steps
// whatever the rows are.
template <bool kLower>
inline void multiply_group(const char* x, const char* w, int64_t depth, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kLower) {
    _tile_zero(2);
    _tile_zero(3);
  }
  int64_t k = 0;
  for (; k + kTileDepth <= depth; k += kTileDepth, x += kTiledRows * 64, w += kTileRows * kPairBytes) {
    step<kLower>(x, w, kPairBytes);
  }
  if (k < depth) last_step<kLower>(x, w, static_cast<int>(depth - k));
  constexpr int kStride = kPanelWidth * static_cast<int>(sizeof(float));
  _tile_stored(0, sums, kStride);
  _tile_stored(1, sums + kTileColumns, kStride);
  if constexpr (kLower) {
    _tile_stored(2, sums + kTileRows * kPanelWidth, kStride);
    _tile_stored(3, sums + kTileRows * kPanelWidth + kTileColumns, kStride);
  }
  settle_memory();
}

// sums (+ bias, + y), sixteen columns at a time.
inline void write_group_row(const PanelJob& job, int row, const float* sums) {
  float* const y = job.y + row * job.y_stride;
  for (int c = 0; c < job.columns; c += kTileColumns) {
    const int left = job.columns - c;
    const auto held = static_cast<__mmask16>(left < kTileColumns ? (1 << left) - 1 : 0xFFFF);
    __m512 value = _mm512_load_ps(sums + c);
    if (job.bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(held, job.bias + c));
    if (job.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(held, y + c), value);
    _mm512_mask_storeu_ps(y + c, held, value);
  }
}

}  // namespace

void linear_bf16_amxbf16(const PanelJob& job);
void linear_bf16_amxbf16(const PanelJob& job) {
  alignas(64) float sums[kTiledRows * kPanelWidth];
  const auto* const x = static_cast<const char*>(job.x);
  const auto* const panel = static_cast<const char*>(job.panel);
  configure();
  for (int row = 0; row < job.rows; row += kTiledRows) {
    const int rows = job.rows - row < kTiledRows ? job.rows - row : kTiledRows;
    const char* const group = x + row * job.x_stride * 2;
    // y is on its way while the products are made; the stores would wait for it otherwise.
    for (int r = 0; r < rows; ++r) {
      const float* const y = job.y + (row + r) * job.y_stride;
      for (int c = 0; c < job.columns; c += kTileColumns) __builtin_prefetch(y + c, 1);
    }
    for (int c = 0; c < job.columns; c += kGroupColumns) {
      if (rows > kTileRows) {
        multiply_group<true>(group, panel + c * 4, job.depth, sums + c);
      } else {
        multiply_group<false>(group, panel + c * 4, job.depth, sums + c);
      }
    }
    for (int r = 0; r < rows; ++r) write_group_row(job, row + r, sums + r * kPanelWidth);
  }
  _tile_release();  // a thread that holds tiles is dearer to switch
}

}  // namespace pydllm::ops::cpu

#endif
