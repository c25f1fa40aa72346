// Table T1 of the field's references, as row statistics, and what an algorithm does with it.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <vector>

#include "decode_driver.h"

namespace pydllm::decode {

using Canvases = std::vector<std::vector<int32_t>>;
using Tokens = std::vector<int32_t>;

constexpr int32_t M = -1;  // masked, as visible() shows it

constexpr double kT1[4][4] = {{.70, .20, .09, .01}, {.05, .90, .04, .01}, {.40, .35, .24, .01}, {.01, .01, .97, .01}};

inline RowStats stats_of_probabilities(const double (&p)[4]) {
  RowStats stats;
  stats.token = static_cast<int32_t>(std::max_element(p, p + 4) - p);
  stats.confidence = static_cast<float>(p[stats.token]);
  double entropy = 0;
  for (const double value : p) entropy -= value * std::log(value);
  stats.entropy = static_cast<float>(entropy);
  double sorted[4];
  std::partial_sort_copy(p, p + 4, sorted, sorted + 4, std::greater<>());
  stats.filtered = {stats.confidence, static_cast<float>(sorted[0] - sorted[1]), stats.entropy};
  stats.finite = true;
  return stats;
}

inline RowStats t1(int32_t position, int32_t /*forward*/) {
  return stats_of_probabilities(kT1[position - 1]);
}

inline RowStats certain(int32_t token, float confidence, float entropy = 0) {
  RowStats stats;
  stats.token = token;
  stats.confidence = confidence;
  stats.entropy = entropy;
  stats.filtered = {confidence, confidence, entropy};
  stats.finite = true;
  return stats;
}

inline Canvases t1_run(std::string_view algorithm, const ParamMap& params) {
  Driver driver({}, algorithm, params);
  return canvases(driver, t1);
}

// Generated offsets that are not masked.
inline std::set<int32_t> committed_offsets(const Canvas& canvas) {
  std::set<int32_t> out;
  for (int32_t i = canvas.prompt_length(); i < canvas.length(); ++i) {
    if (!canvas.masked(i)) out.insert(i - canvas.prompt_length());
  }
  return out;
}

// Positions committed by the first forward on T1.
inline std::set<int32_t> t1_first(std::string_view algorithm, const ParamMap& params) {
  Driver driver({}, algorithm, params);
  driver.step(t1);
  return committed_offsets(driver.canvas);
}

}  // namespace pydllm::decode
