#include <algorithm>
#include <cmath>

#include "ops/cpu/convert.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {
namespace {

constexpr int64_t kPiece = 512;

void norm_row(const VectorKernels& kernels, const float* x, const float* weight, int64_t dim, double epsilon,
              DType dtype, void* out, int64_t offset) {
  const double mean = static_cast<double>(kernels.sum_of_squares(x, dim)) / static_cast<double>(dim);
  const float factor = static_cast<float>(1 / std::sqrt(mean + epsilon));
  if (dtype == DType::kF32) return kernels.scale(x, factor, weight, dim, static_cast<float*>(out) + offset);
  float piece[kPiece];
  for (int64_t d = 0; d < dim; d += kPiece) {
    const int64_t n = std::min(kPiece, dim - d);
    kernels.scale(x + d, factor, weight + d, n, piece);
    store_floats(kernels, piece, n, dtype, out, offset + d);
  }
}

void check_rows(const Tensor& rows, int64_t limit) {
  const int32_t* index = rows.data<int32_t>();
  for (int64_t i = 0; i < rows.size(0); ++i) {
    check(index[i] >= 0 && index[i] < limit, "rows[", i, "]: expected 0 <= row < ", limit, ", got ", index[i]);
  }
}

}  // namespace

void rms_norm(const Context& context, const Tensor& x, const Tensor& rows, const Tensor& weight, float epsilon,
              Tensor& out) {
  if (rows.defined()) check_rows(rows, x.size(0));
  const int32_t* index = rows.defined() ? rows.data<int32_t>() : nullptr;
  const int64_t dim = x.size(1);
  const VectorKernels& kernels = vector_kernels();
  parallel_rows(context, out.size(0), dim, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = x.data<float>() + (index ? index[i] : i) * dim;
      norm_row(kernels, row, weight.data<float>(), dim, epsilon, out.dtype(), out.raw(), i * dim);
    }
  });
}

void rms_norm_heads(const Context& context, Tensor& x, int64_t first_column, int64_t heads, const Tensor& weight,
                    float epsilon) {
  const int64_t width = x.size(1), head_dim = weight.size(0);
  const VectorKernels& kernels = vector_kernels();
  parallel_rows(context, x.size(0), heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* head = x.data<float>() + t * width + first_column;
      for (int64_t h = 0; h < heads; ++h, head += head_dim) {
        norm_row(kernels, head, weight.data<float>(), head_dim, epsilon, DType::kF32, head, 0);
      }
    }
  });
}

}  // namespace pydllm::ops::cpu
