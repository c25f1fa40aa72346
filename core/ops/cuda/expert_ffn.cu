#include <type_traits>

#include "ops/cuda/launch.h"
#include "ops/cuda/product_tile.h"
#include "ops/cuda/swiglu.h"

namespace pydllm::ops::cuda {

constexpr int kPlanThreads = 128;
constexpr unsigned kSumThreads = 256;
// Features of a tile whose weight rows are gates and ups.
constexpr int kGatedTile = kTile / 2;

// The sum of `value` over the block's earlier threads; `values` [kPlanThreads] in shared memory.
__device__ inline int32_t sum_before(int32_t value, int32_t* values) {
  values[threadIdx.x] = value;
  __syncthreads();
  int32_t sum = 0;
  for (unsigned i = 0; i < threadIdx.x; ++i) sum += values[i];
  return sum;
}

// A thread's share of [0, count): neighbours, so that shares keep their order.
struct PlanShare {
  int64_t begin, end;
};
__device__ inline PlanShare plan_share(int64_t count) {
  const int64_t each = (count + kPlanThreads - 1) / kPlanThreads, begin = each * threadIdx.x;
  return {begin, begin + each < count ? begin + each : count};
}

// Block e lists the pairs that chose expert e, in rising order, and counts them.
__global__ void __launch_bounds__(kPlanThreads)
    expert_pairs_kernel(const int32_t* choice, int64_t tokens, int64_t kept, int32_t* pairs, int32_t* counts) {
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const PlanShare share = plan_share(tokens * kept);
  int32_t own = 0;
  for (int64_t pair = share.begin; pair < share.end; ++pair) own += choice[pair] == expert ? 1 : 0;
  int32_t place = sum_before(own, shared_memory<int32_t>());
  if (threadIdx.x == kPlanThreads - 1) counts[expert] = place + own;
  int32_t* to = pairs + expert * tokens;
  for (int64_t pair = share.begin; pair < share.end; ++pair) {
    if (choice[pair] == expert) to[place++] = static_cast<int32_t>(pair);
  }
}

// One block cuts every expert's pairs into tiles of up to `rows`.
__global__ void __launch_bounds__(kPlanThreads)
    expert_tiles_kernel(const int32_t* counts, int64_t experts, int32_t rows, ExpertTile* tiles, int32_t* tile_count) {
  const PlanShare share = plan_share(experts);
  int32_t own = 0;
  for (int64_t e = share.begin; e < share.end; ++e) own += (counts[e] + rows - 1) / rows;
  int32_t place = sum_before(own, shared_memory<int32_t>());
  if (threadIdx.x == kPlanThreads - 1) *tile_count = place + own;
  for (int64_t e = share.begin; e < share.end; ++e) {
    for (int32_t first = 0; first < counts[e]; first += rows) {
      const int32_t left = counts[e] - first;
      tiles[place++] = {static_cast<int32_t>(e), first, left < rows ? left : rows};
    }
  }
}

template <class Tile>
struct ExpertArgs {
  const typename Tile::X* x;
  const typename Tile::W *gate_up, *down;
  const float* weights;
  int64_t tokens, kept, hidden, width;
  ExpertWorkspace<typename Tile::X> workspace;
};

// Block (tile, 32 features): activated = silu(gate) * up for the pairs of the tile. The grid is as large as the tiles
// can be many; how many there are is known on the device only.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) expert_gate_up_kernel(ExpertArgs<Tile> args) {
  if (static_cast<int32_t>(blockIdx.x) >= *args.workspace.tile_count) return;
  auto& shared = *shared_memory<typename Tile::Shared>();
  const ExpertTile tile = args.workspace.tiles[blockIdx.x];
  const int32_t* pairs = args.workspace.pairs + tile.expert * args.tokens + tile.first;
  const auto* weight = args.gate_up + tile.expert * 2 * args.width * args.hidden;
  const int64_t feature = static_cast<int64_t>(blockIdx.y) * kGatedTile;
  for (int r = static_cast<int>(threadIdx.x); r < kTile; r += static_cast<int>(Tile::kThreads)) {
    const int64_t column = feature + gated_feature<Tile::kSpan>(r), half = r / Tile::kSpan % 2;
    if (r < Tile::kRows) shared.rows.x[r] = r < tile.count ? args.x + pairs[r] / args.kept * args.hidden : nullptr;
    shared.rows.weight[r] = column < args.width ? weight + (half * args.width + column) * args.hidden : nullptr;
  }
  Tile product;
  product.multiply(shared, args.hidden);
  product.each_gated([&](int r, int f, float gate, float up) {
    if (r >= tile.count || feature + f >= args.width) return;
    args.workspace.activated[pairs[r] * args.width + feature + f] = narrow<typename Tile::X>(swiglu_of(gate, up));
  });
}

