#include <type_traits>

#include "ops/cuda/launch.h"
#include "ops/cuda/linear_tile.h"
#include "ops/cuda/product_tile.h"

namespace pydllm::ops::cuda {

// Up to here tiles of 32 columns leave a large GPU no more than two blocks to a multiprocessor.
constexpr int64_t kNarrowColumns = 8192;

struct LinearArgs {
  const void* x;
  const void* weight;
  const float* bias;
  int64_t rows, in_features, out_features;
  float* y;
  bool accumulate;
};

__device__ inline void finish(const LinearArgs& args, int64_t row, int64_t column, float sum) {
  if (row >= args.rows || column >= args.out_features) return;
  float& y = args.y[row * args.out_features + column];
  if (args.bias != nullptr) sum += args.bias[column];
  y = args.accumulate ? y + sum : sum;
}

struct TileOrigin {
  int64_t row, column;
};

// Row tiles first: blocks that run together then share their part of the weight.
__device__ inline TileOrigin tile_origin(const LinearArgs& args, int tile_rows, int tile_columns) {
  const int64_t row_tiles = (args.rows + tile_rows - 1) / tile_rows;
  return {blockIdx.x % row_tiles * tile_rows, blockIdx.x / row_tiles * tile_columns};
}

// bfloat16 operands, float32 sums.
template <int Rows, int Columns>
__global__ void __launch_bounds__(LinearTile<Rows, Columns>::kThreads) linear_mma_kernel(LinearArgs args) {
  using Tile = LinearTile<Rows, Columns>;
  const TileOrigin at = tile_origin(args, Rows, Columns);
  const TileOperand x{static_cast<const BFloat16*>(args.x), args.rows, args.in_features};
  const TileOperand weight{static_cast<const BFloat16*>(args.weight), args.out_features, args.in_features};
  const auto& sums = multiply_tile<Tile>(x, weight, at.row, at.column);
  for (int i = static_cast<int>(threadIdx.x); i < Rows * Columns; i += Tile::kThreads) {
    const int row = i / Columns, column = i % Columns;
    finish(args, at.row + row, at.column + column, sums.total(row, column));
  }
}

// float32 operands, through the tiles that the experts' products use.
template <class W>
__global__ void __launch_bounds__(FfmaTile<W>::kThreads) linear_ffma_kernel(LinearArgs args) {
  auto& shared = *shared_memory<typename FfmaTile<W>::Shared>();
  const auto* x = static_cast<const float*>(args.x);
  const auto* weight = static_cast<const W*>(args.weight);
  const TileOrigin at = tile_origin(args, kTile, kTile);
  for (int r = static_cast<int>(threadIdx.x); r < kTile; r += static_cast<int>(FfmaTile<W>::kThreads)) {
    const int64_t row = at.row + r, column = at.column + r;
    shared.rows.x[r] = row < args.rows ? x + row * args.in_features : nullptr;
    shared.rows.weight[r] = column < args.out_features ? weight + column * args.in_features : nullptr;
  }
  FfmaTile<W> tile;
  tile.multiply(shared, args.in_features);
  tile.each([&](int r, int c, float sum) { finish(args, at.row + r, at.column + c, sum); });
}

static unsigned tile_count(const LinearArgs& args, int64_t tile_rows, int64_t tile_columns) {
  const int64_t row_tiles = (args.rows + tile_rows - 1) / tile_rows;
  return blocks("linear", row_tiles * ((args.out_features + tile_columns - 1) / tile_columns));
}

template <int Rows, int Columns>
static void launch_mma(const LinearArgs& args, Stream stream) {
  using Tile = LinearTile<Rows, Columns>;
  constexpr size_t kShared = sizeof(typename Tile::Shared);
  static_assert(kShared <= kMostSharedBytes);
  const dim3 grid{tile_count(args, Rows, Columns), 1, 1};
  launch("linear_mma", linear_mma_kernel<Rows, Columns>, grid, Tile::kThreads, kShared, stream, args);
}

// Few rows: the time is that of reading the weight, for which every multiprocessor has to get a share.
static void launch_mma(const LinearArgs& args, Stream stream) {
  const bool narrow = args.rows <= 64 && args.out_features <= kNarrowColumns;
  if (args.rows <= 32) return narrow ? launch_mma<32, 32>(args, stream) : launch_mma<32, 64>(args, stream);
  return narrow ? launch_mma<64, 32>(args, stream) : launch_mma<64, 64>(args, stream);
}

template <class X, class W>
void linear(const X* x, const W* weight, const float* bias, int64_t rows, int64_t in_features, int64_t out_features,
            float* y, bool accumulate, Stream stream) {
  if (rows == 0 || out_features == 0) return;
  const LinearArgs args{x, weight, bias, rows, in_features, out_features, y, accumulate};
  if constexpr (std::is_same_v<X, BFloat16>) {
    launch_mma(args, stream);
  } else {
    const dim3 grid{tile_count(args, kTile, kTile), 1, 1};
    using Tile = FfmaTile<W>;
    launch("linear_ffma", linear_ffma_kernel<W>, grid, Tile::kThreads, sizeof(typename Tile::Shared), stream, args);
  }
}

template void linear(const BFloat16*, const BFloat16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const float*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const Float16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);

}  // namespace pydllm::ops::cuda
