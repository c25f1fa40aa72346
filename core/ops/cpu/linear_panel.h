// Private to core/ops/cpu: the arguments of a panel kernel and its loops, shared by all instruction sets.
//
// A panel is 64 output columns of the weight, [steps, 64, kStep] with kStep consecutive k side by side: kStep is 2 for
// bfloat16 (what VDPBF16PS and TDPBF16PS read), 1 otherwise. The last panel is padded with zero columns, an odd k with
// a zero.
//
// Included by sources that are compiled for instruction sets the machine may lack: everything here is a template over a
// traits type of the including source's unnamed namespace, hence local to it, and no std function is called.
#pragma once

#include <cstdint>

namespace pydllm::ops::cpu {

constexpr int kPanelWidth = 64;
constexpr int kRowBlock = 96;      // rows of x one job covers at most, if LinearKernel does not say otherwise
constexpr int kDepthBlock = 1024;  // k handled at a time; even

// Tiled x, for kernels that want it: groups of 32 rows, a group [steps of k, 32 rows, 32 k], zeros behind the last row
// and k. As it is, the rows of a tile lie in as many pages, and in the same cache set where a row is a multiple of 4
// KiB.
constexpr int kTiledRows = 32, kTiledDepth = 32;

// y[r, c] = sum_k x[r, k] w[c, k] + bias[c] (+ y[r, c]) for the columns of some panels that follow one another.
struct PanelJob {
  const void* x;  // [rows, depth], the kernel's input type; or tiled, a group's x_stride * kTiledRows apart
  int64_t x_stride;
  const void* panel;     // the first; the kernel's weight type, 64-byte aligned
  int64_t panel_stride;  // bytes
  int panels;            // 1 to LinearKernel::most_panels
  const void* upcoming;  // the first panel that this thread will probably want next, or null
  int64_t depth;
  int rows;           // 1 to LinearKernel::most_rows
  int columns;        // of all panels: those that exist
  const float* bias;  // [columns] or null
  bool accumulate;
  float* sums;  // work memory [panels, rows rounded up to kTiledRows, kPanelWidth], 64-byte aligned; null where
                // most_panels is 1
  float* y;     // [rows, columns]
  int64_t y_stride;
};

// Traits T: Input, Weight, Vector (kLanes floats); kStep; kPhases, the multiply-adds that one step takes; a tile of
// kRows x kVectors vectors that fits the registers; and
//   Vector zero(), load(const float*); void store(float*, Vector)
//   Vector columns<phase>(const Weight*)   kLanes columns of one step
//   Vector inputs<phase>(const Input*)     the x of one step, for all lanes
//   Vector last_input(const Input*)        the same when only the first k of the step exists
//   Vector multiply_add(a, b, c)           a * b + c
template <class T, int R, int V, int phase, bool kLast>
[[gnu::always_inline]] inline void multiply_phase(typename T::Vector (&sums)[R][V], const typename T::Input* x,
                                                  int64_t x_stride, const typename T::Weight* w) {
  typename T::Vector columns[V];
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) columns[v] = T::template columns<phase>(w + v * T::kLanes * T::kStep);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    typename T::Vector input;
    if constexpr (kLast) {
      input = T::last_input(x + r * x_stride);
    } else {
      input = T::template inputs<phase>(x + r * x_stride);
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sums[r][v] = T::multiply_add(input, columns[v], sums[r][v]);
  }
}

// partial[r, :] = (fresh ? 0 : partial[r, :]) + x[r, :] w for R rows and V vectors of columns. Every sum runs over k in
// ascending order whatever R and V are, so a row's result does not depend on its neighbours.
template <class T, int R, int V>
inline void multiply_tile(const typename T::Input* x, int64_t x_stride, const typename T::Weight* w, int64_t depth,
                          float* partial, bool fresh) {
  typename T::Vector sums[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sums[r][v] = fresh ? T::zero() : T::load(partial + r * kPanelWidth + v * T::kLanes);
  }
  // No software prefetch: the panel is one ascending stream, and hints made it up to 1.25 times slower at one row and
  // no faster at 32 to 512 (bench/linear.py on Zen 4).
  int64_t k = 0;
  for (; k + T::kStep <= depth; k += T::kStep, w += kPanelWidth * T::kStep) {
    multiply_phase<T, R, V, 0, false>(sums, x + k, x_stride, w);
    if constexpr (T::kPhases == 2) multiply_phase<T, R, V, 1, false>(sums, x + k, x_stride, w);
  }
  if constexpr (T::kStep == 2) {
    if (k < depth) multiply_phase<T, R, V, 0, true>(sums, x + k, x_stride, w);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) T::store(partial + r * kPanelWidth + v * T::kLanes, sums[r][v]);
  }
}

// All 64 columns of R rows.
template <class T, int R>
inline void multiply_rows(const typename T::Input* x, int64_t x_stride, const typename T::Weight* w, int64_t depth,
                          float* partial, bool fresh) {
  // A single row needs more independent sums than one tile's to hide the latency of the multiply-add.
  constexpr int kVectors = R == 1 ? T::kVectorsOfOneRow : T::kVectors;
  constexpr int kColumns = kVectors * T::kLanes;
  for (int c = 0; c < kPanelWidth; c += kColumns) {
    multiply_tile<T, R, kVectors>(x, x_stride, w + c * T::kStep, depth, partial + c, fresh);
  }
}

template <class T, int R = T::kRows>
inline void multiply_some_rows(int rows, const typename T::Input* x, int64_t x_stride, const typename T::Weight* w,
                               int64_t depth, float* partial, bool fresh) {
  if constexpr (R == 1) {
    multiply_rows<T, 1>(x, x_stride, w, depth, partial, fresh);
  } else {
    if (rows == R) return multiply_rows<T, R>(x, x_stride, w, depth, partial, fresh);
    multiply_some_rows<T, R - 1>(rows, x, x_stride, w, depth, partial, fresh);
  }
}

template <class T>
inline void write_row(const PanelJob& job, int row, const float* sums) {
  float* const y = job.y + row * job.y_stride;
  for (int c = 0; c < job.columns; ++c) {
    const float value = job.bias != nullptr ? sums[c] + job.bias[c] : sums[c];
    y[c] = job.accumulate ? y[c] + value : value;
  }
}

template <class T>
inline void run_panel(const PanelJob& job) {
  alignas(64) float partial[kRowBlock * kPanelWidth];
  const auto* const x = static_cast<const typename T::Input*>(job.x);
  const auto* const panel = static_cast<const typename T::Weight*>(job.panel);
  for (int64_t k = 0; k < job.depth; k += kDepthBlock) {
    const int64_t depth = job.depth - k < kDepthBlock ? job.depth - k : kDepthBlock;
    const bool last = k + depth == job.depth;
    for (int row = 0; row < job.rows; row += T::kRows) {
      const int rows = job.rows - row < T::kRows ? job.rows - row : T::kRows;
      multiply_some_rows<T>(rows, x + row * job.x_stride + k, job.x_stride, panel + k * kPanelWidth, depth,
                            partial + row * kPanelWidth, k == 0);
      for (int r = row; last && r < row + rows; ++r) write_row<T>(job, r, partial + r * kPanelWidth);
    }
  }
}

}  // namespace pydllm::ops::cpu
