#include "ops/swiglu.h"

#include <limits>

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

double reference(double gate, double up) {
  return gate / (1 + std::exp(-gate)) * up;
}

TEST(Swiglu, MatchesTheFormulaForEveryWidthAndOutputType) {
  CpuRunner cpu(2);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t width : {1, 3, 4, 8, 15, 16, 17, 511, 512, 513, 1100}) {
      const Tensor x = random_tensor({3, 2 * width}, 5, 4);
      Tensor out = Tensor::empty({3, width}, dtype);
      ops::swiglu(cpu.context, x, out);
      for (int64_t i = 0; i < 3 * width; ++i) {
        const int64_t base = i / width * 2 * width + i % width;
        const double expected = reference(at(x, base), at(x, base + width));
        ASSERT_NEAR(at(out, i), expected, (5e-7 + store_error(dtype)) * std::abs(expected) + 6e-8);
      }
    }
  }
}

TEST(Swiglu, ExtremeGatesGiveTheirLimitsAndNaNStaysInItsElement) {
  CpuRunner cpu;
  const Tensor x = tensor_of<float>({-1000, 1000, 0, NAN, -88, 88, 1, 1, 1, 1, 1, 2}).view({1, 12});
  Tensor out = Tensor::empty({1, 6}, DType::kF32);
  ops::swiglu(cpu.context, x, out);
  EXPECT_EQ(at(out, 0), 0);
  EXPECT_EQ(at(out, 1), 1000);
  EXPECT_EQ(at(out, 2), 0);
  EXPECT_TRUE(std::isnan(at(out, 3)));
  EXPECT_NEAR(at(out, 4), 0, 1e-36);
  EXPECT_EQ(at(out, 5), 176);
}

TEST(Swiglu, ARowIsTheSameAloneAndInABatch) {
  CpuRunner one, three(3);
  const Tensor x = random_tensor({16, 2 * 3001}, 5);
  Tensor all = Tensor::empty({16, 3001}, DType::kBF16), alone = Tensor::empty({1, 3001}, DType::kBF16);
  ops::swiglu(three.context, x, all);
  ops::swiglu(one.context, x.rows(13, 1), alone);
  EXPECT_TRUE(same_bits(all.rows(13, 1), alone));
}

TEST(Swiglu, BadShapesAndDtypesAreInternalErrors) {
  CpuRunner cpu;
  Tensor out = Tensor::empty({2, 4}, DType::kF32), integers = Tensor::empty({2, 4}, DType::kI32);
  EXPECT_INTERNAL_ERROR(ops::swiglu(cpu.context, random_tensor({2, 7}, 1), out), "gate_up: expected an even number");
  EXPECT_INTERNAL_ERROR(ops::swiglu(cpu.context, random_tensor({2, 10}, 1), out), "out");
  EXPECT_INTERNAL_ERROR(ops::swiglu(cpu.context, random_tensor({2, 8}, 1), integers), "out: expected float32");
  EXPECT_INTERNAL_ERROR(ops::swiglu(cpu.context, random_tensor({2, 8}, 1, 1, DType::kBF16), out), "gate_up");
}

// Distance from the true value in units of the last place of the nearest float.
double ulps(double x, float computed) {
  const double exact = std::exp(x);
  const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
  return std::abs(static_cast<double>(computed) - exact) / unit;
}

TEST(VectorExp, IsWithinTwoUlpsOverTheNormalRange) {
  std::vector<float> x;
  for (double v = -87.33; v < 88.72; v += 1.37e-3) x.push_back(static_cast<float>(v));
  for (double v = 1e-8; v < 1; v *= 1.01) x.insert(x.end(), {static_cast<float>(v), static_cast<float>(-v)});
  for (const auto* kernels : runnable_kernels()) {
    std::vector<float> y(x.size());
    kernels->exp(x.data(), static_cast<int64_t>(x.size()), y.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, ulps(static_cast<double>(x[i]), y[i]));
    EXPECT_LE(worst, 2) << kernels->isa;
    RecordProperty(std::string("worst_ulps_") + kernels->isa, std::to_string(worst));
  }
}

TEST(VectorExp, IsExactAtZeroAndSaturatesOutsideTheNormalRange) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x{0, -0.0f, -87.4f, -1e30f, -inf, 88.8f, 1e30f, inf, NAN};
  for (const auto* kernels : runnable_kernels()) {
    std::vector<float> y(x.size());
    kernels->exp(x.data(), static_cast<int64_t>(x.size()), y.data());
    EXPECT_EQ(y[0], 1);
    EXPECT_EQ(y[1], 1);
    for (const size_t i : {2u, 3u, 4u}) EXPECT_EQ(y[i], 0) << kernels->isa;
    for (const size_t i : {5u, 6u, 7u}) EXPECT_EQ(y[i], inf) << kernels->isa;
    EXPECT_TRUE(std::isnan(y[8])) << kernels->isa;
  }
}

TEST(VectorBfloat16, RoundsLikeTheScalarConversionAndReadsBackExactly) {
  std::vector<float> x;
  std::mt19937 generator(1);
  for (int i = 0; i < 4099; ++i) {
    const uint32_t bits = generator();
    float value;
    std::memcpy(&value, &bits, 4);
    x.push_back(value);
  }
  for (const auto* kernels : runnable_kernels()) {
    std::vector<uint16_t> narrow(x.size());
    std::vector<float> wide(x.size());
    kernels->to_bf16(x.data(), static_cast<int64_t>(x.size()), narrow.data());
    kernels->from_bf16(narrow.data(), static_cast<int64_t>(x.size()), wide.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const float expected = to_float(to_bfloat16(x[i]));
      ASSERT_TRUE(wide[i] == expected || (std::isnan(wide[i]) && std::isnan(expected))) << kernels->isa << " " << x[i];
    }
  }
}

}  // namespace
}  // namespace pydllm