// Block (tile, 64 columns): the weighted outputs of the pairs of the tile.
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) expert_down_kernel(ExpertArgs<Tile> args) {
  if (static_cast<int32_t>(blockIdx.x) >= *args.workspace.tile_count) return;
  auto& shared = *shared_memory<typename Tile::Shared>();
  const ExpertTile tile = args.workspace.tiles[blockIdx.x];
  const int32_t* pairs = args.workspace.pairs + tile.expert * args.tokens + tile.first;
  const auto* weight = args.down + tile.expert * args.hidden * args.width;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kTile;
  for (int r = static_cast<int>(threadIdx.x); r < kTile; r += static_cast<int>(Tile::kThreads)) {
    if (r < Tile::kRows) shared.rows.x[r] = r < tile.count ? args.workspace.activated + pairs[r] * args.width : nullptr;
    shared.rows.weight[r] = column + r < args.hidden ? weight + (column + r) * args.width : nullptr;
  }
  Tile product;
  product.multiply(shared, args.width);
  product.each([&](int r, int c, float sum) {
    if (r >= tile.count || column + c >= args.hidden) return;
    args.workspace.outputs[pairs[r] * args.hidden + column + c] = args.weights[pairs[r]] * sum;
  });
}

// Block t adds the outputs of token t's pairs to y in rising order of their experts.
__global__ void __launch_bounds__(kSumThreads)
    expert_sum_kernel(const int32_t* choice, const float* outputs, int64_t kept, int64_t hidden, float* y) {
  auto* order = shared_memory<int32_t>();
  const int64_t token = blockIdx.x;
  const int32_t* chosen = choice + token * kept;
  for (int64_t i = threadIdx.x; i < kept; i += kSumThreads) {
    int32_t place = 0;
    for (int64_t other = 0; other < kept; ++other) place += chosen[other] < chosen[i] ? 1 : 0;
    order[place] = static_cast<int32_t>(i);
  }
  __syncthreads();
  for (int64_t c = threadIdx.x; c < hidden; c += kSumThreads) {
    float sum = y[token * hidden + c];
    for (int64_t i = 0; i < kept; ++i) sum += outputs[(token * kept + order[i]) * hidden + c];
    y[token * hidden + c] = sum;
  }
}

static int64_t tiles_bound(int64_t pairs, int64_t experts, int rows) {
  return pairs / rows + (pairs < experts ? pairs : experts);
}

// Tiles on the tensor cores hold twice the average share of an expert, up to 64: with fewer rows most of a tile is not
// empty, and few experts have a second one, which reads their weight again.
static int mma_rows(int64_t pairs, int64_t experts) {
  if (2 * pairs <= 16 * experts) return 16;
  return 2 * pairs <= 32 * experts ? 32 : 64;
}

// That of the tensor cores; float32 has tiles of 64 rows, which are no more.
int64_t expert_tiles_bound(int64_t tokens, int64_t kept, int64_t experts) {
  return tiles_bound(tokens * kept, experts, mma_rows(tokens * kept, experts));
}

