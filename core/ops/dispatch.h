// Checks and device dispatch shared by the ops. Violated checks throw InternalError; a device without a backend in this
// build throws Unsupported("device").
#pragma once

#include <initializer_list>
#include <utility>

#include "base/check.h"
#include "tensor/context.h"
#include "tensor/cuda/built.h"
#include "tensor/tensor.h"

namespace pydllm::ops {

struct NamedTensor {
  const Tensor& tensor;
  const char* name;
};

[[noreturn]] inline void throw_no_backend(const char* op, Device device) {
  throw Unsupported("device", format(op, ": this build has no backend for device ", name_of(device)));
}

inline bool on_cuda(const Context& context) {
  return context.device.type == DeviceType::kCuda;
}

// The context can run `op` here.
inline void expect_device(const Context& context, const char* op) {
  if (on_cuda(context)) {
    if (!kHasCuda) throw_no_backend(op, context.device);
    check(context.arena != nullptr, op, ": the context has no arena");
  } else {
    check(context.pool != nullptr, op, ": the context has no thread pool");
  }
}

// The context can run `op` here, and every tensor is defined and lives on its device.
inline void expect_runnable(const Context& context, const char* op, std::initializer_list<NamedTensor> tensors) {
  expect_device(context, op);
  for (const auto& [tensor, name] : tensors) {
    check(tensor.defined(), op, ": ", name, " is undefined");
    check(tensor.device() == context.device, op, ": ", name, " is on ", name_of(tensor.device()), ", expected ",
          name_of(context.device));
  }
}

inline void expect_float_dtype(const Tensor& tensor, const char* name) {
  const DType dtype = tensor.dtype();
  check(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, name,
        ": expected float32, bfloat16 or float16, got ", name_of(dtype));
}

// Columns [first, first + count) lie in a row of `width`; written so that no sum can overflow.
inline void expect_columns(const char* name, int64_t first, int64_t count, int64_t width) {
  check(first >= 0 && count >= 0 && count <= width && first <= width - count, name, ": columns [", first, ", +", count,
        ") do not lie in a row of ", width);
}

// a * b of two non-negative extents, or InternalError when it does not fit.
inline int64_t checked_product(int64_t a, int64_t b, const char* name) {
  int64_t product = 0;
  check(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &product), name, ": ", a, " x ", b, " is out of range");
  return product;
}

}  // namespace pydllm::ops
