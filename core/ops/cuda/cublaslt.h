// Matrix products of the CUDA backend by cuBLASLt; ops/cuda/linear.cu multiplies where it is not to be had.
#pragma once

#include <compare>
#include <map>
#include <memory>

#include "ops/cuda/cublaslt_library.h"
#include "ops/cuda/cuda_ops.h"
#include "tensor/dtype.h"

namespace pydllm::ops::cuda {

// A workspace of this size lets the heuristics offer split-K kernels, which products of few rows want.
inline constexpr size_t kCublasLtWorkspaceBytes = size_t{32} << 20;
// What every pointer is aligned to; the heuristics are asked for kernels that need no more.
inline constexpr size_t kCublasLtAlignment = 16;

// The number of rows that the heuristics are asked for: `rows` up to the next multiple of 32, above 256 up to the next
// power of two. All products with one weight and equal buckets use one kernel.
int64_t cublaslt_rows(int64_t rows);

// cuBLASLt on the device that is current where this is made. One per engine: only the engine thread uses it.
class CublasLt {
 public:
  // `workspace` is kCublasLtWorkspaceBytes of device memory that all products use, one after another: they have to be
  // on one stream. Throws InternalError, as every call here, naming the function of cuBLASLt and its status.
  CublasLt(std::shared_ptr<const CublasLtLibrary> library, std::shared_ptr<void> workspace);

  // y float32 [rows, out_features] = (accumulate: y +) x W^T + bias, float32 sums.
  //   x, weight  bfloat16 [rows, in_features], [out_features, in_features]
  //   bias       float32 [out_features] or null
  // All pointers are device memory, aligned to kCublasLtAlignment; in_features >= 1. No rows or outputs launch nothing.
  // The order of summation is that of the kernel that cuBLASLt chose for (cublaslt_rows(rows), in_features,
  // out_features): a row's bits are the same in products of one bucket, not across buckets.
  void linear(const BFloat16* x, const BFloat16* weight, const float* bias, int64_t rows, int64_t in_features,
              int64_t out_features, float* y, bool accumulate, Stream stream);

  size_t plans() const noexcept { return plans_.size(); }
  const CublasLtLibrary& library() const noexcept { return *library_; }

 private:
  template <class T>
  using Owned = std::unique_ptr<T, LtStatus (*)(T*)>;

  struct Shape {
    int64_t rows;  // a bucket
    int64_t in_features, out_features;
    bool accumulate, bias;
    auto operator<=>(const Shape&) const = default;
  };
  struct Plan {
    Owned<LtMatmul> matmul;
    Owned<LtMatrixLayout> weight, x, y;  // of x and y the number of rows is set anew for each product
    LtAlgorithm algorithm{};
  };

  void expect(const char* call, LtStatus status, const Shape* shape = nullptr) const;
  Owned<LtMatmul> make_matmul(const Shape& shape) const;
  Owned<LtMatrixLayout> make_layout(int type, int64_t rows, int64_t columns) const;
  Owned<LtPreference> make_preference() const;
  void choose_algorithm(const Shape& shape, Plan& plan) const;
  Plan& plan_for(const Shape& shape);

  std::shared_ptr<const CublasLtLibrary> library_;
  const LtFunctions& lt_;
  std::shared_ptr<void> workspace_;
  Owned<LtContext> context_;
  std::map<Shape, Plan> plans_;
};

}  // namespace pydllm::ops::cuda
