#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/cpu_ops.h"

namespace pydllm::ops::cpu {
namespace {

// A sum beyond the range of float32 must not look like a model whose numbers broke down.
float edited(float logit, const LogitEdit& edit) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (!std::isfinite(logit)) return logit;
  const double x = static_cast<double>(logit), factor = static_cast<double>(edit.factor);
  const double scaled = x > 0 ? x / factor : x * factor;
  return static_cast<float>(std::clamp(scaled + static_cast<double>(edit.bias), -kLargest, kLargest));
}

}  // namespace

void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling) {
  float* x = logits.data<float>();
  const int64_t vocab = logits.size(1);
  context.pool->run(logits.size(0), [&](int64_t row) {
    for (const LogitEdit& edit : sampling[static_cast<size_t>(row)].edits) {
      float& logit = x[row * vocab + edit.id];
      logit = edited(logit, edit);
    }
  });
}

}  // namespace pydllm::ops::cpu
