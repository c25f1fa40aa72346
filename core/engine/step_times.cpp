#include "engine/step_times.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace pydllm::engine {
namespace {

// How far two numbers of tokens are apart: 1 when they are equal.
double ratio(int64_t a, int64_t b) {
  return static_cast<double>(std::max(a, b)) / static_cast<double>(std::min(a, b));
}

}  // namespace

void StepTimes::add(int64_t tokens, Clock::duration duration) {
  steps_.push_front({tokens, duration});
  if (steps_.size() > kRemembered) steps_.pop_back();
}

Clock::duration StepTimes::expected(int64_t tokens) const {
  std::vector<Step> nearest(steps_.begin(), steps_.end());
  std::ranges::stable_sort(nearest, {}, [tokens](const Step& step) { return ratio(step.tokens, tokens); });
  nearest.resize(std::min(nearest.size(), kNearest), Step{});
  std::chrono::duration<double> longest{0};
  for (const Step& step : nearest) {
    // A larger step takes no less: what one needs whatever it feeds is not told apart, so it is not made shorter.
    const double factor = step.tokens < tokens ? ratio(step.tokens, tokens) : 1;
    longest = std::max(longest, factor * std::chrono::duration<double>(step.duration));
  }
  return std::chrono::duration_cast<Clock::duration>(longest);
}

}  // namespace pydllm::engine
