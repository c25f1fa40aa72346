// A cap on the forwards of a block, whatever walks the blocks. Private to decode.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "select/select.h"

namespace pydllm::decode {

// A rule that takes as many rows as pass; the last allowed forward of a block takes every row. `Walk` tells how many
// forwards the block has had with step(), and lets choose(ranks, chosen) decide.
template <class Walk>
class Capped : public Walk {
 protected:
  template <class... Arguments>
  explicit Capped(int64_t max_steps, Arguments&&... arguments)
      : Walk(std::forward<Arguments>(arguments)...), max_steps_(max_steps) {}

 private:
  // Like choose(), for every forward but the last allowed one; at least one row.
  virtual int32_t take(std::span<const float> ranks, int32_t* chosen) const = 0;
  int32_t choose(std::span<const float> ranks, int32_t* chosen) final {
    const bool last_allowed = this->step() + int64_t{1} >= max_steps_;
    return last_allowed ? select::all(static_cast<int32_t>(ranks.size()), chosen) : take(ranks, chosen);
  }

  int64_t max_steps_;
};

}  // namespace pydllm::decode
