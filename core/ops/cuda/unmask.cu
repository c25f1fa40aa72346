#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kUnmaskThreads = 32;

struct UnmaskShared {
  int32_t flags[kUnmaskThreads];
  int32_t chosen;
};

// How many lanes before this one are flagged, and how many of the warp are.
struct LaneRank {
  int32_t before, total;
};

__device__ inline LaneRank rank_of_lane(UnmaskShared& shared, bool flagged) {
  const auto lane = static_cast<int>(threadIdx.x);
  shared.flags[lane] = flagged ? 1 : 0;
  __syncwarp();
  LaneRank rank{0, 0};
  for (int i = 0; i < static_cast<int>(kUnmaskThreads); ++i) {
    if (i < lane) rank.before += shared.flags[i];
    rank.total += shared.flags[i];
  }
  __syncwarp();
  return rank;
}

__device__ inline int32_t warp_min(int32_t x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const int32_t other = __shfl_xor_sync(kAllLanes, x, lanes);
    x = other < x ? other : x;
  }
  return x;
}

// What the masked rows of one block are, in its part of the workspace.
struct EligibleRows {
  float* values;
  int32_t* position;
  int32_t* row;
  int32_t* chosen;
};

__device__ inline EligibleRows eligible_at(void* workspace, int64_t rows, int32_t begin) {
  auto* values = static_cast<float*>(workspace);
  auto* ids = reinterpret_cast<int32_t*>(values + rows);
  return {values + begin, ids + begin, ids + rows + begin, ids + 2 * rows + begin};
}

// Gathers the rows at masked positions, in order; returns how many there are.
__device__ inline int32_t gather_eligible(UnmaskShared& shared, const UnmaskBlock& block, const RowStats* stats,
                                          const int32_t* positions, const DeviceCanvas& canvas,
                                          const EligibleRows& eligible) {
  int32_t count = 0;
  for (int32_t first = 0; first < block.row_count; first += static_cast<int32_t>(kUnmaskThreads)) {
    const int32_t offset = first + static_cast<int32_t>(threadIdx.x), row = block.row_begin + offset;
    const bool present = offset < block.row_count;
    const int32_t position = present ? positions[row] : 0;
    const bool masked = present && canvas.masked[block.canvas_begin + position] != 0;
    const LaneRank rank = rank_of_lane(shared, masked);
    if (masked) {
      const int32_t at = count + rank.before;
      eligible.values[at] = select::score_of(block.score, stats[row], block.seed, block.forward, position);
      eligible.position[at] = position;
      eligible.row[at] = row;
    }
    count += rank.total;
  }
  return count;
}

// The first of `count` rows that `wrong` says true of, in their order; `count` when there is none. For the whole warp.
template <class Wrong>
__device__ int32_t first_wrong(int32_t count, const Wrong& wrong) {
  int32_t first = count;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < count && first == count;
       i += static_cast<int32_t>(kUnmaskThreads)) {
    if (wrong(i)) first = i;
  }
  return warp_min(first);
}

// One warp per block of rows. The choice is one thread's, by the functions of the host; the rest is the warp's.
__global__ void __launch_bounds__(kUnmaskThreads)
    unmask_kernel(const UnmaskBlock* unmask_blocks, const RowStats* stats, const int32_t* positions, int64_t rows,
                  int32_t mask_token_id, DeviceCanvas canvas, void* workspace, int32_t* written,
                  UnmaskReport* reports) {
  UnmaskShared& shared = *shared_memory<UnmaskShared>();
  const UnmaskBlock block = unmask_blocks[blockIdx.x];
  const EligibleRows eligible = eligible_at(workspace, rows, block.row_begin);
  const int32_t count = gather_eligible(shared, block, stats, positions, canvas, eligible);
  __syncwarp();
  UnmaskReport report{UnmaskStatus::kWritten, 0, count, -1};
  const int32_t broken = first_wrong(count, [&](int32_t i) { return !stats[eligible.row[i]].finite; });
  if (broken < count) report = {UnmaskStatus::kNonFinite, 0, count, eligible.position[broken]};
  if (threadIdx.x == 0) {
    const bool usable = report.status == UnmaskStatus::kWritten;
    shared.chosen = usable ? select::choose(block.rule, eligible.values, eligible.position, count, eligible.chosen) : 0;
  }
  __syncwarp();
  const int32_t chosen = shared.chosen;
  const auto token_of = [&](int32_t i) { return stats[eligible.row[eligible.chosen[i]]].token; };
  const int32_t refused =
      first_wrong(chosen, [&](int32_t i) { return token_of(i) < 0 || token_of(i) == mask_token_id; });
  if (refused < chosen) {
    const auto status = token_of(refused) < 0 ? UnmaskStatus::kNoToken : UnmaskStatus::kMaskToken;
    report = {status, 0, count, eligible.position[eligible.chosen[refused]]};
  } else {
    report.written = chosen;
    report.masked -= chosen;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < chosen; i += static_cast<int32_t>(kUnmaskThreads)) {
      const int32_t position = eligible.position[eligible.chosen[i]];
      const int64_t at = block.canvas_begin + position;
      canvas.tokens[at] = token_of(i);
      canvas.confidences[at] = stats[eligible.row[eligible.chosen[i]]].confidence;
      canvas.masked[at] = 0;
      written[block.row_begin + i] = position;
    }
  }
  if (threadIdx.x == 0) reports[blockIdx.x] = report;
}

void unmask(const UnmaskBlock* unmask_blocks, int64_t block_count, const RowStats* stats, const int32_t* positions,
            int64_t rows, int32_t mask_token_id, DeviceCanvas canvas, void* workspace, int32_t* written,
            UnmaskReport* reports, Stream stream) {
  if (block_count == 0) return;
  launch("unmask", unmask_kernel, {blocks("unmask", block_count), 1, 1}, kUnmaskThreads, sizeof(UnmaskShared), stream,
         unmask_blocks, stats, positions, rows, mask_token_id, canvas, workspace, written, reports);
}

}  // namespace pydllm::ops::cuda
