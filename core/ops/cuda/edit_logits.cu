#include <cfloat>

#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kEditThreads = 128;

__device__ inline float edited(float logit, const LogitEdit& edit) {
  if (!(fabsf(logit) < INFINITY)) return logit;
  const auto x = static_cast<double>(logit), factor = static_cast<double>(edit.factor);
  const double sum = (x > 0 ? x / factor : x * factor) + static_cast<double>(edit.bias);
  constexpr double kLargest = FLT_MAX;
  return static_cast<float>(sum < -kLargest ? -kLargest : sum > kLargest ? kLargest : sum);
}

// The row of an edit: the last one that begins at or before it.
__device__ inline int64_t row_of_edit(const int64_t* row_begin, int64_t rows, int64_t edit) {
  int64_t low = 0;
  for (int64_t high = rows; high - low > 1;) {
    const int64_t middle = low + (high - low) / 2;
    if (row_begin[middle] <= edit) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// One thread per edit.
__global__ void __launch_bounds__(kEditThreads)
    edit_logits_kernel(const int64_t* row_begin, int64_t rows, const LogitEdit* edits, int64_t edit_count,
                       int64_t vocab, float* logits) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kEditThreads + threadIdx.x;
  if (i >= edit_count) return;
  float& logit = logits[row_of_edit(row_begin, rows, i) * vocab + edits[i].id];
  logit = edited(logit, edits[i]);
}

void edit_logits(float* logits, int64_t rows, int64_t vocab, const int64_t* row_begin, const LogitEdit* edits,
                 int64_t edit_count, Stream stream) {
  if (rows == 0 || edit_count == 0) return;
  launch("edit_logits", edit_logits_kernel,
         {blocks("edit_logits", (edit_count + kEditThreads - 1) / kEditThreads), 1, 1}, kEditThreads, 0, stream,
         row_begin, rows, edits, edit_count, vocab, logits);
}

}  // namespace pydllm::ops::cuda
