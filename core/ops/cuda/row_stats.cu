#include "base/philox.h"
#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr int kStatsWarps = 8;
constexpr unsigned kStatsThreads = 32 * kStatsWarps;
// Logits of a thread: so many groups of four neighbours, which share one Philox draw.
constexpr int kStatsGroups = 4;
// A row is cut into blocks of this many logits, always at the same places.
constexpr int64_t kStatsSegment = int64_t{4} * kStatsGroups * kStatsThreads;

static_assert(kStatsSegment == kRowStatsSegment);

// An id and what it is ranked by; id -1 is nobody.
struct Ranked {
  float logit;
  int32_t id;
};

__device__ inline bool beats(const Ranked& a, const Ranked& b) {
  return b.id < 0 || (a.id >= 0 && (a.logit > b.logit || (a.logit == b.logit && a.id < b.id)));
}

// The two best of the allowed ids seen.
struct Best {
  Ranked first, second;
};

__device__ inline void merge(Best& total, const Best& other) {
  const bool kept = beats(total.first, other.first);
  const Ranked loser = kept ? other.first : total.first;
  const Ranked runner_up = kept ? total.second : other.second;
  total.first = kept ? total.first : other.first;
  total.second = beats(loser, runner_up) ? loser : runner_up;
}

// The id with the largest logit / T + Gumbel noise.
struct Drawn {
  double score;
  Ranked token;
};

__device__ inline void merge(Drawn& total, const Drawn& other) {
  const bool better = other.score > total.score || (other.score == total.score && other.token.id < total.token.id);
  if (other.token.id >= 0 && (total.token.id < 0 || better)) total = other;
}

// Sums relative to max: z = sum e^(x - max), s = sum (x - max) e^(x - max).
struct Sums {
  double max, z, s;
};

__device__ inline void rebase(Sums& sums, double max) {
  const double shift = sums.max - max;
  if (sums.z > 0 && shift < 0) {
    const double factor = exp(shift);
    sums.s = (sums.s + shift * sums.z) * factor;
    sums.z *= factor;
  }
  sums.max = max;
}

__device__ inline void merge(Sums& total, Sums other) {
  const double max = total.max > other.max ? total.max : other.max;
  rebase(total, max);
  rebase(other, max);
  total.z += other.z;
  total.s += other.s;
}

struct RowStatsPart {
  Sums sums;
  Drawn drawn;
  Best best;
  int32_t finite;
  int32_t unused;
};
static_assert(sizeof(RowStatsPart) == kRowStatsPartBytes);

__device__ inline RowStatsPart nothing() {
  constexpr Ranked kNobody{-INFINITY, -1};
  return {{-INFINITY, 0, 0}, {-INFINITY, kNobody}, {kNobody, kNobody}, 1, 0};
}

__device__ inline void merge(RowStatsPart& total, const RowStatsPart& other) {
  merge(total.sums, other.sums);
  merge(total.drawn, other.drawn);
  merge(total.best, other.best);
  total.finite &= other.finite;
}

__device__ inline Ranked shuffled(const Ranked& x, int lanes) {
  return {__shfl_xor_sync(kAllLanes, x.logit, lanes), __shfl_xor_sync(kAllLanes, x.id, lanes)};
}
__device__ inline Best shuffled(const Best& x, int lanes) {
  return {shuffled(x.first, lanes), shuffled(x.second, lanes)};
}
__device__ inline Drawn shuffled(const Drawn& x, int lanes) {
  return {__shfl_xor_sync(kAllLanes, x.score, lanes), shuffled(x.token, lanes)};
}
__device__ inline Sums shuffled(const Sums& x, int lanes) {
  return {__shfl_xor_sync(kAllLanes, x.max, lanes), __shfl_xor_sync(kAllLanes, x.z, lanes),
          __shfl_xor_sync(kAllLanes, x.s, lanes)};
}

template <class T>
__device__ void merge_lanes(T& x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) merge(x, shuffled(x, lanes));
}

// `ids` rise; there are few.
__device__ inline bool contains(const int32_t* ids, int32_t count, int32_t id) {
  for (int32_t begin = 0; begin < count;) {
    const int32_t middle = begin + (count - begin) / 2;
    if (ids[middle] == id) return true;
    if (ids[middle] < id) {
      begin = middle + 1;
    } else {
      count = middle;
    }
  }
  return false;
}

__device__ inline void challenge(Best& best, const Ranked& candidate) {
  merge(best, {candidate, {-INFINITY, -1}});
}

// Double as on the CPU: the same bits then choose the same token.
__device__ inline void draw(Drawn& drawn, const Ranked& candidate, double temperature, uint32_t bits) {
  const double noise = -log(-log1p(-static_cast<double>(open_unit(bits))));
  merge(drawn, {static_cast<double>(candidate.logit) / temperature + noise, candidate});
}

struct StatsShared {
  float scratch[kStatsWarps];
  RowStatsPart parts[kStatsWarps];
};

