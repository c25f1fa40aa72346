#include "ops/rope.h"

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

TEST(Rope, TableHoldsCosineAndSineOfPositionTimesFrequency) {
  const auto table = ops::make_rope_table(5000, 12, 500000.0);
  for (const int64_t p : {0, 1, 17, 4999}) {
    for (int64_t d = 0; d < 6; ++d) {
      const double angle = static_cast<double>(p) * std::pow(500000.0, -static_cast<double>(d) / 6);
      EXPECT_NEAR(at(table.cos, p * 6 + d), std::cos(angle), 6e-8);
      EXPECT_NEAR(at(table.sin, p * 6 + d), std::sin(angle), 6e-8);
    }
  }
}

struct Case {
  int64_t tokens, heads, head_dim, rotary_dim, first_column, width;
};

TEST(Rope, RotatesDimensionPairsAndLeavesEverythingElseAlone) {
  CpuRunner cpu(3);
  for (const Case c : {Case{1, 1, 2, 2, 0, 2},
                       {5, 3, 6, 6, 4, 40},
                       {7, 2, 10, 4, 3, 23},
                       {9, 4, 128, 128, 512, 1536},
                       {3, 1, 66, 66, 0, 70}}) {
    const auto table = ops::make_rope_table(64, c.rotary_dim, 10000.0);
    const Tensor before = random_tensor({c.tokens, c.width}, 3);
    Tensor x = random_tensor({c.tokens, c.width}, 3);
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < c.tokens; ++t) positions.push_back(static_cast<int32_t>((63 - 7 * t) % 64));
    ops::rope(cpu.context, x, c.first_column, c.heads, c.head_dim, tensor_of(positions), table);
    const int64_t half = c.rotary_dim / 2;
    for (int64_t i = 0; i < x.numel(); ++i) {
      const int64_t t = i / c.width, column = i % c.width - c.first_column, d = column % c.head_dim;
      if (column < 0 || column >= c.heads * c.head_dim || d >= c.rotary_dim) {
        ASSERT_EQ(at(x, i), at(before, i));
        continue;
      }
      const double angle = positions[static_cast<size_t>(t)] *
                           std::pow(10000.0, -2.0 * static_cast<double>(d % half) / static_cast<double>(c.rotary_dim));
      const double other = d < half ? -at(before, i + half) : at(before, i - half);
      ASSERT_NEAR(at(x, i), at(before, i) * std::cos(angle) + other * std::sin(angle), 1e-6);
    }
  }
}

TEST(Rope, PositionZeroChangesNothing) {
  CpuRunner cpu;
  Tensor x = random_tensor({1, 24}, 3);
  ops::rope(cpu.context, x, 0, 3, 8, tensor_of<int32_t>({0}), ops::make_rope_table(4, 8, 10000.0));
  EXPECT_TRUE(same_bits(x, random_tensor({1, 24}, 3)));
}

TEST(Rope, ATokenIsTheSameAloneAndInABatch) {
  CpuRunner one, three(3);
  const auto table = ops::make_rope_table(32, 66, 10000.0);
  Tensor batch = random_tensor({16, 2 * 66}, 3), alone = Tensor::empty({1, 2 * 66}, DType::kF32);
  std::memcpy(alone.raw(), batch.rows(11, 1).raw(), alone.nbytes());
  std::vector<int32_t> positions(16, 7);
  positions[11] = 31;
  ops::rope(three.context, batch, 0, 2, 66, tensor_of(positions), table);
  ops::rope(one.context, alone, 0, 2, 66, tensor_of<int32_t>({31}), table);
  EXPECT_TRUE(same_bits(batch.rows(11, 1), alone));
}

TEST(Rope, BadPositionsColumnsAndTablesAreInternalErrors) {
  CpuRunner cpu;
  const auto table = ops::make_rope_table(4, 8, 10000.0);
  const Tensor zero = tensor_of<int32_t>({0});
  Tensor x = random_tensor({1, 24}, 3);
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 0, 3, 8, tensor_of<int32_t>({4}), table),
                        "positions[0]: expected 0 <= position < 4, got 4");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 0, 3, 8, tensor_of<int32_t>({-1}), table), "positions[0]");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 1, 3, 8, zero, table), "heads");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, -1, 1, 8, zero, table), "heads");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 0, int64_t{1} << 62, 8, zero, table), "heads");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 0, 3, 6, zero, table), "rotary_dim");
  EXPECT_INTERNAL_ERROR(ops::rope(cpu.context, x, 0, 3, 8, tensor_of<int32_t>({0, 1}), table), "positions");
  EXPECT_INTERNAL_ERROR(ops::make_rope_table(4, 7, 10000.0), "rotary_dim");
  EXPECT_INTERNAL_ERROR(ops::make_rope_table(0, 8, 10000.0), "max_positions");
  EXPECT_INTERNAL_ERROR(ops::make_rope_table(4, 8, 0.0), "theta");
}

}  // namespace
}  // namespace pydllm
