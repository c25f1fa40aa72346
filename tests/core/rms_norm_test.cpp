#include "ops/rms_norm.h"

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

constexpr float kEpsilon = 1e-5f;
constexpr int64_t kDims[] = {1, 3, 4, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1030, 4096};

double reference(const Tensor& x, const Tensor& weight, int64_t row, int64_t d) {
  const int64_t dim = x.size(1);
  double squares = 0;
  for (int64_t i = 0; i < dim; ++i) squares += at(x, row * dim + i) * at(x, row * dim + i);
  const double norm = std::sqrt(squares / static_cast<double>(dim) + static_cast<double>(kEpsilon));
  return at(x, row * dim + d) / norm * at(weight, d);
}

TEST(RmsNorm, MatchesTheFormulaForEveryWidthAndOutputType) {
  CpuRunner cpu(2);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : kDims) {
      const Tensor x = random_tensor({3, dim}, 5, 2), weight = random_tensor({dim}, 6);
      Tensor out = Tensor::empty({3, dim}, dtype);
      ops::rms_norm(cpu.context, x, weight, kEpsilon, out);
      for (int64_t r = 0; r < 3; ++r) {
        for (int64_t d = 0; d < dim; d += 1 + dim / 16) {
          const double expected = reference(x, weight, r, d);
          const double relative = 5e-7 + store_error(dtype);
          ASSERT_NEAR(at(out, r * dim + d), expected, relative * std::abs(expected) + 6e-8)
              << dim << " " << name_of(dtype);
        }
      }
    }
  }
}

TEST(RmsNorm, WorksInPlace) {
  CpuRunner cpu;
  const Tensor weight = random_tensor({77}, 6);
  Tensor x = random_tensor({4, 77}, 5), out = Tensor::empty({4, 77}, DType::kF32);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, out);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, x);
  EXPECT_TRUE(same_bits(x, out));
}

TEST(RmsNorm, NormsEachHeadByItselfAndLeavesOtherColumnsAlone) {
  CpuRunner cpu(2);
  const Tensor before = random_tensor({5, 40}, 7, 2), weight = random_tensor({10}, 8);
  Tensor x = Tensor::empty({5, 40}, DType::kF32);
  std::memcpy(x.raw(), before.raw(), x.nbytes());
  ops::rms_norm_heads(cpu.context, x, 6, 3, weight, kEpsilon);
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t column = 0; column < 40; ++column) {
      const int64_t head = (column - 6) / 10, i = t * 40 + column;
      if (column < 6 || column >= 36) {
        ASSERT_EQ(at(x, i), at(before, i));
        continue;
      }
      double squares = 0;
      for (int64_t d = 0; d < 10; ++d) squares += std::pow(at(before, t * 40 + 6 + head * 10 + d), 2);
      const double norm = std::sqrt(squares / 10 + static_cast<double>(kEpsilon));
      const double expected = at(before, i) / norm * at(weight, (column - 6) % 10);
      ASSERT_NEAR(at(x, i), expected, 5e-7 * std::abs(expected) + 6e-8);
    }
  }
  EXPECT_INTERNAL_ERROR(ops::rms_norm_heads(cpu.context, x, 11, 3, weight, kEpsilon), "columns [11, +30)");
}

TEST(RmsNorm, NarrowOutputsAreTheRoundedFloatOutput) {
  CpuRunner cpu;
  const Tensor x = random_tensor({2, 1037}, 5), weight = random_tensor({1037}, 6);
  Tensor wide = Tensor::empty({2, 1037}, DType::kF32), narrow = Tensor::empty({2, 1037}, DType::kBF16);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, wide);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, narrow);
  for (int64_t i = 0; i < wide.numel(); ++i) {
    ASSERT_EQ(narrow.data<BFloat16>()[i].bits, to_bfloat16(wide.data<float>()[i]).bits);
  }
}

TEST(RmsNorm, ARowIsTheSameAloneInABatchAndGathered) {
  CpuRunner one, three(3);
  const int64_t dim = 1111;
  const Tensor x = random_tensor({16, dim}, 5), weight = random_tensor({dim}, 6);
  Tensor all = Tensor::empty({16, dim}, DType::kF32), alone = Tensor::empty({1, dim}, DType::kF32);
  Tensor gathered = Tensor::empty({3, dim}, DType::kF32);
  ops::rms_norm(three.context, x, weight, kEpsilon, all);
  ops::rms_norm(one.context, x.rows(9, 1), weight, kEpsilon, alone);
  ops::rms_norm_rows(one.context, x, tensor_of<int32_t>({2, 9, 9}), weight, kEpsilon, gathered);
  EXPECT_TRUE(same_bits(all.rows(9, 1), alone));
  EXPECT_TRUE(same_bits(gathered.rows(0, 1), all.rows(2, 1)));
  EXPECT_TRUE(same_bits(gathered.rows(2, 1), alone));
}

TEST(RmsNorm, ZeroRowsStayZeroAndNonFiniteRowsStayAlone) {
  CpuRunner cpu;
  Tensor x = Tensor::zeros({3, 20}, DType::kF32), out = Tensor::empty({3, 20}, DType::kF32);
  x.data<float>()[25] = NAN;
  ops::rms_norm(cpu.context, x, random_tensor({20}, 6), kEpsilon, out);
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(at(out, i), 0);
    EXPECT_TRUE(std::isnan(at(out, 20 + i)));
    EXPECT_EQ(at(out, 40 + i), 0);
  }
}

TEST(RmsNorm, BadShapesRowsAndEpsilonAreInternalErrors) {
  CpuRunner cpu;
  const Tensor x = random_tensor({3, 8}, 1), weight = random_tensor({8}, 2);
  Tensor out = Tensor::empty({3, 8}, DType::kF32), one = Tensor::empty({1, 8}, DType::kF32);
  EXPECT_INTERNAL_ERROR(ops::rms_norm(cpu.context, x, random_tensor({7}, 2), kEpsilon, out), "weight");
  EXPECT_INTERNAL_ERROR(ops::rms_norm(cpu.context, x, weight, kEpsilon, one), "out");
  EXPECT_INTERNAL_ERROR(ops::rms_norm(cpu.context, x, weight, -1, out), "epsilon");
  EXPECT_INTERNAL_ERROR(ops::rms_norm(cpu.context, x, weight, NAN, out), "epsilon");
  EXPECT_INTERNAL_ERROR(ops::rms_norm(cpu.context, x.view({24}), weight, kEpsilon, out), "x: expected rank 2");
  EXPECT_INTERNAL_ERROR(ops::rms_norm_rows(cpu.context, x, tensor_of<int32_t>({3}), weight, kEpsilon, one),
                        "rows[0]: expected 0 <= row < 3, got 3");
  EXPECT_INTERNAL_ERROR(ops::rms_norm_rows(cpu.context, x, tensor_of<int32_t>({-1}), weight, kEpsilon, one), "rows[0]");
  EXPECT_INTERNAL_ERROR(ops::rms_norm_rows(cpu.context, x, tensor_of<int32_t>({0, 1}), weight, kEpsilon, one), "out");
}

}  // namespace
}  // namespace pydllm
