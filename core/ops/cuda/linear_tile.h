// The tile of a bfloat16 product on tensor cores: Rows x Columns results of x W^T, kept in a block.
//
// The depth is cut into stages of kDepth and each stage into kSlices; a warp sums one slice of every stage for 32
// columns, and the slices' sums are added at the end, in rising order. No tile changes that order, so a result has the
// same bits in each of them: small tiles, which give every multiprocessor a share of the weight when rows are few,
// differ in speed only.
#pragma once

#include "ops/cuda/mma.h"

namespace pydllm::ops::cuda {

// A row-major matrix of bfloat16, aligned to 16 bytes.
struct TileOperand {
  const BFloat16* data;
  int64_t rows, width;
};

template <int Rows, int Columns>
struct LinearTile {
  static constexpr int kRows = Rows, kColumns = Columns;
  static constexpr int kSlices = 4, kDepth = 16 * kSlices;
  static constexpr int kThreads = 32 * kSlices * (Columns / 32);

  // Rows of 144 bytes: 16-byte copies stay aligned and a fragment's rows lie in different banks.
  struct Stage {
    BFloat16 x[Rows][kDepth + 8];
    BFloat16 weight[Columns][kDepth + 8];
  };
  // As many as leave room for two blocks on a multiprocessor of sm_80 (164 KB): the more bytes are on their way, the
  // less a block that has few rows waits for its part of the weight.
  static constexpr int kStages = (72 << 10) / sizeof(Stage);
  struct Sums {
    float slice[kSlices][Rows][Columns + 8];

    __device__ float total(int row, int column) const {
      float sum = slice[0][row][column];
      PYDLLM_UNROLL
      for (int s = 1; s < kSlices; ++s) sum += slice[s][row][column];
      return sum;
    }
  };
  union Shared {
    Stage stages[kStages];
    Sums sums;
  };
};

// Starts to copy elements [k, k + kDepth) of rows [first, first + Count), 0 outside of the matrix. Where rows are whole
// chunks of 16 bytes the copies are asynchronous.
template <class Tile, int Count>
__device__ void fetch_rows(const TileOperand& from, int64_t first, int64_t k, BFloat16 (*to)[Tile::kDepth + 8]) {
  for (int i = static_cast<int>(threadIdx.x); i < Count * Tile::kDepth / 8; i += Tile::kThreads) {
    const int r = i / (Tile::kDepth / 8), chunk = i % (Tile::kDepth / 8) * 8;
    const int64_t row = first + r, column = k + chunk;
    if (from.width % 8 == 0) {
      const bool inside = row < from.rows && column < from.width;
      copy_async(&to[r][chunk], inside ? from.data + row * from.width + column : from.data, inside ? 16 : 0);
      continue;
    }
    for (int e = 0; e < 8; ++e) {
      const bool inside = row < from.rows && column + e < from.width;
      to[r][chunk + e] = inside ? from.data[row * from.width + column + e] : BFloat16{0};
    }
  }
}

// The results of rows [row, row + kRows) of x and [column, column + kColumns) of weight, in shared memory.
template <class Tile>
__device__ const typename Tile::Sums& multiply_tile(const TileOperand& x, const TileOperand& weight, int64_t row,
                                                    int64_t column) {
  auto& shared = *shared_memory<typename Tile::Shared>();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int quad = lane / 4, pair = lane % 4 * 2, slice = warp % Tile::kSlices, own = warp / Tile::kSlices * 32;
  const auto fetch = [&](int64_t stage) {
    const int64_t k = stage * Tile::kDepth;
    if (k < x.width) {
      typename Tile::Stage& to = shared.stages[stage % Tile::kStages];
      fetch_rows<Tile, Tile::kRows>(x, row, k, to.x);
      fetch_rows<Tile, Tile::kColumns>(weight, column, k, to.weight);
    }
    commit_copies();
  };
  float sum[Tile::kRows / 16][4][4] = {};
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) fetch(stage);
  for (int64_t stage = 0; stage * Tile::kDepth < x.width; ++stage) {
    wait_for_copies<Tile::kStages - 2>();
    __syncthreads();  // the stage is there, and the one before, which is fetched anew, has been read
    fetch(stage + Tile::kStages - 1);
    const typename Tile::Stage& from = shared.stages[stage % Tile::kStages];
    Pairs<4> a[Tile::kRows / 16];
    PYDLLM_UNROLL
    for (int m = 0; m < Tile::kRows / 16; ++m) {
      a[m] = load_a(&from.x[16 * m][16 * slice], Tile::kDepth + 8, quad, pair);
    }
    PYDLLM_UNROLL
    for (int n = 0; n < 4; ++n) {
      const Pairs<2> b = load_b(&from.weight[own + 8 * n][16 * slice], Tile::kDepth + 8, quad, pair);
      PYDLLM_UNROLL
      for (int m = 0; m < Tile::kRows / 16; ++m) mma(sum[m][n], a[m], b);
    }
  }
  __syncthreads();  // the stages are read before the sums take their place
  PYDLLM_UNROLL
  for (int m = 0; m < Tile::kRows / 16; ++m) {
    PYDLLM_UNROLL
    for (int n = 0; n < 4; ++n) {
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) {
        shared.sums.slice[slice][16 * m + quad + e / 2 * 8][own + 8 * n + pair + e % 2] = sum[m][n][e];
      }
    }
  }
  __syncthreads();
  return shared.sums;
}

}  // namespace pydllm::ops::cuda