template <class Tile>
static void launch_expert_ffn(const ExpertArgs<Tile>& args, const int32_t* choice, int64_t experts, float* y,
                              Stream stream) {
  const auto& workspace = args.workspace;
  const int64_t feature_tiles = (args.width + kGatedTile - 1) / kGatedTile;
  const int64_t column_tiles = (args.hidden + kTile - 1) / kTile;
  check(feature_tiles <= 65535 && column_tiles <= 65535, "expert_ffn: expected widths up to ", 65535 * kGatedTile,
        ", got ", args.width, " and ", args.hidden);
  launch("expert_pairs", expert_pairs_kernel, {blocks("expert_pairs", experts), 1, 1}, kPlanThreads,
         kPlanThreads * sizeof(int32_t), stream, choice, args.tokens, args.kept, workspace.pairs, workspace.counts);
  launch("expert_tiles", expert_tiles_kernel, {1, 1, 1}, kPlanThreads, kPlanThreads * sizeof(int32_t), stream,
         workspace.counts, experts, Tile::kRows, workspace.tiles, workspace.tile_count);
  const unsigned tiles = blocks("expert_ffn", tiles_bound(args.tokens * args.kept, experts, Tile::kRows));
  launch("expert_gate_up", expert_gate_up_kernel<Tile>, {tiles, static_cast<unsigned>(feature_tiles), 1},
         Tile::kThreads, sizeof(typename Tile::Shared), stream, args);
  launch("expert_down", expert_down_kernel<Tile>, {tiles, static_cast<unsigned>(column_tiles), 1}, Tile::kThreads,
         sizeof(typename Tile::Shared), stream, args);
  launch("expert_sum", expert_sum_kernel, {blocks("expert_sum", args.tokens), 1, 1}, kSumThreads,
         static_cast<size_t>(args.kept) * sizeof(int32_t), stream, choice, workspace.outputs, args.kept, args.hidden,
         y);
}

template <class X, class W>
void expert_ffn(const X* x, const int32_t* choice, const float* weights, int64_t tokens, int64_t kept, const W* gate_up,
                const W* down, int64_t experts, int64_t hidden, int64_t width, const ExpertWorkspace<X>& workspace,
                float* y, Stream stream) {
  if (tokens == 0 || kept == 0 || hidden == 0 || width == 0) return;
  check(tokens * kept <= 0x7FFFFFFF, "expert_ffn: expected at most 2^31 - 1 pairs, got ", tokens * kept);
  const auto run = [&]<class Tile>(std::type_identity<Tile>) {
    const ExpertArgs<Tile> args{x, gate_up, down, weights, tokens, kept, hidden, width, workspace};
    launch_expert_ffn(args, choice, experts, y, stream);
  };
  if constexpr (std::is_same_v<X, BFloat16>) {
    switch (mma_rows(tokens * kept, experts)) {
      case 16:
        return run(std::type_identity<MmaTile<16>>());
      case 32:
        return run(std::type_identity<MmaTile<32>>());
      default:
        return run(std::type_identity<MmaTile<64>>());
    }
  } else {
    run(std::type_identity<FfmaTile<W>>());
  }
}

template void expert_ffn(const BFloat16*, const int32_t*, const float*, int64_t, int64_t, const BFloat16*,
                         const BFloat16*, int64_t, int64_t, int64_t, const ExpertWorkspace<BFloat16>&, float*, Stream);
template void expert_ffn(const float*, const int32_t*, const float*, int64_t, int64_t, const float*, const float*,
                         int64_t, int64_t, int64_t, const ExpertWorkspace<float>&, float*, Stream);
template void expert_ffn(const float*, const int32_t*, const float*, int64_t, int64_t, const Float16*, const Float16*,
                         int64_t, int64_t, int64_t, const ExpertWorkspace<float>&, float*, Stream);

}  // namespace pydllm::ops::cuda