// Block (segment, row) summarises one segment of one row, which it reads once.
__global__ void __launch_bounds__(kStatsThreads)
    row_stats_parts_kernel(const float* logits, int64_t vocab, int64_t segments, const RowSampling* sampling,
                           const int32_t* forbidden, int32_t forbidden_count, RowStatsPart* parts) {
  StatsShared& shared = *shared_memory<StatsShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) / segments,
                segment = static_cast<int64_t>(blockIdx.x) % segments;
  const float* x = logits + row * vocab;
  const auto id_of = [&](int group) {
    return segment * kStatsSegment + 4 * (static_cast<int64_t>(group) * kStatsThreads + threadIdx.x);
  };
  float value[kStatsGroups][4];
  float max = -INFINITY;
  bool finite = true;
  PYDLLM_UNROLL
  for (int group = 0; group < kStatsGroups; ++group) {
    PYDLLM_UNROLL
    for (int k = 0; k < 4; ++k) {
      const int64_t id = id_of(group) + k;
      value[group][k] = id < vocab ? x[id] : -INFINITY;
      finite = finite && (id >= vocab || fabsf(value[group][k]) < INFINITY);
      max = fmaxf(max, value[group][k]);
    }
  }
  max = block_max<kStatsWarps>(max, shared.scratch);
  RowStatsPart part = nothing();
  part.finite = finite;
  const RowSampling wish = sampling[row];
  float z = 0, s = 0;
  PYDLLM_UNROLL
  for (int group = 0; group < kStatsGroups; ++group) {
    const int64_t first = id_of(group);
    Philox4 bits{};
    if (wish.temperature > 0 && first < vocab) {
      bits = random_draw(wish.seed, RandomPurpose::kToken, wish.step, wish.position, static_cast<uint32_t>(first / 4));
    }
    PYDLLM_UNROLL
    for (int k = 0; k < 4; ++k) {
      if (first + k >= vocab) continue;
      const float t = fmaxf(value[group][k] - max, -104.0f);  // e^t is 0 there, and t * 0 stays finite
      const float e = expf(t);
      z += e;
      s = fmaf(t, e, s);
      const Ranked candidate{value[group][k], static_cast<int32_t>(first + k)};
      if (contains(forbidden, forbidden_count, candidate.id)) continue;
      challenge(part.best, candidate);
      if (wish.temperature > 0) draw(part.drawn, candidate, static_cast<double>(wish.temperature), bits.v[k]);
    }
  }
  part.sums = {static_cast<double>(max), static_cast<double>(z), static_cast<double>(s)};
  merge_lanes(part.sums);
  merge_lanes(part.drawn);
  merge_lanes(part.best);
  for (int lanes = 16; lanes > 0; lanes /= 2) part.finite &= __shfl_xor_sync(kAllLanes, part.finite, lanes);
  if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = part;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kStatsWarps; ++warp) merge(part, shared.parts[warp]);
  parts[blockIdx.x] = part;
}

__device__ inline float probability(const Sums& sums, float logit) {
  return static_cast<float>(exp(static_cast<double>(logit) - sums.max) / sums.z);
}

// One thread per row joins its segments in order.
__global__ void __launch_bounds__(32) row_stats_join_kernel(const RowStatsPart* parts, int64_t rows, int64_t segments,
                                                            const RowSampling* sampling, RowStats* out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (row >= rows) return;
  RowStatsPart total = nothing();
  for (int64_t segment = 0; segment < segments; ++segment) merge(total, parts[row * segments + segment]);
  RowStats stats{};
  stats.finite = total.finite != 0;
  if (stats.finite) {
    const double log_z = log(total.sums.z), entropy = log_z - total.sums.s / total.sums.z;
    stats.log_sum_exp = static_cast<float>(total.sums.max + log_z);
    stats.entropy = entropy > 0 ? static_cast<float>(entropy) : 0.0f;
    stats.top1 = total.best.first.id;
    stats.top2 = total.best.second.id;
    if (stats.top2 >= 0) stats.top2_probability = probability(total.sums, total.best.second.logit);
    if (stats.top1 >= 0) {  // some id is allowed
      const Ranked token = sampling[row].temperature > 0 ? total.drawn.token : total.best.first;
      stats.top1_probability = probability(total.sums, total.best.first.logit);
      stats.text = stats.top1;  // no controls: check_row_sampling
      stats.text_probability = stats.top1_probability;
      stats.token = token.id;
      stats.confidence = probability(total.sums, token.logit);
    }
  }
  out[row] = stats;
}

int64_t row_stats_segments(int64_t vocab) {
  return (vocab + kStatsSegment - 1) / kStatsSegment;
}

void check_row_sampling(std::span<const RowSampling> sampling) {
  const auto refuse = [](const char* field, size_t row, const auto& got) {
    throw Unsupported(field, format("sampling[", row, "].", field, ": not supported by the CUDA kernel, got ", got));
  };
  for (size_t row = 0; row < sampling.size(); ++row) {
    if (sampling[row].top_k != 0) refuse("top_k", row, sampling[row].top_k);
    if (sampling[row].top_p != 1) refuse("top_p", row, sampling[row].top_p);
    if (sampling[row].min_p != 0) refuse("min_p", row, sampling[row].min_p);
    if (sampling[row].filtered) refuse("filtered", row, "true");
    if (!sampling[row].edits.empty()) refuse("edits", row, sampling[row].edits.size());
    if (!sampling[row].controls.empty()) refuse("controls", row, sampling[row].controls.size());
  }
}

void row_stats(const float* logits, int64_t rows, int64_t vocab, const RowSampling* sampling, const int32_t* forbidden,
               int32_t forbidden_count, void* workspace, RowStats* out, Stream stream) {
  if (rows == 0) return;
  const int64_t segments = row_stats_segments(vocab);
  auto* parts = static_cast<RowStatsPart*>(workspace);
  launch("row_stats_parts", row_stats_parts_kernel, {blocks("row_stats_parts", rows * segments), 1, 1}, kStatsThreads,
         sizeof(StatsShared), stream, logits, vocab, segments, sampling, forbidden, forbidden_count, parts);
  launch("row_stats_join", row_stats_join_kernel, {blocks("row_stats_join", (rows + 31) / 32), 1, 1}, 32, 0, stream,
         parts, rows, segments, sampling, out);
}

}  // namespace pydllm::ops::cuda
