// Drawing one token from a filtered row of logits.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/vector_kernels.h"
#include "select/row_stats.h"

namespace pydllm::ops::cpu {

// A row of finite logits and the sorted ids that may not be drawn.
struct SamplingRow {
  const float* logits;
  int64_t vocab;
  std::span<const int32_t> forbidden;
  int32_t best;  // the most probable allowed id

  bool allows(int64_t id) const;
};

// Temperature, top-k, top-p, min-p and Gumbel-max, as ops/row_stats.h says. temperature > 0. Deterministic.
int32_t sample_token(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling);

// What select/row_stats.h says of the distribution that sample_token draws from. `row` forbids banned ids only.
FilteredStats filtered_stats(const VectorKernels& kernels, const SamplingRow& row, const RowSampling& sampling,
                             int32_t token);

}  // namespace pydllm::ops::cpu
