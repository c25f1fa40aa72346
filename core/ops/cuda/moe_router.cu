#include <algorithm>
#include <bit>

#include "ops/cuda/launch.h"
#include "ops/moe_router.h"

namespace pydllm::ops::cuda {

constexpr int32_t kRouterWarps = 8;
// Blocks take as many warps as fit; a row of 4096 experts, as many as a model may have, fits with up to 384 groups.
constexpr size_t kRouterSharedBytes = 96 << 10;
constexpr float kNeverChosen = -INFINITY;

struct RouterArgs {
  const float* logits;
  const float* bias;
  int64_t tokens;
  int32_t experts;
  int32_t unit;  // rows of a block
  RouterRule rule;
  int32_t* choice;
  float* weights;
};

// A key is above another when its score is higher, or the same and its index lower; 0 is below all. No score is NaN
// or -0.
__device__ inline uint64_t key_of(float score, int32_t index) {
  const auto bits = std::bit_cast<uint32_t>(score);
  const uint32_t rising = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return static_cast<uint64_t>(rising) << 32 | ~static_cast<uint32_t>(index);
}
__device__ inline int32_t index_of(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}
__device__ inline float score_of(uint64_t key) {
  const auto rising = static_cast<uint32_t>(key >> 32);
  return std::bit_cast<float>((rising & 0x80000000U) != 0 ? rising & 0x7FFFFFFFU : ~rising);
}
__device__ inline uint64_t higher(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

// How many of keys[0, count) are above this one.
__device__ inline int32_t place_of(uint64_t key, const uint64_t* keys, int32_t count) {
  int32_t place = 0;
  for (int32_t i = 0; i < count; ++i) place += keys[i] > key ? 1 : 0;
  return place;
}

// One row, worked on by one warp.
struct RouterRow {
  uint64_t* keys;    // [experts], of the choice scores
  uint64_t* groups;  // [groups]
  float* scores;     // [experts]
};

// Shared memory of a block, by falling alignment.
struct RouterShared {
  RouterRow row;      // of this warp
  uint64_t* keys;     // [warps, experts], the rows of all warps
  uint64_t* best;     // [experts], best key in the block of tokens
  uint32_t* allowed;  // [experts], whether the block keeps the expert
};

static size_t router_shared_bytes(size_t warps, size_t experts, size_t groups) {
  return warps * (experts * (sizeof(uint64_t) + sizeof(float)) + groups * sizeof(uint64_t)) +
         experts * (sizeof(uint64_t) + sizeof(uint32_t));
}

__device__ inline RouterShared shared_of(const RouterArgs& args) {
  const int32_t warps = static_cast<int32_t>(blockDim.x) / 32, warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t groups = args.rule.groups;
  auto* keys = shared_memory<uint64_t>();
  uint64_t* best = keys + warps * args.experts;
  uint64_t* group_keys = best + args.experts;
  auto* scores = reinterpret_cast<float*>(group_keys + warps * groups);
  auto* allowed = reinterpret_cast<uint32_t*>(scores + warps * args.experts);
  const RouterRow row{keys + warp * args.experts, group_keys + warp * groups, scores + warp * args.experts};
  return {row, keys, best, allowed};
}

__device__ inline double row_max(const float* logits, int32_t experts) {
  float max = -INFINITY;
  for (int32_t e = static_cast<int32_t>(threadIdx.x) % 32; e < experts; e += 32) max = fmaxf(max, logits[e]);
  return static_cast<double>(warp_max(max));
}

// Scores of a row and the keys that its experts are chosen by. Until then each key's place holds the exponential.
__device__ inline void score_row(const RouterArgs& args, int64_t token, const RouterRow& row) {
  const float* logits = args.logits + token * args.experts;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  const bool softmax = args.rule.score == RouterScore::kSoftmax;
  const double max = softmax ? row_max(logits, args.experts) : 0;
  double sum = 0;
  for (int32_t e = lane; e < args.experts; e += 32) {
    const auto x = static_cast<double>(logits[e]);
    const double power = exp(softmax ? x - max : -x);
    row.keys[e] = std::bit_cast<uint64_t>(power);
    sum += power;
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  for (int32_t e = lane; e < args.experts; e += 32) {
    const auto power = std::bit_cast<double>(row.keys[e]);
    row.scores[e] = static_cast<float>((softmax ? power : 1) / (softmax ? sum : 1 + power));
    const float choice = args.bias == nullptr ? row.scores[e] : row.scores[e] + args.bias[e];
    row.keys[e] = key_of(choice == choice ? choice : kNeverChosen, e);  // what is no number ranks last
  }
  __syncwarp();
}

// Puts the experts of all but the best groups last.
__device__ inline void keep_best_groups(const RouterArgs& args, const RouterRow& row) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, groups = args.rule.groups;
  const int32_t size = args.experts / groups;
  for (int32_t group = lane; group < groups; group += 32) {
    uint64_t first = 0, second = 0;
    for (int32_t e = group * size; e < (group + 1) * size; ++e) {
      second = higher(second, row.keys[e] < first ? row.keys[e] : first);
      first = higher(first, row.keys[e]);
    }
    const float score = score_of(first) + score_of(second);
    row.groups[group] = key_of(score == score ? score : kNeverChosen, group);
  }
  __syncwarp();
  for (int32_t e = lane; e < args.experts; e += 32) {
    const bool kept = place_of(row.groups[e / size], row.groups, groups) < args.rule.groups_kept;
    if (!kept) row.keys[e] = key_of(kNeverChosen, e);
  }
  __syncwarp();
}

// Chooses the experts of a row by its keys, which are used up, and weighs them by its scores.
__device__ inline void choose(const RouterArgs& args, int64_t token, const RouterRow& row) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, count = args.rule.experts_per_token;
  int32_t* choice = args.choice + token * count;
  double sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    uint64_t best = 0;
    for (int32_t e = lane; e < args.experts; e += 32) best = higher(best, row.keys[e]);
    for (int lanes = 16; lanes > 0; lanes /= 2) best = higher(best, __shfl_xor_sync(kAllLanes, best, lanes));
    const int32_t expert = index_of(best);
    sum += static_cast<double>(row.scores[expert]);
    if (lane == 0) {
      choice[i] = expert;
      row.keys[expert] = 0;
    }
    __syncwarp();
  }
  const double factor = static_cast<double>(args.rule.scale) / (args.rule.normalize ? sum + 1e-20 : 1.0);
  for (int32_t i = lane; i < count; i += 32) {
    const auto score = static_cast<double>(row.scores[choice[i]]);
    args.weights[token * count + i] = static_cast<float>(score * factor);
  }
  __syncwarp();  // the next row's scores take this one's place
}

