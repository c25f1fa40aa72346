// From one float type to another, rounding to nearest even.
#pragma once

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace pydllm {

// to = from, element by element, of one shape; both float32, bfloat16 or float16 in host memory (InternalError
// otherwise). Without a pool in this thread.
void convert(const Tensor& from, const Tensor& to, ThreadPool* pool = nullptr);

}  // namespace pydllm
