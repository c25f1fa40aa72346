#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/sampling.h"
#include "ops/cpu/vector_kernels.h"

namespace pydllm::ops::cpu {
namespace {

// A chunk's sums are kept in float lanes (64 additions each with AVX-512) and fit the first-level cache between the two
// looks at it; from chunk to chunk sums are float64.
constexpr int64_t kChunk = 1024;
// A row is cut into tasks of this size, so that a few rows still use all threads. Always at the same places, merged in
// order: the cut never depends on the batch or the threads.
constexpr int64_t kSegment = 32 * kChunk;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Summary {
  double max = -std::numeric_limits<double>::infinity();
  double z = 0;  // sum e^(x - max)
  double s = 0;  // sum (x - max) e^(x - max)
  float first = -kInfinity, second = -kInfinity;
  int32_t first_id = -1, second_id = -1;
  bool finite = true;
};

void rebase(Summary& sums, double max) {
  const double shift = sums.max - max;
  if (shift == 0 || sums.z == 0) {
    sums.max = max;
    return;
  }
  const double factor = std::exp(shift);
  sums.s = (sums.s + shift * sums.z) * factor;
  sums.z *= factor;
  sums.max = max;
}

// Later ids must be larger to displace an earlier one: ties go to the lowest id.
void challenge(Summary& summary, float logit, int32_t id) {
  if (summary.first_id < 0 || logit > summary.first) {
    summary.second = summary.first;
    summary.second_id = summary.first_id;
    summary.first = logit;
    summary.first_id = id;
  } else if (summary.second_id < 0 || logit > summary.second) {
    summary.second = logit;
    summary.second_id = id;
  }
}

void merge(Summary& total, const Summary& later) {
  total.finite = total.finite && later.finite;
  if (!total.finite) return;
  const double max = std::max(total.max, later.max);
  Summary shifted = later;
  rebase(total, max);
  rebase(shifted, max);
  total.z += shifted.z;
  total.s += shifted.s;
  if (later.first_id >= 0) challenge(total, later.first, later.first_id);
  if (later.second_id >= 0) challenge(total, later.second, later.second_id);
}

bool contains(std::span<const int32_t> sorted, int64_t id) {
  return std::binary_search(sorted.begin(), sorted.end(), static_cast<int32_t>(id));
}

// ids [begin, end) of one row.
Summary summarise(const VectorKernels& kernels, const float* logits, int64_t begin, int64_t end,
                  std::span<const int32_t> forbidden) {
  Summary summary;
  for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const int64_t n = std::min(kChunk, end - chunk);
    const float* x = logits + chunk;
    const float max = kernels.chunk_max(x, n, &summary.finite);
    if (!summary.finite) return summary;
    rebase(summary, std::max(summary.max, static_cast<double>(max)));
    double z = 0, s = 0;
    kernels.chunk_sums(x, n, static_cast<float>(summary.max), &z, &s);
    summary.z += z;
    summary.s += s;
    if (max <= summary.second) continue;
    for (int64_t i = 0; (i = kernels.next_above(x, i, n, summary.second)) < n; ++i) {
      if (!contains(forbidden, chunk + i)) challenge(summary, x[i], static_cast<int32_t>(chunk + i));
    }
  }
  return summary;
}

float probability(const Summary& summary, float logit) {
  return static_cast<float>(std::exp(static_cast<double>(logit) - summary.max) / summary.z);
}

// What may not be chosen in one row, ascending.
struct Excluded {
  std::span<const int32_t> ids;  // forbidden or banned: those given, or `merged`
  std::vector<int32_t> banned;
  std::vector<int32_t> merged;
};

Excluded excluded_from(std::span<const LogitEdit> edits, std::span<const int32_t> forbidden) {
  Excluded out{.ids = forbidden, .banned = {}, .merged = {}};
  for (const LogitEdit& edit : edits) {
    if (edit.bias == kBanned) out.banned.push_back(edit.id);
  }
  if (out.banned.empty()) return out;
  std::set_union(forbidden.begin(), forbidden.end(), out.banned.begin(), out.banned.end(),
                 std::back_inserter(out.merged));
  out.ids = out.merged;
  return out;
}

// The distribution over all ids, forbidden ones included, when nothing narrows or bends it.
bool is_plain(const RowSampling& sampling) {
  if (sampling.top_k != 0 || sampling.top_p != 1) return false;
  return sampling.temperature == 0 || (sampling.temperature == 1 && sampling.min_p == 0);
}

FilteredStats filtered(const VectorKernels& kernels, const SamplingRow& row, std::span<const int32_t> banned,
                       const RowSampling& sampling, const RowStats& plain) {
  if (is_plain(sampling)) {
    return {plain.confidence, plain.top1_probability - plain.top2_probability, plain.entropy};
  }
  SamplingRow unrestricted{row.logits, row.vocab, banned, row.best};
  for (const int32_t id : row.forbidden) {
    if (unrestricted.allows(id) && row.logits[id] > row.logits[unrestricted.best]) unrestricted.best = id;
  }
  return filtered_stats(kernels, unrestricted, sampling, plain.token);
}

// The most probable id that is neither forbidden nor a control; the row is searched only when both leaders are
// controls.
int32_t best_text(const SamplingRow& row, const RowSampling& sampling, const Summary& summary) {
  for (const int32_t id : {summary.first_id, summary.second_id}) {
    if (id < 0 || !contains(sampling.controls, id)) return id;
  }
  int32_t best = -1;
  for (int64_t id = 0; id < row.vocab; ++id) {
    if (contains(sampling.controls, id) || !row.allows(id)) continue;
    if (best < 0 || row.logits[id] > row.logits[best]) best = static_cast<int32_t>(id);
  }
  return best;
}

RowStats report(const VectorKernels& kernels, const Summary& summary, const SamplingRow& row,
                std::span<const int32_t> banned, const RowSampling& sampling) {
  RowStats stats;
  if (!summary.finite) return stats;
  stats.finite = true;
  stats.log_sum_exp = static_cast<float>(summary.max + std::log(summary.z));
  stats.entropy = static_cast<float>(std::max(0.0, std::log(summary.z) - summary.s / summary.z));
  stats.top1 = summary.first_id;
  stats.top2 = summary.second_id;
  if (stats.top2 >= 0) stats.top2_probability = probability(summary, summary.second);
  if (stats.top1 < 0) return stats;  // no id is allowed
  stats.top1_probability = probability(summary, summary.first);
  stats.token = sampling.temperature > 0 ? sample_token(kernels, row, sampling) : stats.top1;
  stats.confidence = probability(summary, row.logits[stats.token]);
  stats.text = best_text(row, sampling, summary);
  if (stats.text >= 0) stats.text_probability = probability(summary, row.logits[stats.text]);
  if (sampling.filtered) stats.filtered = filtered(kernels, row, banned, sampling, stats);
  return stats;
}

std::vector<int32_t> sorted_copy(std::span<const int32_t> ids) {
  std::vector<int32_t> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

}  // namespace

void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out) {
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const int64_t segments = (vocab + kSegment - 1) / kSegment;
  const float* x = logits.data<float>();
  const std::vector<int32_t> everywhere = sorted_copy(forbidden);
  const VectorKernels& kernels = vector_kernels();
  std::vector<Excluded> excluded;
  excluded.reserve(sampling.size());
  for (const RowSampling& row : sampling) excluded.push_back(excluded_from(row.edits, everywhere));

  std::vector<Summary> parts(static_cast<size_t>(rows * segments));
  context.pool->run(rows * segments, [&](int64_t task) {
    const int64_t begin = task % segments * kSegment;
    parts[static_cast<size_t>(task)] =
        summarise(kernels, x + task / segments * vocab, begin, std::min(vocab, begin + kSegment),
                  excluded[static_cast<size_t>(task / segments)].ids);
  });
  context.pool->run(rows, [&](int64_t row) {
    Summary total = parts[static_cast<size_t>(row * segments)];
    for (int64_t i = 1; i < segments; ++i) merge(total, parts[static_cast<size_t>(row * segments + i)]);
    const auto at = static_cast<size_t>(row);
    const SamplingRow sampled{x + row * vocab, vocab, excluded[at].ids, total.first_id};
    out[at] = report(kernels, total, sampled, excluded[at].banned, sampling[at]);
  });
}

}  // namespace pydllm::ops::cpu
