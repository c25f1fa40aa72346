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
  const auto passes = [=](int32_t row) {
    return comparison == Comparison::kAtMost ? entropy[row] <= threshold : entropy[row] < threshold;
  };
  return detail::best_and_passing(count, detail::LowerEntropy{entropy}, passes, chosen);
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
