#include "ops/embedding.h"

#include "op_testing.h"
#include "tensor/cuda/built.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

TEST(Embedding, CopiesTheRowOfEveryIdExactly) {
  CpuRunner cpu(2);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t dim : {1, 7, 64, 4097}) {
      const Tensor table = random_tensor({11, dim}, 1, 1, dtype);
      const std::vector<int32_t> ids{10, 0, 3, 3, 7};
      Tensor out = Tensor::empty({5, dim}, DType::kF32);
      ops::embedding(cpu.context, tensor_of(ids), table, out);
      for (int64_t t = 0; t < 5; ++t) {
        for (int64_t d = 0; d < dim; ++d)
          ASSERT_EQ(at(out, t * dim + d), at(table, ids[static_cast<size_t>(t)] * dim + d));
      }
    }
  }
}

TEST(Embedding, ReadsATableAtAnOddAddress) {
  CpuRunner cpu;
  std::vector<char> bytes(1 + 4 * 6);
  const float values[6] = {1, 2, 3, 4, 5, 6};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  const Tensor table = Tensor::borrow(bytes.data() + 1, {3, 2}, DType::kF32, {}, nullptr);
  Tensor out = Tensor::empty({1, 2}, DType::kF32);
  ops::embedding(cpu.context, tensor_of<int32_t>({2}), table, out);
  EXPECT_EQ(out.data<float>()[0], 5);
  EXPECT_EQ(out.data<float>()[1], 6);
}

TEST(Embedding, NoTokensIsNoWork) {
  CpuRunner cpu;
  Tensor out = Tensor::empty({0, 4}, DType::kF32);
  ops::embedding(cpu.context, Tensor::empty({0}, DType::kI32), random_tensor({3, 4}, 1), out);
}

TEST(Embedding, BadIdsShapesAndDtypesAreInternalErrors) {
  CpuRunner cpu;
  const Tensor table = random_tensor({3, 4}, 1), ids = tensor_of<int32_t>({0, 1});
  Tensor out = Tensor::empty({2, 4}, DType::kF32), narrow = Tensor::empty({2, 3}, DType::kF32);
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, tensor_of<int32_t>({0, 3}), table, out),
                        "ids[1]: expected 0 <= id < 3, got 3");
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, tensor_of<int32_t>({-1, 0}), table, out), "ids[0]");
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, ids, table, narrow), "out");
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, tensor_of<int64_t>({0, 1}), table, out), "ids");
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, ids, tensor_of<int32_t>({0}).view({1, 1}), out), "table");
  EXPECT_INTERNAL_ERROR(ops::embedding(cpu.context, ids, Tensor(), out), "table is undefined");
  EXPECT_INTERNAL_ERROR(ops::embedding(Context{}, ids, table, out), "no thread pool");
}

TEST(Embedding, ADeviceWithoutBackendIsUnsupported) {
  if (kHasCuda) GTEST_SKIP() << "this build has a CUDA backend";
  CpuRunner cpu;
  const Context cuda{Device{DeviceType::kCuda, 0}, &cpu.pool};
  Tensor out = Tensor::empty({1, 4}, DType::kF32);
  try {
    ops::embedding(cuda, tensor_of<int32_t>({0}), random_tensor({3, 4}, 1), out);
    FAIL();
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "device");
  }
}

}  // namespace
}  // namespace pydllm
