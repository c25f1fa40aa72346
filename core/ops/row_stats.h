// Logits to row statistics: the only reader of the vocabulary axis.
#pragma once

#include <span>

#include "select/row_stats.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

// One pass over each row for top-2, log-sum-exp and entropy; a second, filtered one only for rows with temperature > 0:
// logits / T -> top-k (ties at the k-th value all survive) -> top-p (the token that crosses the mass is kept) -> min-p
// (so are ids at exactly the share) -> Gumbel-max with the counter-based draw (seed; kToken, step, position, id).
//   logits     float32 [rows, vocab], edited before (edit_logits)
//   sampling   [rows]; of the edits only the bans are read
//   forbidden  ids that are never chosen (the mask token); they stay in the softmax's normaliser
//   out        [rows]
// sampling[i].controls: ids that RowStats::text leaves out.
// Where sampling[i].filtered is set, also the statistics of the distribution that the draw is from.
// Ties: lowest id. Rows with a non-finite logit report finite = false and nothing else.
void row_stats(const Context& context, const Tensor& logits, std::span<const RowSampling> sampling,
               std::span<const int32_t> forbidden, std::span<RowStats> out);

// Applies sampling[i].edits to row i in place: in float64, rounded once, kept finite; a banned id gets the lowest
// finite logit. A non-finite logit stays as it is. Rows without edits are not touched.
//   logits     float32 [rows, vocab]
//   sampling   [rows]
void edit_logits(const Context& context, Tensor& logits, std::span<const RowSampling> sampling);

// Classifier-free guidance (Ho and Salimans, 2022; LLaDA's form): cond = uncond + (scale + 1) * (cond - uncond).
//   conditional, unconditional  float32 [rows, vocab]; the result replaces `conditional`
void guide(const Context& context, Tensor& conditional, const Tensor& unconditional, float scale);

}  // namespace pydllm::ops
