#include <bit>

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

// What a row's wishes ask of the token's draw beyond temperature.
__device__ inline bool narrows(const RowSampling& wish, int64_t vocab) {
  return (wish.top_k > 0 && wish.top_k < vocab) || wish.top_p != 1 || wish.min_p != 0;
}

// The distribution over all ids, forbidden ones included, when nothing narrows or bends it.
__device__ inline bool is_plain(const RowSampling& wish) {
  if (wish.top_k != 0 || wish.top_p != 1) return false;
  return wish.temperature == 0 || (wish.temperature == 1 && wish.min_p == 0);
}

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

// Rising ids.
struct SortedIds {
  const int32_t* ids;
  int32_t count;
};

__device__ inline SortedIds ids_of(const IdLists& lists, int64_t row) {
  if (lists.begin == nullptr) return {nullptr, 0};
  const int64_t begin = lists.begin[row];
  return {lists.ids + begin, static_cast<int32_t>(lists.begin[row + 1] - begin)};
}

__device__ inline bool contains(const SortedIds& sorted, int32_t id) {
  for (int32_t begin = 0, end = sorted.count; begin < end;) {
    const int32_t middle = begin + (end - begin) / 2;
    if (sorted.ids[middle] == id) return true;
    if (sorted.ids[middle] < id) {
      begin = middle + 1;
    } else {
      end = middle;
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
                           SortedIds forbidden, IdLists bans, RowStatsPart* parts) {
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
  const SortedIds banned = ids_of(bans, row);
  const bool draws = wish.temperature > 0 && !narrows(wish, vocab);
  float z = 0, s = 0;
  PYDLLM_UNROLL
  for (int group = 0; group < kStatsGroups; ++group) {
    const int64_t first = id_of(group);
    Philox4 bits{};
    if (draws && first < vocab) {
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
      if (!draws && !beats(candidate, part.best.second)) continue;
      if (contains(forbidden, candidate.id) || contains(banned, candidate.id)) continue;
      challenge(part.best, candidate);
      if (draws) draw(part.drawn, candidate, static_cast<double>(wish.temperature), bits.v[k]);
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

// One thread per row joins its segments in order, and leaves the whole row's sums in the first.
__global__ void __launch_bounds__(32)
    row_stats_join_kernel(const RowSampling* sampling, IdLists controls, int64_t rows, int64_t segments, int64_t vocab,
                          RowStatsPart* parts, RowStats* out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  if (row >= rows) return;
  RowStatsPart total = nothing();
  for (int64_t segment = 0; segment < segments; ++segment) merge(total, parts[row * segments + segment]);
  parts[row * segments] = total;
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
      const bool drawn = sampling[row].temperature > 0 && !narrows(sampling[row], vocab);
      const Ranked token = drawn ? total.drawn.token : total.best.first;
      stats.top1_probability = probability(total.sums, total.best.first.logit);
      stats.token = token.id;
      stats.confidence = probability(total.sums, token.logit);
      // Where both leaders are controls the row is searched: row_stats_narrow_kernel.
      const bool is_text = !contains(ids_of(controls, row), stats.top1);
      stats.text = is_text ? stats.top1 : stats.top2;
      stats.text_probability = is_text ? stats.top1_probability : stats.top2_probability;
    }
  }
  out[row] = stats;
}

// --- what only some rows ask for: top-k, top-p and min-p, statistics of what they keep, text behind controls ---

constexpr int kBins = 256;
constexpr unsigned kNarrowThreads = kBins;
constexpr int kNarrowWarps = kNarrowThreads / 32;

// A row and the ids that may not be drawn from it.
struct DrawnRow {
  const float* logits;
  int64_t vocab;
  SortedIds forbidden, banned;

  __device__ bool allows(int32_t id) const { return !contains(forbidden, id) && !contains(banned, id); }
};

// Unsigned numbers in the order of finite floats; -0 is 0.
__device__ inline uint32_t ordered(float x) {
  constexpr uint32_t kSign = 0x80000000U;
  const auto bits = std::bit_cast<uint32_t>(x == 0 ? 0.0f : x);
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}
__device__ inline float from_ordered(uint32_t order) {
  constexpr uint32_t kSign = 0x80000000U;
  return std::bit_cast<float>((order & kSign) != 0 ? order & ~kSign : ~order);
}

// Larger for a larger logit; of equal ones, for the lower id. Zeros in the lower half are below every id.
constexpr int kIdBits = 32;
__device__ inline uint64_t rank_key(float logit, int32_t id) {
  return uint64_t{ordered(logit)} << kIdBits | (0xFFFFFFFFU - static_cast<uint32_t>(id));
}

// Every id weighs 1, and the k-th is looked for. Ties at its value all survive.
struct CountOfIds {
  static constexpr bool kKeepsTies = true;
  uint64_t k;

  __device__ uint64_t of(float) const { return 1; }
  __device__ uint64_t target(uint64_t) const { return k - 1; }
};

// An id weighs e^((l - top) / T), in units of 2^-fraction_bits: integers, so that the order of additions means nothing.
// The id at which the mass crosses top_p is looked for.
struct MassOfIds {
  static constexpr bool kKeepsTies = false;
  double top, temperature, top_p, unit;

  __device__ uint64_t of(float logit) const {
    return static_cast<uint64_t>(exp((static_cast<double>(logit) - top) / temperature) * unit + 0.5);
  }
  __device__ uint64_t target(uint64_t total) const { return static_cast<uint64_t>(top_p * static_cast<double>(total)); }
};

// The largest power of two of which `vocab` weights of at most 1 sum to at most 2^62.
__device__ inline double mass_unit(int64_t vocab) {
  double unit = 0x1p62;
  for (int64_t n = 1; n < vocab; n *= 2) unit /= 2;
  return unit;
}

// The best and second-best weight, the sums z = sum w and s = sum x w with w = e^x, and the token's weight.
struct KeptSums {
  double z, s, first, second, own;
};

__device__ inline void merge(KeptSums& total, const KeptSums& other) {
  total.z += other.z;
  total.s += other.s;
  total.own += other.own;
  total.second = fmax(fmin(total.first, other.first), fmax(total.second, other.second));
  total.first = fmax(total.first, other.first);
}
__device__ inline KeptSums shuffled(const KeptSums& x, int lanes) {
  return {__shfl_xor_sync(kAllLanes, x.z, lanes), __shfl_xor_sync(kAllLanes, x.s, lanes),
          __shfl_xor_sync(kAllLanes, x.first, lanes), __shfl_xor_sync(kAllLanes, x.second, lanes),
          __shfl_xor_sync(kAllLanes, x.own, lanes)};
}
__device__ inline void merge(Ranked& total, const Ranked& other) {
  if (beats(other, total)) total = other;
}

struct NarrowShared {
  unsigned long long bins[kBins];
  uint64_t before, own;
  int32_t digit;
  Ranked ranked[kNarrowWarps];
  Drawn drawn[kNarrowWarps];
  KeptSums sums[kNarrowWarps];
};

// Over the block, in a fixed order; every thread gets it. `scratch` [kNarrowWarps] is used once.
template <class T>
__device__ T merged_over_block(T x, T* scratch) {
  merge_lanes(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T total = scratch[0];
  for (int warp = 1; warp < kNarrowWarps; ++warp) merge(total, scratch[warp]);
  return total;
}

// Sums the weights of the allowed ids of at least `floor` whose key begins with `prefix`, by the next 8 bits of the
// key.
template <class Weight>
__device__ void fill_bins(NarrowShared& shared, const DrawnRow& row, uint64_t floor, uint64_t prefix, int shift,
                          const Weight& weight) {
  shared.bins[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < row.vocab; i += kNarrowThreads) {
    const auto id = static_cast<int32_t>(i);
    const float logit = row.logits[i];
    const uint64_t key = rank_key(logit, id);
    const bool belongs = shift + 8 == 64 || key >> (shift + 8) == prefix;
    if (!belongs || key < floor || !row.allows(id)) continue;
    const uint64_t units = weight.of(logit);
    if (units > 0) atomicAdd(&shared.bins[key >> shift & (kBins - 1)], static_cast<unsigned long long>(units));
  }
  __syncthreads();
}

// Of the allowed ids of at least `floor`, from the largest key down: the key of the one at which the sum of the weights
// passes the target, by 8 bits at a time. 0 when none does.
template <class Weight>
__device__ uint64_t crossing_key(NarrowShared& shared, const DrawnRow& row, uint64_t floor, const Weight& weight) {
  uint64_t prefix = 0, before = 0, target = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    fill_bins(shared, row, floor, prefix, shift, weight);
    const auto bin = static_cast<int>(threadIdx.x);
    uint64_t total = 0, above = before;
    for (int i = 0; i < kBins; ++i) {
      total += shared.bins[i];
      if (i > bin) above += shared.bins[i];
    }
    if (shift == 56) {
      target = weight.target(total);
      if (target >= total) return 0;
    }
    if (above <= target && target - above < shared.bins[bin]) {
      shared.before = above;
      shared.own = shared.bins[bin];
      shared.digit = bin;
    }
    __syncthreads();
    before = shared.before;
    prefix = prefix << 8 | static_cast<uint64_t>(shared.digit);
    if (shift != kIdBits) continue;
    // The crossing value is known. Its ids differ only where the mass is crossed before the last of them.
    const uint64_t last = before + shared.own - weight.of(from_ordered(static_cast<uint32_t>(prefix)));
    if (Weight::kKeepsTies || last <= target) return prefix << kIdBits;
  }
  return prefix;
}

// The ids that the filters keep, and how what they keep is drawn from.
struct Filter {
  uint64_t least_key;
  double top, temperature, lowest;  // lowest: of (l - top) / T, from min-p

  __device__ double exponent(float logit) const { return (static_cast<double>(logit) - top) / temperature; }
  __device__ bool keeps(const DrawnRow& row, float logit, int32_t id) const {
    return rank_key(logit, id) >= least_key && !(exponent(logit) < lowest) && row.allows(id);
  }
};

// top: the largest allowed logit.
__device__ inline Filter make_filter(NarrowShared& shared, const DrawnRow& row, const RowSampling& wish, float top) {
  Filter filter{0, static_cast<double>(top), static_cast<double>(wish.temperature),
                wish.min_p > 0 ? log(static_cast<double>(wish.min_p)) : -INFINITY};
  if (wish.top_k > 0 && wish.top_k < row.vocab) {
    filter.least_key = crossing_key(shared, row, 0, CountOfIds{static_cast<uint64_t>(wish.top_k)});
  }
  if (wish.top_p < 1) {
    const MassOfIds mass{filter.top, filter.temperature, static_cast<double>(wish.top_p), mass_unit(row.vocab)};
    filter.least_key = crossing_key(shared, row, filter.least_key, mass);
  }
  return filter;
}

__device__ inline uint32_t word_of(const Philox4& bits, int32_t id) {
  const uint32_t low = (id & 1) != 0 ? bits.v[1] : bits.v[0], high = (id & 1) != 0 ? bits.v[3] : bits.v[2];
  return (id & 2) != 0 ? high : low;
}

__device__ inline Ranked draw_kept(NarrowShared& shared, const DrawnRow& row, const RowSampling& wish, float top) {
  const Filter filter = make_filter(shared, row, wish, top);
  Drawn drawn = nothing().drawn;
  for (int64_t i = threadIdx.x; i < row.vocab; i += kNarrowThreads) {
    const Ranked candidate{row.logits[i], static_cast<int32_t>(i)};
    if (!filter.keeps(row, candidate.logit, candidate.id)) continue;
    const Philox4 bits =
        random_draw(wish.seed, RandomPurpose::kToken, wish.step, wish.position, static_cast<uint32_t>(i / 4));
    draw(drawn, candidate, filter.temperature, word_of(bits, candidate.id));
  }
  return merged_over_block(drawn, shared.drawn).token;
}

__device__ inline FilteredStats stats_of_kept(NarrowShared& shared, const DrawnRow& row, RowSampling wish, float top,
                                              int32_t token) {
  if (wish.temperature == 0) {
    wish.temperature = 1;
    wish.min_p = 0;  // of draws only
  }
  const Filter filter = make_filter(shared, row, wish, top);
  KeptSums sums{};
  for (int64_t i = threadIdx.x; i < row.vocab; i += kNarrowThreads) {
    const float logit = row.logits[i];
    const auto id = static_cast<int32_t>(i);
    if (!filter.keeps(row, logit, id)) continue;
    const double x = filter.exponent(logit), w = exp(x);
    merge(sums, {w, x * w, w, 0, id == token ? w : 0});
  }
  sums = merged_over_block(sums, shared.sums);
  return {static_cast<float>(sums.own / sums.z), static_cast<float>((sums.first - sums.second) / sums.z),
          static_cast<float>(fmax(0.0, log(sums.z) - sums.s / sums.z))};
}

// The largest logit that is not banned, forbidden ones included.
__device__ inline float unbanned_top(const DrawnRow& row, float top) {
  for (int32_t i = 0; i < row.forbidden.count; ++i) {
    const int32_t id = row.forbidden.ids[i];
    if (row.logits[id] > top && !contains(row.banned, id)) top = row.logits[id];
  }
  return top;
}

// The best allowed id that is no control.
__device__ inline Ranked best_text(NarrowShared& shared, const DrawnRow& row, const SortedIds& controls) {
  Ranked best{-INFINITY, -1};
  for (int64_t i = threadIdx.x; i < row.vocab; i += kNarrowThreads) {
    const Ranked candidate{row.logits[i], static_cast<int32_t>(i)};
    if (!beats(candidate, best) || contains(controls, candidate.id) || !row.allows(candidate.id)) continue;
    best = candidate;
  }
  return merged_over_block(best, shared.ranked);
}

// One block per row; most rows have nothing to do here. Left alone, nvcc takes 64 registers and spills.
__global__ void __launch_bounds__(kNarrowThreads, 2)
    row_stats_narrow_kernel(const float* logits, int64_t vocab, int64_t segments, const RowSampling* sampling,
                            SortedIds forbidden, IdLists bans, IdLists control_lists, const RowStatsPart* parts,
                            RowStats* out) {
  NarrowShared& shared = *shared_memory<NarrowShared>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  RowStats stats = out[row];
  const RowSampling wish = sampling[row];
  const SortedIds controls = ids_of(control_lists, row);
  const bool draws = wish.temperature > 0 && narrows(wish, vocab);
  const bool searches = stats.text >= 0 && contains(controls, stats.text);
  if (stats.top1 < 0 || !(draws || searches || wish.filtered)) return;
  const DrawnRow allowed{logits + row * vocab, vocab, forbidden, ids_of(bans, row)};
  const Sums sums = parts[row * segments].sums;
  const float top = allowed.logits[stats.top1];
  if (searches) {
    const Ranked text = best_text(shared, allowed, controls);
    stats.text = text.id;
    stats.text_probability = text.id >= 0 ? probability(sums, text.logit) : 0.0f;
  }
  if (draws) {
    const Ranked token = draw_kept(shared, allowed, wish, top);
    stats.token = token.id;
    stats.confidence = probability(sums, token.logit);
  }
  if (wish.filtered && is_plain(wish)) {
    stats.filtered = {stats.confidence, stats.top1_probability - stats.top2_probability, stats.entropy};
  } else if (wish.filtered) {
    const DrawnRow unbanned{allowed.logits, vocab, {nullptr, 0}, allowed.banned};
    stats.filtered = stats_of_kept(shared, unbanned, wish, unbanned_top(allowed, top), stats.token);
  }
  __syncthreads();  // every thread has read out[row]
  if (threadIdx.x == 0) out[row] = stats;
}

int64_t row_stats_segments(int64_t vocab) {
  return (vocab + kStatsSegment - 1) / kStatsSegment;
}

HostIdLists banned_ids(std::span<const RowSampling> sampling) {
  HostIdLists lists;
  for (const RowSampling& row : sampling) {
    for (const LogitEdit& edit : row.edits) {
      if (edit.bias == kBanned) lists.ids.push_back(edit.id);
    }
    lists.begin.push_back(static_cast<int64_t>(lists.ids.size()));
  }
  return lists;
}

HostIdLists control_ids(std::span<const RowSampling> sampling) {
  HostIdLists lists;
  for (const RowSampling& row : sampling) {
    lists.ids.insert(lists.ids.end(), row.controls.begin(), row.controls.end());
    lists.begin.push_back(static_cast<int64_t>(lists.ids.size()));
  }
  return lists;
}

void row_stats(const float* logits, int64_t rows, int64_t vocab, const RowSampling* sampling, const int32_t* forbidden,
               int32_t forbidden_count, IdLists banned, IdLists controls, void* workspace, RowStats* out,
               Stream stream) {
  if (rows == 0) return;
  const int64_t segments = row_stats_segments(vocab);
  auto* parts = static_cast<RowStatsPart*>(workspace);
  const SortedIds everywhere{forbidden, forbidden_count};
  launch("row_stats_parts", row_stats_parts_kernel, {blocks("row_stats_parts", rows * segments), 1, 1}, kStatsThreads,
         sizeof(StatsShared), stream, logits, vocab, segments, sampling, everywhere, banned, parts);
  launch("row_stats_join", row_stats_join_kernel, {blocks("row_stats_join", (rows + 31) / 32), 1, 1}, 32, 0, stream,
         sampling, controls, rows, segments, vocab, parts, out);
  launch("row_stats_narrow", row_stats_narrow_kernel, {blocks("row_stats_narrow", rows), 1, 1}, kNarrowThreads,
         sizeof(NarrowShared), stream, logits, vocab, segments, sampling, everywhere, banned, controls, parts, out);
}

}  // namespace pydllm::ops::cuda
