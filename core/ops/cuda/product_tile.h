// A block's tile of a matrix product: up to 64 rows of x times 64 rows of a weight, which may lie anywhere. MmaTile
// multiplies bfloat16 on the tensor cores, FfmaTile float32 with float32 or float16. Sums are float32 and run over the
// depth in one order, so that a result depends neither on the tile's other rows nor on how many there are.
#pragma once

#include "ops/cuda/mma.h"

namespace pydllm::ops::cuda {

constexpr int kTile = 64;

// Null is a row of zeros; the first rows are never null.
template <class X, class W, int Rows>
struct TileRows {
  const X* x[Rows];
  const W* weight[kTile];
};

// Where a gate and its up are summed by one thread: the weight's rows of a tile are Span gates, their Span ups, and so
// on. Row r belongs to this one of the tile's 32 features and is its up where r / Span is odd.
template <int Span>
__device__ inline int gated_feature(int r) {
  return r / (2 * Span) * Span + r % Span;
}

// Four warps of 32 x 32 results each, 32 x 16 in tiles of 32 rows and 16 x 16 in tiles of 16.
template <int Rows>
struct MmaTile {
  static_assert(Rows == 16 || Rows == 32 || Rows == 64);
  using X = BFloat16;
  using W = BFloat16;
  static constexpr unsigned kThreads = 128;
  // That fit on a multiprocessor at least, so that a thread may have 64 registers: left to itself nvcc takes 32 for
  // the small tiles and spills.
  static constexpr unsigned kBlocks = 8;
  static constexpr int kRows = Rows;
  static constexpr int kWarpRows = Rows < 32 ? Rows : 32, kWarpsAcross = 4 * kWarpRows / Rows;
  static constexpr int kWarpColumns = kTile / kWarpsAcross;
  static constexpr int kDown = kWarpRows / 16, kAcross = kWarpColumns / 8;  // fragments of a warp
  static constexpr int kDepth = 32;
  static constexpr int kSpan = 8;

  // Rows of 80 bytes: 16-byte copies stay aligned and a fragment's rows lie in different banks.
  struct Stage {
    BFloat16 x[Rows][kDepth + 8];
    BFloat16 weight[kTile][kDepth + 8];
  };
  struct Shared {
    TileRows<X, W, Rows> rows;
    Stage stages[2];
  };

  float sum[kDown][kAcross][4] = {};

  // Elements [k, k + kDepth) of all rows, 0 beyond the depth. Where rows are whole chunks of 16 bytes the copies are
  // asynchronous.
  template <int Count>
  static __device__ void fetch(const BFloat16* const* rows, int64_t depth, int64_t k, BFloat16 (*to)[kDepth + 8]) {
    for (int i = static_cast<int>(threadIdx.x); i < Count * kDepth / 8; i += static_cast<int>(kThreads)) {
      const int r = i / (kDepth / 8), chunk = i % (kDepth / 8) * 8;
      const BFloat16* row = rows[r];
      const int64_t column = k + chunk;
      if (depth % 8 == 0) {
        const bool inside = row != nullptr && column < depth;
        copy_async(&to[r][chunk], inside ? row + column : rows[0], inside ? 16 : 0);
        continue;
      }
      for (int e = 0; e < 8; ++e) {
        const bool inside = row != nullptr && column + e < depth;
        to[r][chunk + e] = inside ? row[column + e] : BFloat16{0};
      }
    }
  }

  static __device__ void fetch_stage(Shared& shared, int64_t depth, int64_t k) {
    Stage& stage = shared.stages[k / kDepth % 2];
    if (k < depth) {
      fetch<Rows>(shared.rows.x, depth, k, stage.x);
      fetch<kTile>(shared.rows.weight, depth, k, stage.weight);
    }
    commit_copies();
  }

  // sum += x W^T over `depth`, of the rows that the block has set. The next stage is on its way while one is used.
  __device__ void multiply(Shared& shared, int64_t depth) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int quad = lane / 4, pair = lane % 4 * 2;
    const int warp_row = warp / kWarpsAcross * kWarpRows, warp_column = warp % kWarpsAcross * kWarpColumns;
    __syncthreads();  // the rows are set
    fetch_stage(shared, depth, 0);
    for (int64_t k = 0; k < depth; k += kDepth) {
      fetch_stage(shared, depth, k + kDepth);
      wait_for_copies<1>();
      __syncthreads();
      const Stage& stage = shared.stages[k / kDepth % 2];
      PYDLLM_UNROLL
      for (int d = 0; d < kDepth; d += 16) {
        Pairs<4> a[kDown];
        PYDLLM_UNROLL
        for (int m = 0; m < kDown; ++m) a[m] = load_a(&stage.x[warp_row + 16 * m][d], kDepth + 8, quad, pair);
        PYDLLM_UNROLL
        for (int n = 0; n < kAcross; ++n) {
          const Pairs<2> b = load_b(&stage.weight[warp_column + 8 * n][d], kDepth + 8, quad, pair);
          PYDLLM_UNROLL
          for (int m = 0; m < kDown; ++m) mma(sum[m][n], a[m], b);
        }
      }
      __syncthreads();  // the stage is read before it is fetched anew
    }
  }

