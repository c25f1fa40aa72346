// The gated feed-forward blocks of a mixture of experts.
#pragma once

#include <span>
#include <vector>

#include "ops/linear.h"

namespace pydllm::ops {

// One expert: hidden size H, its intermediate size F.
struct Expert {
  PackedWeight gate_up;  // gate | up, [2F, H]
  PackedWeight down;     // [H, F]
};

// The experts as the device wants them. On CUDA all gate_up lie side by side in one tensor and so do all down, so that
// a kernel finds an expert's weights by arithmetic; what was there before is freed. On the CPU they stay as they are.
std::vector<Expert> arranged(const Context& context, std::vector<Expert> experts);

// y[t, :] += weights[t, i] * down_e(silu(gate_e(x[t, :])) * up_e(x[t, :])) for every i, with e = choice[t, i].
//   experts  on a CUDA device `arranged`
//   x        linear_input_dtype of the experts' dtype, [tokens, H]
//   choice   int32 [tokens, k], distinct in a row, each in [0, experts) (InternalError otherwise)
//   weights  float32 [tokens, k]
//   y        float32 [tokens, H], not aliasing x
// Only experts that some token chose are read. A row's sum runs in rising order of the expert, so that it depends on
// that row only, bit for bit.
void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y);

}  // namespace pydllm::ops
