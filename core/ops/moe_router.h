// Which experts of a mixture a token goes to (Shazeer et al., 2017), in the variants of the diffusion models.
#pragma once

#include <cstdint>
#include <span>

#include "ops/attention.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

enum class RouterScore : uint8_t {
  kSoftmax,  // over all experts (LLaDA-MoE, SDAR-MoE, RND1)
  kSigmoid,  // of each expert (LLaDA2.x)
};

struct RouterRule {
  RouterScore score = RouterScore::kSoftmax;
  int32_t experts_per_token = 1;
  bool normalize = false;  // the chosen weights are divided by their sum + 1e-20
  float scale = 1;         // and multiplied by this
  // Above 1: the experts form so many groups of neighbours. A group ranks by the sum of its two best choice scores, and
  // experts are chosen from the `groups_kept` best groups (DeepSeek-AI, 2024).
  int32_t groups = 1;
  int32_t groups_kept = 1;
  // Above 0: experts are chosen among the `block_capacity` ones that rank best in the token's block of `block_length`
  // positions, an expert ranking by its best choice score there (LLaDA2.2). Groups are not used then.
  int32_t block_capacity = 0;
  int32_t block_length = 0;
};

// The choice score of an expert is its score plus its bias; the bias has no part in the weights. Everything is computed
// in float64 from the logits and rounded to float32 before it is compared. Ties: the lower expert or group.
//   logits     float32 [tokens, experts]
//   bias       undefined or float32 [experts]
//   sequences  read when block_capacity > 0: each must then hold whole blocks (InternalError otherwise)
//   experts    int32 [tokens, experts_per_token], by falling choice score
//   weights    float32 [tokens, experts_per_token]
// A row depends on its own logits only (block routing: on those of its block). What is no number ranks last.
void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule,
           std::span<const SequenceSpan> sequences, Tensor& experts, Tensor& weights);

}  // namespace pydllm::ops
