// How long the next step will take, judged by the last ones. Pure host state, no clock of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

#include "engine/request.h"

namespace pydllm::engine {

class StepTimes {
 public:
  // A step that fed so many tokens (at least 1) took so long.
  void add(int64_t tokens, Clock::duration duration);
  // Of a step that feeds so many: the longest of the kNearest remembered steps whose numbers of tokens are nearest (by
  // ratio; of equal ones the latest), each made longer in proportion where it fed fewer. 0 before the first step.
  Clock::duration expected(int64_t tokens) const;

 private:
  static constexpr size_t kRemembered = 16;
  static constexpr size_t kNearest = 4;
  struct Step {
    int64_t tokens;
    Clock::duration duration;
  };

  std::deque<Step> steps_;  // the latest first
};

}  // namespace pydllm::engine
