#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {
namespace {

// The two halves never overlap each other or the tables, which the compiler needs to know to vectorise.
void rotate(float* __restrict low, float* __restrict high, const float* __restrict cos, const float* __restrict sin,
            int64_t half) {
  for (int64_t d = 0; d < half; ++d) {
    const float a = low[d], b = high[d];
    low[d] = a * cos[d] - b * sin[d];
    high[d] = b * cos[d] + a * sin[d];
  }
}

}  // namespace

void rope(const Context& context, Tensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const Tensor& positions, const RopeTable& table) {
  const int64_t tokens = x.size(0), width = x.size(1), half = table.cos.size(1);
  const int32_t* position = positions.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    check(position[t] >= 0 && position[t] < table.cos.size(0), "positions[", t, "]: expected 0 <= position < ",
          table.cos.size(0), ", got ", position[t]);
  }
  parallel_rows(context, tokens, heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = table.cos.data<float>() + position[t] * half;
      const float* sin = table.sin.data<float>() + position[t] * half;
      float* head = x.data<float>() + t * width + first_column;
      for (int64_t h = 0; h < heads; ++h, head += head_dim) rotate(head, head + half, cos, sin, half);
    }
  });
}

}  // namespace pydllm::ops::cpu
