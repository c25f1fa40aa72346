// Entered only after cpuid showed AMX-BF16 and the operating system granted the tile registers.
#if defined(__x86_64__)

#include "ops/cpu/amx.inc"
#include "ops/cpu/linear_panel.h"

// Two by two tiles of sums use every tile that is loaded twice.

namespace pydllm::ops::cpu {
namespace {

constexpr int kGroupRows = 2 * kTileRows;            // rows that are summed together
constexpr int kGroupColumns = 2 * kTileColumns;      // and columns
constexpr int64_t kPairBytes = kPanelWidth * 2 * 2;  // a k-pair of a panel

// Lines of memory that later steps want, fetched into the second-level cache a few at a time: between tile loads the
// core would wait for each of them, and the hardware's prefetchers end at a page of 4 KiB.
struct Ahead {
  const char* next;
  const char* end;
  int lines_per_step;

  [[gnu::always_inline]] void fetch() {
    if (next >= end) return;
    for (int i = 0; i < lines_per_step; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T1);
  }
};

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

// sums[32, 32] (+)= x w over a slice of k. A row's sums run over k in the same steps whatever the other rows are, and a
// stop between slices does not change them: tiles and memory both hold float32.
template <bool kLower>
inline void multiply_group(const char* x, const char* w, int64_t depth, float* sums, bool fresh, Ahead& ahead) {
  constexpr int kStride = kGroupColumns * static_cast<int>(sizeof(float));
  float* const lower = sums + kTileRows * kGroupColumns;
  settle_memory();
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kLower) {
      _tile_zero(2);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, sums, kStride);
    _tile_loadd(1, sums + kTileColumns, kStride);
    if constexpr (kLower) {
      _tile_loadd(2, lower, kStride);
      _tile_loadd(3, lower + kTileColumns, kStride);
    }
  }
  int64_t k = 0;
  for (; k + kTileDepth <= depth; k += kTileDepth, x += kTiledRows * 64, w += kTileRows * kPairBytes) {
    ahead.fetch();
    step<kLower>(x, w, kPairBytes);
  }
  if (k < depth) last_step<kLower>(x, w, static_cast<int>(depth - k));
  _tile_stored(0, sums, kStride);
  _tile_stored(1, sums + kTileColumns, kStride);
  if constexpr (kLower) {
    _tile_stored(2, lower, kStride);
    _tile_stored(3, lower + kTileColumns, kStride);
  }
  settle_memory();
}

// y = sums (+ bias) (+ y) of one row, for up to 32 columns.
inline void write_row(const PanelJob& job, int row, int column, int columns, const float* sums) {
  float* const y = job.y + row * job.y_stride + column;
  for (int c = 0; c < columns; c += kTileColumns) {
    const int left = columns - c;
    const auto held = static_cast<__mmask16>(left < kTileColumns ? (1 << left) - 1 : 0xFFFF);
    __m512 value = _mm512_load_ps(sums + c);
    if (job.bias != nullptr) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(held, job.bias + column + c));
    if (job.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(held, y + c), value);
    _mm512_mask_storeu_ps(y + c, held, value);
  }
}

// k [begin, begin + depth), of all panels and rows.
struct Slice {
  int64_t begin;
  int64_t depth;

  const char* of(const void* panel) const { return static_cast<const char*>(panel) + begin * kPanelWidth * 2; }
};

inline Slice slice_at(const PanelJob& job, int64_t k) {
  return {k, job.depth - k < kDepthBlock ? job.depth - k : kDepthBlock};
}

inline const void* panel_at(const PanelJob& job, int panel) {
  return static_cast<const char*>(job.panel) + panel * job.panel_stride;
}

// What is multiplied after this panel's slice, to be fetched in its steps.
inline Ahead look_ahead(const PanelJob& job, const Slice& slice, int panel) {
  const void* next = panel + 1 < job.panels ? panel_at(job, panel + 1) : job.panel;
  Slice part = slice;
  if (panel + 1 == job.panels) {
    part = slice_at(job, slice.begin + slice.depth);
    if (part.depth <= 0) {
      part = slice_at(job, 0);
      next = job.upcoming;
    }
  }
  if (next == nullptr) return {};
  const int64_t lines = part.depth * kPanelWidth * 2 / 64;
  const int64_t steps = (job.rows + kTiledRows - 1) / kTiledRows * (kPanelWidth / kGroupColumns) *
                        ((slice.depth + kTileDepth - 1) / kTileDepth);
  return {part.of(next), part.of(next) + lines * 64, static_cast<int>((lines + steps - 1) / steps)};
}

// One panel's slice with all rows; `sums` [groups of rows, 2, 32, 32].
inline void multiply_panel(const PanelJob& job, const Slice& slice, int panel, float* sums) {
  const auto* const x = static_cast<const char*>(job.x) + slice.begin * kTiledRows * 2;
  const char* const w = slice.of(panel_at(job, panel));
  const bool last = slice.begin + slice.depth == job.depth;
  Ahead ahead = look_ahead(job, slice, panel);
  for (int row = 0; row < job.rows; row += kTiledRows) {
    const int rows = job.rows - row < kTiledRows ? job.rows - row : kTiledRows;
    for (int c = 0; c < kPanelWidth; c += kGroupColumns, sums += kTiledRows * kGroupColumns) {
      const int column = panel * kPanelWidth + c, left = job.columns - column;
      if (left <= 0) continue;
      const auto multiply = rows > kTileRows ? multiply_group<true> : multiply_group<false>;
      multiply(x + row * job.x_stride * 2, w + c * 4, slice.depth, sums, slice.begin == 0, ahead);
      const int columns = left < kGroupColumns ? left : kGroupColumns;
      for (int r = 0; last && r < rows; ++r) write_row(job, row + r, column, columns, sums + r * kGroupColumns);
    }
  }
}

}  // namespace

// Slices of k outside, panels inside: a slice of x stays in the second-level cache for all panels, a panel's for all
// rows. Measured with 320 rows on Emerald Rapids, in ns for a step of 32 x 32 x 32: 68 (k = 2048) and 66 (k = 5632);
// 79 and 106 without slices and fetching ahead.
void linear_bf16_amxbf16(const PanelJob& job);
void linear_bf16_amxbf16(const PanelJob& job) {
  configure_tiles();
  const int64_t panel_sums = (job.rows + kTiledRows - 1) / kTiledRows * kTiledRows * kPanelWidth;
  for (int64_t k = 0; k < job.depth; k += kDepthBlock) {
    for (int panel = 0; panel < job.panels; ++panel) {
      multiply_panel(job, slice_at(job, k), panel, job.sums + panel * panel_sums);
    }
  }
  _tile_release();  // a thread that holds tiles is dearer to switch
}

}  // namespace pydllm::ops::cpu

#endif
