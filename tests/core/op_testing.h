// What the tests of the ops share: random tensors, float64 views, bitwise comparison, the kernels this CPU can run.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/thread_pool.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/vector_kernels.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm::testing {

// A context with its own pool of `threads`.
struct CpuRunner {
  explicit CpuRunner(int threads = 1) : pool(threads), context{Device{}, &pool} {}
  ThreadPool pool;
  Context context;
};

inline Tensor random_tensor(std::vector<int64_t> shape, uint32_t seed, float sigma = 1, DType dtype = DType::kF32) {
  Tensor out = Tensor::empty(std::move(shape), dtype);
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, sigma);
  for (int64_t i = 0; i < out.numel(); ++i) {
    const float x = normal(generator);
    if (dtype == DType::kF32) out.data<float>()[i] = x;
    if (dtype == DType::kBF16) out.data<BFloat16>()[i] = to_bfloat16(x);
    if (dtype == DType::kF16) out.data<Float16>()[i] = to_float16(x);
  }
  return out;
}

inline double at(const Tensor& tensor, int64_t i) {
  if (tensor.dtype() == DType::kF32) return static_cast<double>(tensor.data<float>()[i]);
  if (tensor.dtype() == DType::kBF16) return static_cast<double>(to_float(tensor.data<BFloat16>()[i]));
  return static_cast<double>(to_float(tensor.data<Float16>()[i]));
}

template <class T>
Tensor tensor_of(const std::vector<T>& values) {
  return Tensor::from<T>(values);
}

// Rounding error of one store to the dtype, relative to the value.
inline double store_error(DType dtype) {
  if (dtype == DType::kBF16) return 0x1p-8;
  return dtype == DType::kF16 ? 0x1p-11 : 0;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.nbytes() == b.nbytes() && std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
}

inline std::vector<const ops::cpu::VectorKernels*> runnable_kernels() {
  using ops::cpu::Isa;
  std::vector<const ops::cpu::VectorKernels*> kernels{ops::cpu::portable_kernels()};
  if (ops::cpu::active_isa() >= Isa::kAvx2 && ops::cpu::avx2_kernels()) kernels.push_back(ops::cpu::avx2_kernels());
  if (ops::cpu::active_isa() >= Isa::kAvx512 && ops::cpu::avx512_kernels()) {
    kernels.push_back(ops::cpu::avx512_kernels());
  }
  return kernels;
}

// The message of the E that `run` throws; fails when it throws nothing or something else.
template <class E, class Run>
std::string message_of(Run&& run) {
  try {
    run();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no exception";
  return "";
}

#define EXPECT_INTERNAL_ERROR(statement, part) \
  EXPECT_NE(::pydllm::testing::message_of<InternalError>([&] { statement; }).find(part), std::string::npos)

}  // namespace pydllm::testing
