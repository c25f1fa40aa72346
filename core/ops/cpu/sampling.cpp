#include "ops/cpu/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "base/philox.h"

namespace pydllm::ops::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLn2 = 0.69314718055994530942;

struct Candidate {
  float logit;
  int32_t id;
};

bool more_probable(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

float just_below(double x) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return std::nextafter(static_cast<float>(std::clamp(x, -kLargest, kLargest)), -kInfinity);
}

// -ln(-ln(1 - v)) is at most -ln v, and v is at least 2^-(1 + leading zeros).
double gumbel_limit(uint32_t bits) {
  return kLn2 * (std::countl_zero(bits) + 1) + 1e-6;
}

double gumbel(uint32_t bits) {
  return -std::log(-std::log1p(-static_cast<double>(open_unit(bits))));
}

// Keeps the id with the largest logit / T + Gumbel noise. Most ids are dismissed by a bound before any logarithm.
class GumbelMax {
 public:
  explicit GumbelMax(const RowSampling& sampling) : sampling_(sampling) {}

  Philox4 draw(int64_t block) const {
    return random_draw(sampling_.seed, RandomPurpose::kToken, sampling_.step, sampling_.position,
                       static_cast<uint32_t>(block));
  }

  void offer(int32_t id, float logit, uint32_t bits) {
    const double scaled = static_cast<double>(logit) / static_cast<double>(sampling_.temperature);
    if (scaled + gumbel_limit(bits) < score_) return;
    const double score = scaled + gumbel(bits);
    if (id_ >= 0 && (score < score_ || (score == score_ && id > id_))) return;
    score_ = score;
    id_ = id;
  }
  void offer(int32_t id, float logit) { offer(id, logit, draw(id / 4).v[id % 4]); }

  // No id whose logit is at or below this can win any more.
  float hopeless() const { return just_below((score_ - gumbel_limit(0)) * static_cast<double>(sampling_.temperature)); }
  int32_t id() const { return id_; }

 private:
  const RowSampling& sampling_;
  double score_ = -std::numeric_limits<double>::infinity();
  int32_t id_ = -1;
};

int32_t draw_from_row(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling) {
  GumbelMax winner(sampling);
  winner.offer(row.best, row.logits[row.best]);  // first, because it raises the bound most
  for (int64_t id = 0; (id = kernels.next_above(row.logits, id, row.vocab, winner.hopeless())) < row.vocab;) {
    const int64_t block = id / 4, end = std::min(row.vocab, block * 4 + 4);
    const Philox4 bits = winner.draw(block);
    for (; id < end; ++id) {
      if (row.allows(id)) winner.offer(static_cast<int32_t>(id), row.logits[id], bits.v[id % 4]);
    }
  }
  return winner.id();
}

int32_t draw_from(const std::vector<Candidate>& candidates, const RowSampling& sampling) {
  GumbelMax winner(sampling);
  for (const Candidate& candidate : candidates) winner.offer(candidate.id, candidate.logit);
  return winner.id();
}

template <class Visit>
void visit_above(const VectorKernels& kernels, const SamplingRow& row, const float& bound, Visit&& visit) {
  for (int64_t id = 0; (id = kernels.next_above(row.logits, id, row.vocab, bound)) < row.vocab; ++id) {
    if (row.allows(id)) visit(Candidate{row.logits[id], static_cast<int32_t>(id)});
  }
}

// The k-th largest allowed logit, or -infinity when fewer are allowed. Keeps at most 2 k values at a time.
float kth_largest(const VectorKernels& kernels, const SamplingRow& row, size_t k) {
  std::vector<float> values;
  float bound = -kInfinity;
  const auto shrink = [&] {
    std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(k - 1), values.end(), std::greater<>());
    values.resize(k);
    bound = values[k - 1];
  };
  visit_above(kernels, row, bound, [&](const Candidate& candidate) {
    values.push_back(candidate.logit);
    if (values.size() == 2 * k) shrink();
  });
  if (values.size() >= k) shrink();
  return bound;
}

std::vector<Candidate> collect_above(const VectorKernels& kernels, const SamplingRow& row, float bound) {
  std::vector<Candidate> candidates;
  visit_above(kernels, row, bound, [&](const Candidate& candidate) { candidates.push_back(candidate); });
  return candidates;
}

double weight_of(float logit, float top, double temperature) {
  return std::exp((static_cast<double>(logit) - static_cast<double>(top)) / temperature);
}

// The sum of e^((l - top) / T) over the allowed ids of the row.
double row_mass(const VectorKernels& kernels, const SamplingRow& row, float temperature) {
  constexpr int64_t kPiece = 1024;
  const float top = row.logits[row.best];
  double mass = 0, s = 0;
  float scaled[kPiece];
  for (int64_t begin = 0; begin < row.vocab; begin += kPiece) {
    const int64_t n = std::min(kPiece, row.vocab - begin);
    for (int64_t i = 0; i < n; ++i) scaled[i] = std::max((row.logits[begin + i] - top) / temperature, -200.0f);
    const auto first = std::lower_bound(row.forbidden.begin(), row.forbidden.end(), begin);
    for (auto id = first; id != row.forbidden.end() && *id < begin + n; ++id) scaled[*id - begin] = -200;
    double z = 0;
    kernels.chunk_sums(scaled, n, 0, &z, &s);
    mass += z;
  }
  return mass;
}

