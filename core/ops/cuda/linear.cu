#include <type_traits>

#include "ops/cuda/launch.h"
#include "ops/cuda/mma.h"

namespace pydllm::ops::cuda {

// A block computes kTile x kTile results, kDepth deep at a time, in four warps of 32 x 32 results each.
constexpr int kTile = 64;
constexpr int kMmaDepth = 32;
constexpr unsigned kMmaThreads = 128;
constexpr int kFfmaDepth = 16;
constexpr unsigned kFfmaThreads = 256;

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

// Rows of 80 bytes: 16-byte copies stay aligned and a fragment's rows lie in different banks.
struct MmaStage {
  BFloat16 x[kTile][kMmaDepth + 8];
  BFloat16 weight[kTile][kMmaDepth + 8];
};

// Elements [k, k + 8) of rows [first, first + kTile), 0 outside of the matrix. Where rows are whole chunks of 16 bytes
// the copies are asynchronous.
__device__ inline void fetch(const BFloat16* from, int64_t rows, int64_t width, int64_t first, int64_t k,
                             BFloat16 (*to)[kMmaDepth + 8]) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kMmaDepth / 8; i += kMmaThreads) {
    const int r = i / (kMmaDepth / 8), chunk = i % (kMmaDepth / 8) * 8;
    const int64_t row = first + r, column = k + chunk;
    if (width % 8 == 0) {
      const bool inside = row < rows && column < width;
      copy_async(&to[r][chunk], inside ? from + row * width + column : from, inside ? 16 : 0);
      continue;
    }
    for (int e = 0; e < 8; ++e) {
      const bool inside = row < rows && column + e < width;
      to[r][chunk + e] = inside ? from[row * width + column + e] : BFloat16{0};
    }
  }
}

// bfloat16 operands, float32 sums. The next stage is on its way while one is used.
__global__ void __launch_bounds__(kMmaThreads) linear_mma_kernel(LinearArgs args) {
  MmaStage* stages = shared_memory<MmaStage>();
  const auto* x = static_cast<const BFloat16*>(args.x);
  const auto* weight = static_cast<const BFloat16*>(args.weight);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int quad = lane / 4, pair = lane % 4 * 2, warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const auto fetch_stage = [&](int64_t k) {
    MmaStage& stage = stages[k / kMmaDepth % 2];
    if (k < args.in_features) {
      fetch(x, args.rows, args.in_features, row, k, stage.x);
      fetch(weight, args.out_features, args.in_features, column, k, stage.weight);
    }
    commit_copies();
  };
  float sum[2][4][4] = {};
  fetch_stage(0);
  for (int64_t k = 0; k < args.in_features; k += kMmaDepth) {
    fetch_stage(k + kMmaDepth);
    wait_for_copies<1>();
    __syncthreads();
    const MmaStage& stage = stages[k / kMmaDepth % 2];
    PYDLLM_UNROLL
    for (int depth = 0; depth < kMmaDepth; depth += 16) {
      Pairs<4> a[2];
      PYDLLM_UNROLL
      for (int m = 0; m < 2; ++m) a[m] = load_a(&stage.x[warp_row + 16 * m][depth], kMmaDepth + 8, quad, pair);
      PYDLLM_UNROLL
      for (int n = 0; n < 4; ++n) {
        const Pairs<2> b = load_b(&stage.weight[warp_column + 8 * n][depth], kMmaDepth + 8, quad, pair);
        PYDLLM_UNROLL
        for (int m = 0; m < 2; ++m) mma(sum[m][n], a[m], b);
      }
    }
    __syncthreads();  // the stage is read before it is fetched anew
  }
  PYDLLM_UNROLL
  for (int m = 0; m < 2; ++m) {
    PYDLLM_UNROLL
    for (int n = 0; n < 4; ++n) {
      PYDLLM_UNROLL
      for (int e = 0; e < 4; ++e) {
        finish(args, row + warp_row + 16 * m + quad + e / 2 * 8, column + warp_column + 8 * n + pair + e % 2,
               sum[m][n][e]);
      }
    }
  }
}

// By depth first, so that a thread's neighbours read neighbours.
struct FfmaStage {
  float x[kFfmaDepth][kTile + 1];
  float weight[kFfmaDepth][kTile + 1];
};

// float32 operands; a thread sums 4 x 4 results, 16 apart.
template <class W>
__global__ void __launch_bounds__(kFfmaThreads) linear_ffma_kernel(LinearArgs args) {
  FfmaStage& stage = *shared_memory<FfmaStage>();
  const auto* x = static_cast<const float*>(args.x);
  const auto* weight = static_cast<const W*>(args.weight);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile, column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int own_row = static_cast<int>(threadIdx.x) / 16, own_column = static_cast<int>(threadIdx.x) % 16;
  float sum[4][4] = {};
  for (int64_t k = 0; k < args.in_features; k += kFfmaDepth) {
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kFfmaDepth; i += kFfmaThreads) {
      const int r = i / kFfmaDepth, d = i % kFfmaDepth;
      const bool in_depth = k + d < args.in_features;
      const bool in_x = in_depth && row + r < args.rows, in_weight = in_depth && column + r < args.out_features;
      stage.x[d][r] = in_x ? x[(row + r) * args.in_features + k + d] : 0.0f;
      stage.weight[d][r] = in_weight ? widen(weight[(column + r) * args.in_features + k + d]) : 0.0f;
    }
    __syncthreads();
    PYDLLM_UNROLL
    for (int d = 0; d < kFfmaDepth; ++d) {
      float left[4], right[4];
      PYDLLM_UNROLL
      for (int i = 0; i < 4; ++i) {
        left[i] = stage.x[d][own_row + 16 * i];
        right[i] = stage.weight[d][own_column + 16 * i];
      }
      PYDLLM_UNROLL
      for (int m = 0; m < 4; ++m) {
        PYDLLM_UNROLL
        for (int n = 0; n < 4; ++n) sum[m][n] = fmaf(left[m], right[n], sum[m][n]);
      }
    }
    __syncthreads();
  }
  PYDLLM_UNROLL
  for (int m = 0; m < 4; ++m) {
    PYDLLM_UNROLL
    for (int n = 0; n < 4; ++n) finish(args, row + own_row + 16 * m, column + own_column + 16 * n, sum[m][n]);
  }
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
    launch("linear_mma", linear_mma_kernel, grid, kMmaThreads, 2 * sizeof(MmaStage), stream, args);
  } else {
    launch("linear_ffma", linear_ffma_kernel<W>, grid, kFfmaThreads, sizeof(FfmaStage), stream, args);
  }
}

template void linear(const BFloat16*, const BFloat16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const float*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);
template void linear(const float*, const Float16*, const float*, int64_t, int64_t, int64_t, float*, bool, Stream);

}  // namespace pydllm::ops::cuda