  static __device__ int row_of(int m, int e) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return warp / kWarpsAcross * kWarpRows + 16 * m + lane / 4 + e / 2 * 8;
  }
  static __device__ int column_of(int n, int e) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return warp % kWarpsAcross * kWarpColumns + 8 * n + lane % 4 * 2 + e % 2;
  }

  // take(row, column, sum) for each result of this thread.
  template <class Take>
  __device__ void each(const Take& take) const {
    PYDLLM_UNROLL
    for (int m = 0; m < kDown; ++m) {
      PYDLLM_UNROLL
      for (int n = 0; n < kAcross; ++n) {
        PYDLLM_UNROLL
        for (int e = 0; e < 4; ++e) take(row_of(m, e), column_of(n, e), sum[m][n][e]);
      }
    }
  }

  // take(row, feature, gate, up), see gated_feature.
  template <class Take>
  __device__ void each_gated(const Take& take) const {
    PYDLLM_UNROLL
    for (int m = 0; m < kDown; ++m) {
      PYDLLM_UNROLL
      for (int n = 0; n < kAcross; n += 2) {
        PYDLLM_UNROLL
        for (int e = 0; e < 4; ++e) {
          take(row_of(m, e), gated_feature<kSpan>(column_of(n, e)), sum[m][n][e], sum[m][n + 1][e]);
        }
      }
    }
  }
};

// A thread sums 4 x 4 results, 16 apart.
template <class Weight>
struct FfmaTile {
  using X = float;
  using W = Weight;
  static constexpr unsigned kThreads = 256;
  static constexpr unsigned kBlocks = 0;  // as nvcc likes
  static constexpr int kRows = kTile;
  static constexpr int kDepth = 16;
  static constexpr int kSpan = 16;

  // By depth first, so that a thread's neighbours read neighbours.
  struct Shared {
    TileRows<X, W, kTile> rows;
    float x[kDepth][kTile + 1];
    float weight[kDepth][kTile + 1];
  };

  float sum[4][4] = {};

  // sum += x W^T over `depth`, of the rows that the block has set.
  __device__ void multiply(Shared& shared, int64_t depth) {
    const int own_row = static_cast<int>(threadIdx.x) / 16, own_column = static_cast<int>(threadIdx.x) % 16;
    __syncthreads();  // the rows are set
    for (int64_t k = 0; k < depth; k += kDepth) {
      for (int i = static_cast<int>(threadIdx.x); i < kTile * kDepth; i += static_cast<int>(kThreads)) {
        const int r = i / kDepth, d = i % kDepth;
        const X* x = shared.rows.x[r];
        const W* weight = shared.rows.weight[r];
        shared.x[d][r] = x != nullptr && k + d < depth ? x[k + d] : 0.0f;
        shared.weight[d][r] = weight != nullptr && k + d < depth ? widen(weight[k + d]) : 0.0f;
      }
      __syncthreads();
      PYDLLM_UNROLL
      for (int d = 0; d < kDepth; ++d) {
        float left[4], right[4];
        PYDLLM_UNROLL
        for (int i = 0; i < 4; ++i) {
          left[i] = shared.x[d][own_row + 16 * i];
          right[i] = shared.weight[d][own_column + 16 * i];
        }
        PYDLLM_UNROLL
        for (int m = 0; m < 4; ++m) {
          PYDLLM_UNROLL
          for (int n = 0; n < 4; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
        }
      }
      __syncthreads();
    }
  }

  // take(row, column, sum) for each result of this thread.
  template <class Take>
  __device__ void each(const Take& take) const {
    const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
    PYDLLM_UNROLL
    for (int m = 0; m < 4; ++m) {
      PYDLLM_UNROLL
      for (int n = 0; n < 4; ++n) take(row + 16 * m, column + 16 * n, sum[m][n]);
    }
  }

  // take(row, feature, gate, up), see gated_feature.
  template <class Take>
  __device__ void each_gated(const Take& take) const {
    const int row = static_cast<int>(threadIdx.x) / 16, column = static_cast<int>(threadIdx.x) % 16;
    PYDLLM_UNROLL
    for (int m = 0; m < 4; ++m) {
      PYDLLM_UNROLL
      for (int n = 0; n < 4; n += 2) {
        take(row + 16 * m, gated_feature<kSpan>(column + 16 * n), sum[m][n], sum[m][n + 1]);
      }
    }
  }
};

}  // namespace pydllm::ops::cuda
