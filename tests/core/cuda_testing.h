// What the tests of the emulated CUDA kernels share: tensors in guarded device memory and back.
#pragma once

#include <memory>
#include <string>

#include "op_testing.h"
#include "ops/cuda/emulation.h"

namespace pydllm::testing {

using ops::cuda::emulation::Buffer;
using ops::cuda::emulation::KernelError;

// A device copy of a contiguous tensor.
template <class T>
std::unique_ptr<Buffer<T>> on_device(const char* name, const Tensor& tensor) {
  return std::make_unique<Buffer<T>>(name, tensor.data<T>(), static_cast<size_t>(tensor.numel()));
}

template <class T>
std::unique_ptr<Buffer<T>> on_device(const char* name, const std::vector<T>& values) {
  return std::make_unique<Buffer<T>>(name, values.data(), values.size());
}

template <class T>
Tensor to_host(Buffer<T>& buffer, std::vector<int64_t> shape) {
  Tensor out = Tensor::empty(std::move(shape), DTypeOf<T>::value);
  std::memcpy(out.raw(), buffer.data(), out.nbytes());
  return out;
}

// Every element within relative * |expected| + absolute; NaN is near nothing.
inline void expect_near(const Tensor& actual, const Tensor& expected, double relative, double absolute) {
  ASSERT_EQ(actual.numel(), expected.numel());
  for (int64_t i = 0; i < actual.numel(); ++i) {
    const double want = at(expected, i);
    ASSERT_LE(std::abs(at(actual, i) - want), relative * std::abs(want) + absolute)
        << "element " << i << ": " << at(actual, i) << ", expected " << want;
  }
}

}  // namespace pydllm::testing
