// Splitting rows over the pool. The split never shows in the results: every row is computed by the same code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/context.h"

namespace pydllm::ops::cpu {

// Enough elements that handing out a task (a fraction of a microsecond) does not show.
inline constexpr int64_t kElementsPerTask = 8192;

// Calls body(begin, end) for consecutive ranges that cover [0, rows); a row has `row_elements` elements.
template <class Body>
void parallel_rows(const Context& context, int64_t rows, int64_t row_elements, Body&& body) {
  const int64_t step = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, row_elements));
  const int64_t tasks = (rows + step - 1) / step;
  context.pool->run(tasks, [&](int64_t task) { body(task * step, std::min(rows, (task + 1) * step)); });
}

}  // namespace pydllm::ops::cpu