// Without top-k before it, top-p can leave out at once every id too improbable to be in the nucleus: those of less than
// (1 - p) / vocab each hold less than 1 - p together. Half of that, to be clear of rounding.
float below_nucleus(const SamplingRow& row, const RowSampling& sampling, double mass) {
  const double temperature = static_cast<double>(sampling.temperature), p = static_cast<double>(sampling.top_p);
  const double limit = 0.5 * (1 - p) * mass / static_cast<double>(row.vocab);
  return just_below(static_cast<double>(row.logits[row.best]) + temperature * std::log(limit));
}

// Keeps the candidates before which at most p * mass lies: quickselect by mass instead of a sort.
void keep_nucleus(std::vector<Candidate>& candidates, double target, float top, double temperature) {
  auto low = candidates.begin(), high = candidates.end();
  double before = 0;
  while (low != high) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, more_probable);
    double mass = 0;
    for (auto it = low; it != middle; ++it) mass += weight_of(it->logit, top, temperature);
    if (before + mass > target) {
      high = middle;
      continue;
    }
    before += mass + weight_of(middle->logit, top, temperature);
    low = middle + 1;
  }
  candidates.erase(low, candidates.end());
}

// (l - top) / T of an id at exactly the share that min-p asks for.
double min_p_limit(const RowSampling& sampling) {
  return std::log(static_cast<double>(sampling.min_p));  // -infinity when it is off
}

// At most just below what min-p keeps, to be clear of rounding: a pre-selection.
float below_min_p(const SamplingRow& row, const RowSampling& sampling) {
  const double slack = 1e-6, temperature = static_cast<double>(sampling.temperature);
  return just_below(static_cast<double>(row.logits[row.best]) + temperature * (min_p_limit(sampling) - slack));
}

void keep_min_p(std::vector<Candidate>& candidates, float top, const RowSampling& sampling) {
  const double temperature = static_cast<double>(sampling.temperature), limit = min_p_limit(sampling);
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return (static_cast<double>(candidate.logit) - static_cast<double>(top)) / temperature < limit;
  });
}

// The ids that top-k and top-p keep, given the k-th largest logit (-infinity: no limit).
std::vector<Candidate> top_k_and_top_p(const VectorKernels& kernels, const SamplingRow& row,
                                       const RowSampling& sampling, float kth) {
  const double temperature = static_cast<double>(sampling.temperature), p = static_cast<double>(sampling.top_p);
  const float top = row.logits[row.best];
  if (kth == -kInfinity && sampling.top_p == 1) return collect_above(kernels, row, below_min_p(row, sampling));
  if (kth == -kInfinity) {
    const double mass = row_mass(kernels, row, sampling.temperature);
    auto candidates = collect_above(kernels, row, below_nucleus(row, sampling, mass));
    keep_nucleus(candidates, p * mass, top, temperature);
    return candidates;
  }
  auto candidates = collect_above(kernels, row, just_below(static_cast<double>(kth)));
  if (sampling.top_p < 1) {
    double mass = 0;
    for (const Candidate& candidate : candidates) mass += weight_of(candidate.logit, top, temperature);
    keep_nucleus(candidates, p * mass, top, temperature);
  }
  return candidates;
}

std::vector<Candidate> filter(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling,
                              float kth) {
  std::vector<Candidate> candidates = top_k_and_top_p(kernels, row, sampling, kth);
  if (sampling.min_p > 0) keep_min_p(candidates, row.logits[row.best], sampling);
  return candidates;
}

bool narrows(const RowSampling& sampling, float kth) {
  return kth != -kInfinity || sampling.top_p != 1 || sampling.min_p != 0;
}

float top_k_limit(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling) {
  const bool limited = sampling.top_k > 0 && sampling.top_k < row.vocab;
  return limited ? kth_largest(kernels, row, static_cast<size_t>(sampling.top_k)) : -kInfinity;
}

FilteredStats summarise(const std::vector<Candidate>& candidates, const SamplingRow& row, const RowSampling& sampling,
                        int32_t token) {
  const double temperature = static_cast<double>(sampling.temperature), top = static_cast<double>(row.logits[row.best]);
  double z = 0, s = 0, first = 0, second = 0, own = 0;
  for (const Candidate& candidate : candidates) {
    const double x = (static_cast<double>(candidate.logit) - top) / temperature, weight = std::exp(x);
    z += weight;
    s += x * weight;
    second = std::max(second, std::min(first, weight));
    first = std::max(first, weight);
    if (candidate.id == token) own = weight;
  }
  return {.confidence = static_cast<float>(own / z),
          .margin = static_cast<float>((first - second) / z),
          .entropy = static_cast<float>(std::max(0.0, std::log(z) - s / z))};
}

}  // namespace

bool SamplingRow::allows(int64_t id) const {
  return !std::binary_search(forbidden.begin(), forbidden.end(), static_cast<int32_t>(id));
}

int32_t sample_token(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling) {
  const float kth = top_k_limit(kernels, row, sampling);
  if (!narrows(sampling, kth)) return draw_from_row(kernels, row, sampling);
  return draw_from(filter(kernels, row, sampling, kth), sampling);
}

FilteredStats filtered_stats(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling,
                             int32_t token) {
  RowSampling warm = sampling;
  if (warm.temperature == 0) {
    warm.temperature = 1;
    warm.min_p = 0;  // of draws only
  }
  const float kth = top_k_limit(kernels, row, warm);
  return summarise(filter(kernels, row, warm, kth), row, warm, token);
}

}  // namespace pydllm::ops::cpu
