// The emulated linear kernels against exact sums of integers and the formula in float64.
#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

struct Case {
  int64_t rows, depth, width;
};

// Below, at, above and not a multiple of a tile and of its stages, in each direction; depths with and without whole
// 16-byte chunks.
constexpr Case kCases[] = {{1, 1, 1},    {3, 7, 5},    {63, 31, 64}, {64, 32, 63},  {65, 33, 65}, {17, 64, 16},
                           {5, 72, 130}, {129, 8, 9},  {2, 100, 70}, {33, 40, 66},  {31, 63, 31}, {32, 65, 32},
                           {2, 320, 33}, {34, 520, 5}, {66, 384, 6}, {1, 450, 129}, {1, 0, 3}};

Tensor whole_numbers(const Tensor& like) {
  Tensor out = Tensor::empty({like.size(0), like.size(1)}, like.dtype());
  for (int64_t i = 0; i < like.numel(); ++i) {
    const auto x = static_cast<float>(std::lround(4 * at(like, i)) % 9);
    if (like.dtype() == DType::kF32) out.data<float>()[i] = x;
    if (like.dtype() == DType::kBF16) out.data<BFloat16>()[i] = to_bfloat16(x);
    if (like.dtype() == DType::kF16) out.data<Float16>()[i] = to_float16(x);
  }
  return out;
}

template <class X, class W>
void expect_product(const Tensor& x, const Tensor& weight, bool exact, bool accumulate) {
  const int64_t rows = x.size(0), depth = x.size(1), width = weight.size(0);
  const Tensor bias = random_tensor({width}, 4), before = random_tensor({rows, width}, 5);
  const auto device_x = on_device<X>("x", x);
  const auto device_weight = on_device<W>("weight", weight);
  const auto device_bias = on_device<float>("bias", bias);
  const auto y = accumulate ? on_device<float>("y", before)
                            : std::make_unique<Buffer<float>>("y", static_cast<size_t>(rows * width));
  ops::cuda::linear<X, W>(device_x->data(), device_weight->data(), accumulate ? device_bias->data() : nullptr, rows,
                          depth, width, y->data(), accumulate, nullptr);
  for (int64_t i = 0; i < rows * width; ++i) {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const double product = at(x, i / width * depth + k) * at(weight, i % width * depth + k);
      sum += product;
      size += std::abs(product);
    }
    if (accumulate) {
      sum += at(bias, i % width) + at(before, i);
      size += std::abs(at(bias, i % width)) + std::abs(at(before, i));
    }
    const double bound = exact ? 0 : static_cast<double>(depth + 4) * 0x1p-24 * size;
    ASSERT_LE(std::abs(static_cast<double>((*y)[static_cast<size_t>(i)]) - sum), bound)
        << rows << " x " << depth << " x " << width << ", element " << i;
  }
}

template <class X, class W>
void expect_products() {
  for (const Case& size : kCases) {
    const Tensor x = random_tensor({size.rows, size.depth}, 1, 1, DTypeOf<X>::value);
    const Tensor weight = random_tensor({size.width, size.depth}, 2, 1, DTypeOf<W>::value);
    expect_product<X, W>(whole_numbers(x), whole_numbers(weight), true, false);
    expect_product<X, W>(x, weight, false, true);
  }
}

TEST(CudaLinear, MatchesTheFormulaOnTensorCores) {
  expect_products<BFloat16, BFloat16>();
}

TEST(CudaLinear, MatchesTheFormulaInFloat32) {
  expect_products<float, float>();
}

TEST(CudaLinear, WidensFloat16Weights) {
  expect_products<float, Float16>();
}

// Enough columns for the wide tiles.
TEST(CudaLinear, EveryTileOnTensorCoresMatchesTheFormula) {
  for (const int64_t rows : {2, 35}) {
    const Tensor x = random_tensor({rows, 3}, 1, 1, DType::kBF16), w = random_tensor({8200, 3}, 2, 1, DType::kBF16);
    expect_product<BFloat16, BFloat16>(whole_numbers(x), whole_numbers(w), true, false);
  }
}

Tensor product(const Tensor& x, const Tensor& weight, int64_t rows, int64_t width) {
  const auto device_x = on_device<BFloat16>("x", x), device_weight = on_device<BFloat16>("weight", weight);
  Buffer<float> y("y", static_cast<size_t>(rows * width));
  ops::cuda::linear<BFloat16, BFloat16>(device_x->data(), device_weight->data(), nullptr, rows, x.size(1), width,
                                        y.data(), false, nullptr);
  return to_host(y, {rows, width});
}

// Over row counts that choose each tile, and among 8200 columns.
TEST(CudaLinear, ARowHasTheSameBitsInEveryTile) {
  const Tensor x = random_tensor({100, 90}, 1, 1, DType::kBF16), weight = random_tensor({40, 90}, 2, 1, DType::kBF16);
  const Tensor alone = product(x, weight, 1, 40);
  for (const int64_t rows : {31, 33, 65, 100}) {
    EXPECT_EQ(std::memcmp(product(x, weight, rows, 40).raw(), alone.raw(), alone.nbytes()), 0) << rows;
  }
  const Tensor wide_weight = random_tensor({8200, 90}, 3, 1, DType::kBF16);
  std::memcpy(wide_weight.raw(), weight.raw(), weight.nbytes());
  EXPECT_EQ(std::memcmp(product(x, wide_weight, 1, 8200).raw(), alone.raw(), alone.nbytes()), 0);
}

TEST(CudaLinear, MoreTilesThanAGridHoldsIsAnInternalError) {
  EXPECT_INTERNAL_ERROR(ops::cuda::linear<float>(nullptr, static_cast<const float*>(nullptr), nullptr, int64_t{1} << 37,
                                                 1, 1, nullptr, false, nullptr),
                        "linear: expected 1 to 2^31 - 1 blocks, got 2147483648");
}

}  // namespace
}  // namespace pydllm
