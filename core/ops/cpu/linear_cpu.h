// Private to core/ops: packing and multiplication on the CPU. The caller has checked shapes and dtypes.
#pragma once

#include <span>

#include "ops/cpu/linear_kernels.h"
#include "ops/linear.h"

namespace pydllm::ops::cpu {

// The panels of the stacked parts; see linear_panel.h for the layout. Zero-padded.
Tensor pack_panels(ThreadPool& pool, std::span<const Tensor> parts, int64_t out_features, int64_t in_features,
                   DType dtype);

// ops::linear with an explicit instruction set.
void linear(ThreadPool& pool, Isa isa, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode);

}  // namespace pydllm::ops::cpu
