// What a step on the emulated device shares between its layers.

#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda_testing.h"
#include "ops/attention.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "tensor/copy.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

constexpr Device kDevice{DeviceType::kCuda, 0};

Tensor to_host(const Context& context, const Tensor& tensor) {
  Tensor out = Tensor::empty(tensor.shape(), tensor.dtype());
  copy(context, tensor, out);
  cudart::synchronize(context.arena->stream());
  return out;
}

Tensor on_device(const Context& context, const Tensor& tensor) {
  return to_device(context, tensor);
}

// --- attention's batch ---

struct TwoLayers {
  static constexpr int64_t kHeads = 2, kDim = 16, kPages = 20, kPageSize = 8;

  Workplace gpu{1, kDevice};
  CpuRunner cpu;
  std::vector<ops::KvLayer> on_cpu, on_gpu;

  explicit TwoLayers(DType dtype) {
    const std::vector<int64_t> extents{kPages, 1, kPageSize, kDim};
    for (uint32_t seed : {1u, 3u}) {
      on_cpu.push_back({random_tensor(extents, seed, 1, dtype), random_tensor(extents, seed + 1, 1, dtype)});
      on_gpu.push_back({on_device(gpu.context(), on_cpu.back().keys), on_device(gpu.context(), on_cpu.back().values)});
    }
  }
};

// The second sequence's keys are cut into parts; the layers share the parts' workspace.
TEST(CudaAttentionBatch, IsMadeOnceForAllLayersOfAStep) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    TwoLayers layers(dtype);
    std::vector<int32_t> tables[] = {{7, 2}, std::vector<int32_t>(17)};
    std::iota(tables[1].begin(), tables[1].end(), 3);
    const std::vector<ops::SequenceSpan> spans{{0, 3, 12, tables[0]}, {3, 2, 130, tables[1]}};
    Tensor q = random_tensor({5, TwoLayers::kHeads * TwoLayers::kDim}, 9);
    for (int64_t i = 0; i < q.numel(); ++i) q.data<float>()[i] = to_float(to_bfloat16(q.data<float>()[i]));
    std::vector<Tensor> expected;
    for (const ops::KvLayer& layer : layers.on_cpu) {
      expected.push_back(Tensor::empty({5, q.size(1)}, DType::kF32));
      ops::attention(layers.cpu.context, q, 0, TwoLayers::kHeads, layer, spans, 0.25f, expected.back());
    }
    const Context& context = layers.gpu.context();
    const ops::AttentionBatch batch(context, spans, 5, TwoLayers::kHeads, layers.on_gpu[0]);
    ASSERT_NE(batch.plan().workspace, nullptr);
    for (std::vector<int32_t>& table : tables) std::ranges::fill(table, 0);  // the device has its own
    const Tensor queries = on_device(context, q);
    for (size_t i = 0; i < 2; ++i) {
      Tensor out = Tensor::empty({5, q.size(1)}, DType::kF32, kDevice);
      ops::attention(context, queries, 0, layers.on_gpu[i], batch, 0.25f, out);
      expect_near(to_host(context, out), expected[i], 0, dtype == DType::kF32 ? 3e-6 : 6e-3);
    }
  }
}

TEST(CudaAttentionBatch, RefusesWhatItWasNotMadeFor) {
  TwoLayers layers(DType::kF32), others(DType::kBF16);
  const std::vector<int32_t> table{0};
  const std::vector<ops::SequenceSpan> spans{{0, 1, 3, table}};
  const Context& context = layers.gpu.context();
  const ops::AttentionBatch batch(context, spans, 1, TwoLayers::kHeads, layers.on_gpu[0]);
  const auto attend = [&](int64_t rows, const ops::KvLayer& layer) {
    const Tensor q = Tensor::empty({rows, 32}, DType::kF32, kDevice);
    Tensor out = Tensor::empty({rows, 32}, DType::kF32, kDevice);
    ops::attention(context, q, 0, layer, batch, 1, out);
  };
  EXPECT_INTERNAL_ERROR(attend(1, others.on_gpu[0]), "keys: expected float32, got bfloat16");
  EXPECT_INTERNAL_ERROR(attend(2, layers.on_gpu[0]), "q: expected shape [1, 32], got [2, 32]");
  const ops::KvLayer fewer{layers.on_gpu[0].keys.rows(0, 3), layers.on_gpu[0].values.rows(0, 3)};
  EXPECT_INTERNAL_ERROR(attend(1, fewer), "keys: expected shape [20, 1, 8, 16], got [3, 1, 8, 16]");
}

TEST(CudaNormRope, IsTheNormAndThenTheRotationBitForBit) {
  const Workplace gpu(1, kDevice);
  const Context& context = gpu.context();
  const Tensor x = random_tensor({3, 100}, 7), weight = on_device(context, random_tensor({32}, 8));
  const ops::RopeTable table = ops::make_rope_table(50, 24, 10000);
  const ops::RopeTable there{on_device(context, table.cos), on_device(context, table.sin)};
  const Tensor positions = on_device(context, tensor_of(std::vector<int32_t>{0, 49, 7}));
  Tensor together = on_device(context, x), apart = on_device(context, x);
  ops::norm_rope(context, together, 2, 3, weight, 1e-5f, positions, there);
  ops::rms_norm_heads(context, apart, 2, 3, weight, 1e-5f);
  ops::rope(context, apart, 2, 3, 32, positions, there);
  EXPECT_TRUE(same_bits(to_host(context, together), to_host(context, apart)));
}

}  // namespace
}  // namespace pydllm
