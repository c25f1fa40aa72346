// Which of the scored rows of one forward are committed. Rows are the eligible positions in ascending order, so "lowest
// row" is "lowest position". No allocation and no std containers: kernels can use the same rules (constexpr).
//
// Shapes, for every rule: values [count], none of them NaN; chosen has room for `count` row indexes, must not overlap
// the values. Returns how many indexes were written. Ties: the lowest row ranks first.
#pragma once

#include <cstdint>

namespace pydllm::select {

// How an entropy passes its threshold: H <= threshold or H < threshold.
enum class Comparison : uint8_t { kAtMost, kBelow };

constexpr bool passes(float entropy, float threshold, Comparison comparison) {
  return comparison == Comparison::kAtMost ? entropy <= threshold : entropy < threshold;
}

namespace detail {

struct MoreConfident {
  const float* confidence;
  constexpr bool operator()(int32_t a, int32_t b) const {
    return confidence[a] != confidence[b] ? confidence[a] > confidence[b] : a < b;
  }
};

struct LowerEntropy {
  const float* entropy;
  constexpr bool operator()(int32_t a, int32_t b) const {
    return entropy[a] != entropy[b] ? entropy[a] < entropy[b] : a < b;
  }
};

// heap[0..size) with the worst row at the root; restores that order below `root`.
template <class Better>
constexpr void sift_down(int32_t* heap, int32_t size, int32_t root, Better better) {
  const int32_t moving = heap[root];
  for (int32_t child = 2 * root + 1; child < size; child = 2 * root + 1) {
    if (child + 1 < size && better(heap[child], heap[child + 1])) ++child;
    if (!better(moving, heap[child])) break;
    heap[root] = heap[child];
    root = child;
  }
  heap[root] = moving;
}

template <class Better>
constexpr void sort_best_first(int32_t* heap, int32_t size, Better better) {
  for (int32_t last = size - 1; last > 0; --last) {
    const int32_t worst = heap[0];
    heap[0] = heap[last];
    heap[last] = worst;
    sift_down(heap, last, 0, better);
  }
}

template <class Better>
constexpr int32_t top_n(int32_t count, int32_t n, Better better, int32_t* chosen) {
  const int32_t size = n < count ? n : count;
  if (size <= 0) return 0;
  for (int32_t row = 0; row < size; ++row) chosen[row] = row;
  for (int32_t root = size / 2 - 1; root >= 0; --root) sift_down(chosen, size, root, better);
  for (int32_t row = size; row < count; ++row) {
    if (!better(row, chosen[0])) continue;
    chosen[0] = row;
    sift_down(chosen, size, 0, better);
  }
  sort_best_first(chosen, size, better);
  return size;
}

template <class Better, class Passes>
constexpr int32_t best_and_passing(int32_t count, Better better, Passes passes, int32_t* chosen) {
  int32_t best = 0;
  for (int32_t row = 1; row < count; ++row) {
    if (better(row, best)) best = row;
  }
  int32_t kept = 0;
  for (int32_t row = 0; row < count; ++row) {
    if (row == best || passes(row)) chosen[kept++] = row;
  }
  return kept;
}

}  // namespace detail

// The min(n, count) most confident rows, best first.
constexpr int32_t top_confidence(const float* confidence, int32_t count, int32_t n, int32_t* chosen) {
  return detail::top_n(count, n, detail::MoreConfident{confidence}, chosen);
}

// The min(n, count) rows of smallest entropy, best first.
constexpr int32_t lowest_entropy(const float* entropy, int32_t count, int32_t n, int32_t* chosen) {
  return detail::top_n(count, n, detail::LowerEntropy{entropy}, chosen);
}

// The most confident row, and every row with confidence >= threshold; ascending.
constexpr int32_t confidence_threshold(const float* confidence, int32_t count, float threshold, int32_t* chosen) {
  const auto passes = [=](int32_t row) { return confidence[row] >= threshold; };
  return detail::best_and_passing(count, detail::MoreConfident{confidence}, passes, chosen);
}

// The row of smallest entropy, and every row whose entropy passes the threshold; ascending.
constexpr int32_t entropy_threshold(const float* entropy, int32_t count, float threshold, Comparison comparison,
                                    int32_t* chosen) {
  const auto row_passes = [=](int32_t row) { return passes(entropy[row], threshold, comparison); };
  return detail::best_and_passing(count, detail::LowerEntropy{entropy}, row_passes, chosen);
}

// Every row whose entropy passes the threshold; ascending, maybe none.
constexpr int32_t passing_entropy(const float* entropy, int32_t count, float threshold, Comparison comparison,
                                  int32_t* chosen) {
  int32_t kept = 0;
  for (int32_t row = 0; row < count; ++row) {
    if (passes(entropy[row], threshold, comparison)) chosen[kept++] = row;
  }
  return kept;
}

// The longest prefix c_1 >= c_2 >= ... of the sorted confidences in which every c_n reaches 1 - factor / (n + 1), and
// the most confident row in any case; best first. With `last_always`, the least confident row is taken when all others
// are.
constexpr int32_t factor(const float* confidence, int32_t count, double factor, bool last_always, int32_t* chosen) {
  const int32_t sorted = top_confidence(confidence, count, count, chosen);
  for (int32_t n = 2; n <= sorted; ++n) {
    const bool passes = confidence[chosen[n - 1]] >= static_cast<float>(1 - factor / (n + 1));
    if (!passes && !(last_always && n == sorted)) return n - 1;
  }
  return sorted;
}

// The most confident row, every row with confidence >= threshold, and every row within `slack` of the most confident;
// ascending.
constexpr int32_t near_maximum(const float* confidence, int32_t count, float threshold, float slack, int32_t* chosen) {
  int32_t best = 0;
  if (top_confidence(confidence, count, 1, &best) == 0) return 0;
  const float close = confidence[best] - slack;
  return confidence_threshold(confidence, count, close < threshold ? close : threshold, chosen);
}

// Runs of rows at consecutive positions are segments. Takes every row that equals its segment's maximum and is above
// `low`, every row above `high`, and the most confident row in any case; ascending. position [count], ascending.
constexpr int32_t segment_maxima(const float* confidence, const int32_t* position, int32_t count, float low, float high,
                                 int32_t* chosen) {
  int32_t best = 0, kept = 0;
  top_confidence(confidence, count, 1, &best);
  for (int32_t begin = 0, end = 0; begin < count; begin = end) {
    float maximum = confidence[begin];
    for (end = begin + 1; end < count && position[end] == position[end - 1] + 1; ++end) {
      if (confidence[end] > maximum) maximum = confidence[end];
    }
    for (int32_t row = begin; row < end; ++row) {
      const float c = confidence[row];
      if ((c == maximum && c > low) || c > high || row == best) chosen[kept++] = row;
    }
  }
  return kept;
}

// After a rule that left `kept` ascending rows in `chosen`: where none of the first `count` rows is among them, the one
// of smallest entropy of these is added behind. Returns how many there are now.
constexpr int32_t force_lowest_entropy(const float* entropy, int32_t count, int32_t* chosen, int32_t kept) {
  const bool forced = kept == 0 || chosen[0] >= count;
  return forced ? kept + lowest_entropy(entropy, count, 1, chosen + kept) : kept;
}

// Every row whose value is below the bound; ascending, maybe none.
constexpr int32_t below(const float* value, int32_t count, float bound, int32_t* chosen) {
  int32_t kept = 0;
  for (int32_t row = 0; row < count; ++row) {
    if (value[row] < bound) chosen[kept++] = row;
  }
  return kept;
}

// Every row with confidence > threshold if there are at least n, ascending; else the min(n, count) most confident rows,
// best first.
constexpr int32_t confident_or_top(const float* confidence, int32_t count, float threshold, int32_t n,
                                   int32_t* chosen) {
  int32_t kept = 0;
  for (int32_t row = 0; row < count; ++row) {
    if (confidence[row] > threshold) chosen[kept++] = row;
  }
  return kept >= n ? kept : top_confidence(confidence, count, n, chosen);
}

// The first min(n, count) rows.
constexpr int32_t leftmost(int32_t count, int32_t n, int32_t* chosen) {
  const int32_t taken = n < count ? n : count;
  for (int32_t row = 0; row < taken; ++row) chosen[row] = row;
  return taken;
}

// Every row; ascending.
constexpr int32_t all(int32_t count, int32_t* chosen) {
  for (int32_t row = 0; row < count; ++row) chosen[row] = row;
  return count;
}

// How many of `masks` positions step `step` of `steps` commits: as even as possible, the earlier steps take the rest.
// masks >= 0, 0 <= step < steps.
constexpr int64_t scheduled_commits(int64_t masks, int64_t steps, int64_t step) {
  return masks / steps + (step < masks % steps ? 1 : 0);
}

}  // namespace pydllm::select
