#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {

void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale) {
  float* cond = conditional.data<float>();
  const float* uncond = unconditional.data<float>();
  const float weight = scale + 1;
  parallel_rows(context, conditional.numel(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) cond[i] = uncond[i] + weight * (cond[i] - uncond[i]);
  });
}

}  // namespace pydllm::ops::cpu
