// Tensors from one device to another.
#pragma once

#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm {

// to = from, of one shape and dtype; either may be in host memory. On a CUDA device in the order of the context's
// stream: a copy to the host is complete when the call returns, and host memory that was copied from may change.
void copy(const Context& context, const Tensor& from, const Tensor& to);

// The tensor on the context's device: itself when it is there already.
Tensor to_device(const Context& context, const Tensor& tensor);

// The same for small inputs of one step: valid until the context's arena is reset, and without waiting.
Tensor to_device_for_step(const Context& context, const Tensor& tensor);

}  // namespace pydllm