// Which experts the block of tokens [first, first + rows) keeps.
__device__ inline void keep_block_experts(const RouterArgs& args, int64_t first, int32_t rows,
                                          const RouterShared& shared) {
  const auto thread = static_cast<int32_t>(threadIdx.x), threads = static_cast<int32_t>(blockDim.x);
  const int32_t warps = threads / 32, warp = thread / 32;
  for (int32_t e = thread; e < args.experts; e += threads) shared.best[e] = 0;
  for (int32_t done = 0; done < rows; done += warps) {
    if (done + warp < rows) score_row(args, first + done + warp, shared.row);
    __syncthreads();
    const int32_t scored = rows - done < warps ? rows - done : warps;
    for (int32_t e = thread; e < args.experts; e += threads) {
      for (int32_t w = 0; w < scored; ++w) shared.best[e] = higher(shared.best[e], shared.keys[w * args.experts + e]);
    }
    __syncthreads();
  }
  for (int32_t e = thread; e < args.experts; e += threads) {
    shared.allowed[e] = place_of(shared.best[e], shared.best, args.experts) < args.rule.block_capacity ? 1 : 0;
  }
  __syncthreads();
}

// A warp per row. A block has a row for each of its warps, or with block routing the rows of a block of tokens, whose
// scores are computed twice: kept, they would not fit in shared memory for every block length. The bound of one block
// keeps ptxas from spilling.
__global__ void __launch_bounds__(32 * kRouterWarps, 1) moe_router_kernel(RouterArgs args) {
  const RouterShared shared = shared_of(args);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * args.unit;
  const auto rows = static_cast<int32_t>(args.tokens - first < args.unit ? args.tokens - first : args.unit);
  const bool by_block = args.rule.block_capacity > 0;
  if (by_block) keep_block_experts(args, first, rows, shared);
  for (int32_t r = static_cast<int32_t>(threadIdx.x) / 32; r < rows; r += static_cast<int32_t>(blockDim.x) / 32) {
    score_row(args, first + r, shared.row);
    if (by_block) {
      for (int32_t e = static_cast<int32_t>(threadIdx.x) % 32; e < args.experts; e += 32) {
        if (shared.allowed[e] == 0) shared.row.keys[e] = key_of(kNeverChosen, e);
      }
      __syncwarp();
    } else if (args.rule.groups > 1) {
      keep_best_groups(args, shared.row);
    }
    choose(args, first + r, shared.row);
  }
}

void moe_router(const float* logits, const float* bias, int64_t tokens, int64_t experts, const RouterRule& rule,
                int32_t* choice, float* weights, Stream stream) {
  if (tokens == 0) return;
  const bool by_block = rule.block_capacity > 0;
  check(!by_block || tokens % rule.block_length == 0, "moe_router: expected whole blocks of ", rule.block_length,
        " tokens, got ", tokens);
  const auto bytes = [&](size_t warps) {
    return router_shared_bytes(warps, static_cast<size_t>(experts), static_cast<size_t>(rule.groups));
  };
  check(bytes(1) <= kMostSharedBytes, "moe_router: expected at most ", kMostSharedBytes,
        " bytes of shared memory for a row, got ", bytes(1), " with ", experts, " experts in ", rule.groups, " groups");
  const int32_t most = by_block ? std::min<int32_t>(rule.block_length, kRouterWarps) : kRouterWarps;
  int32_t warps = 1;
  while (warps < most && bytes(static_cast<size_t>(warps) + 1) <= kRouterSharedBytes) ++warps;
  const int32_t unit = by_block ? rule.block_length : warps;
  const RouterArgs args{logits, bias, tokens, static_cast<int32_t>(experts), unit, rule, choice, weights};
  launch("moe_router", moe_router_kernel, {blocks("moe_router", (tokens + unit - 1) / unit), 1, 1},
         static_cast<unsigned>(32 * warps), bytes(static_cast<size_t>(warps)), stream, args);
}

}  // namespace pydllm::ops::cuda
