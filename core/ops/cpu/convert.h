// Rows of float to and from a tensor's element type.
#pragma once

#include <cstdint>

#include "ops/cpu/vector_kernels.h"
#include "tensor/dtype.h"

namespace pydllm::ops::cpu {

// Writes n floats as elements [offset, offset + n) of float32, bfloat16 or float16 memory, rounding to nearest even.
void store_floats(const VectorKernels& kernels, const float* x, int64_t n, DType dtype, void* out, int64_t offset);

// Reads elements [offset, offset + n) of float32, bfloat16 or float16 memory, which need not be aligned.
void load_floats(const void* x, int64_t offset, int64_t n, DType dtype, float* out);

}  // namespace pydllm::ops::cpu
