#include <type_traits>

#include "ops/cuda/launch.h"
#include "ops/cuda/product_tile.h"

namespace pydllm::ops::cuda {

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

// Block (column tile, row tile).
template <class Tile>
__device__ void linear_tile(const LinearArgs& args) {
  auto& shared = *shared_memory<typename Tile::Shared>();
  const auto* x = static_cast<const typename Tile::X*>(args.x);
  const auto* weight = static_cast<const typename Tile::W*>(args.weight);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int r = static_cast<int>(threadIdx.x); r < kTile; r += static_cast<int>(Tile::kThreads)) {
    shared.rows.x[r] = row + r < args.rows ? x + (row + r) * args.in_features : nullptr;
    shared.rows.weight[r] = column + r < args.out_features ? weight + (column + r) * args.in_features : nullptr;
  }
  Tile tile;
  tile.multiply(shared, args.in_features);
  tile.each([&](int r, int c, float sum) { finish(args, row + r, column + c, sum); });
}

__global__ void __launch_bounds__(MmaTile::kThreads) linear_mma_kernel(LinearArgs args) {
  linear_tile<MmaTile>(args);
}

template <class W>
__global__ void __launch_bounds__(FfmaTile<W>::kThreads) linear_ffma_kernel(LinearArgs args) {
  linear_tile<FfmaTile<W>>(args);
}

template <class X, class W>
void linear(const X* x, const W* weight, const float* bias, int64_t rows, int64_t in_features, int64_t out_features,
            float* y, bool accumulate, Stream stream) {
  if (rows == 0 || out_features == 0) return;
  const LinearArgs args{x, weight, bias, rows, in_features, out_features, y, accumulate};
  const int64_t row_tiles = (rows + kTile - 1) / kTile, column_tiles = (out_features + kTile - 1) / kTile;
  check(row_tiles <= 65535, "linear: expected at most ", 65535 * kTile, " rows, got ", rows);
  const dim3 grid{blocks("linear", column_tiles), static_cast<unsigned>(row_tiles), 1};
  if constexpr (std::is_same_v<X, BFloat16>) {
    launch("linear_mma", linear_mma_kernel, grid, MmaTile::kThreads, sizeof(MmaTile::Shared), stream, args);
  } else {
    using Tile = FfmaTile<W>;
    launch("linear_ffma", linear_ffma_kernel<W>, grid, Tile::kThreads, sizeof(typename Tile::Shared), stream, args);
  }
}

template void linear(const BFloat16*, const BFloat16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const float*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const Float16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);

}  // namespace pydllm::ops::cuda
