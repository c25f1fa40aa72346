// The emulated CUDA kernels without a product or a reduction over the vocabulary, against the CPU ops.
#include "cuda_testing.h"
#include "ops/attention.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/embedding.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

constexpr float kEpsilon = 1e-5f;
// Below, at, above and not a multiple of a warp, a block and two blocks.
constexpr int64_t kWidths[] = {1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 513, 1030};

template <class T>
void expect_rms_norm(int64_t dim) {
  CpuRunner cpu;
  const Tensor x = random_tensor({3, dim}, 5, 2), weight = random_tensor({dim}, 6);
  Tensor expected = Tensor::empty({3, dim}, DType::kF32);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, expected);
  const auto device_x = on_device<float>("x", x), device_weight = on_device<float>("weight", weight);
  Buffer<T> out("out", static_cast<size_t>(3 * dim));
  ops::cuda::rms_norm<T>(device_x->data(), nullptr, 3, dim, device_weight->data(), kEpsilon, out.data(), nullptr);
  expect_near(to_host(out, {3, dim}), expected, 1e-6 + store_error(DTypeOf<T>::value), 6e-8);
}

TEST(CudaRmsNorm, MatchesTheCpuForEveryWidthAndOutputType) {
  for (const int64_t dim : kWidths) {
    expect_rms_norm<float>(dim);
    expect_rms_norm<BFloat16>(dim);
    expect_rms_norm<Float16>(dim);
  }
}

TEST(CudaRmsNorm, GathersRowsAndWorksInPlace) {
  CpuRunner cpu;
  const Tensor x = random_tensor({5, 300}, 5), weight = random_tensor({300}, 6);
  const std::vector<int32_t> rows{4, 0, 4};
  Tensor expected = Tensor::empty({3, 300}, DType::kF32), all = Tensor::empty({5, 300}, DType::kF32);
  ops::rms_norm_rows(cpu.context, x, tensor_of(rows), weight, kEpsilon, expected);
  ops::rms_norm(cpu.context, x, weight, kEpsilon, all);
  const auto device_x = on_device<float>("x", x), device_weight = on_device<float>("weight", weight);
  const auto device_rows = on_device("rows", rows);
  Buffer<float> out("out", 900);
  ops::cuda::rms_norm(device_x->data(), device_rows->data(), 3, 300, device_weight->data(), kEpsilon, out.data(),
                      nullptr);
  expect_near(to_host(out, {3, 300}), expected, 1e-6, 6e-8);
  ops::cuda::rms_norm(device_x->data(), nullptr, 5, 300, device_weight->data(), kEpsilon, device_x->data(), nullptr);
  expect_near(to_host(*device_x, {5, 300}), all, 1e-6, 6e-8);
}

// Heads in the middle of a row: the columns around them stay as they are.
void expect_rope(int64_t heads, int64_t head_dim, int64_t rotary_dim, bool norm) {
  CpuRunner cpu;
  const int64_t tokens = 3, first = 5, width = first + heads * head_dim + 7;
  const ops::RopeTable table = ops::make_rope_table(50, rotary_dim, 10000);
  const std::vector<int32_t> positions{0, 49, 7};
  const Tensor weight = random_tensor({head_dim}, 8);
  Tensor x = random_tensor({tokens, width}, 7);
  const auto device_x = on_device<float>("x", x), device_weight = on_device<float>("weight", weight);
  const auto device_positions = on_device("positions", positions);
  const auto cos = on_device<float>("cos", table.cos), sin = on_device<float>("sin", table.sin);
  if (norm) ops::rms_norm_heads(cpu.context, x, first, heads, weight, kEpsilon);
  ops::rope(cpu.context, x, first, heads, head_dim, tensor_of(positions), table);
  ops::cuda::rope(device_x->data(), tokens, width, first, heads, head_dim, device_positions->data(), cos->data(),
                  sin->data(), rotary_dim / 2, norm ? device_weight->data() : nullptr, kEpsilon, nullptr);
  expect_near(to_host(*device_x, {tokens, width}), x, 1e-6, 1e-6);
}

TEST(CudaRope, MatchesTheCpuInFullAndInPartWithAndWithoutNorm) {
  for (const bool norm : {false, true}) {
    expect_rope(1, 2, 2, norm);
    expect_rope(3, 32, 32, norm);
    expect_rope(2, 64, 32, norm);
    expect_rope(5, 128, 128, norm);
    expect_rope(1, 130, 66, norm);
  }
}

TEST(CudaRmsNorm, NormsEachHeadByItself) {
  CpuRunner cpu;
  for (const int64_t head_dim : {1, 10, 32, 33, 128}) {
    const Tensor weight = random_tensor({head_dim}, 8);
    Tensor x = random_tensor({2, 3 * head_dim + 9}, 7);
    const auto device_x = on_device<float>("x", x), device_weight = on_device<float>("weight", weight);
    ops::rms_norm_heads(cpu.context, x, 4, 3, weight, kEpsilon);
    ops::cuda::rms_norm_heads(device_x->data(), 2, x.size(1), 4, 3, head_dim, device_weight->data(), kEpsilon, nullptr);
    expect_near(to_host(*device_x, {2, x.size(1)}), x, 1e-6, 6e-8);
  }
}

template <class T>
void expect_swiglu(int64_t width) {
  CpuRunner cpu;
  const Tensor gate_up = random_tensor({3, 2 * width}, 9, 4);
  Tensor expected = Tensor::empty({3, width}, DType::kF32);
  ops::swiglu(cpu.context, gate_up, expected);
  const auto device = on_device<float>("gate_up", gate_up);
  Buffer<T> out("out", static_cast<size_t>(3 * width));
  ops::cuda::swiglu(device->data(), 3, width, out.data(), nullptr);
  expect_near(to_host(out, {3, width}), expected, 1e-6 + store_error(DTypeOf<T>::value), 6e-8);
}

TEST(CudaSwiglu, MatchesTheCpuForEveryWidthAndOutputType) {
  for (const int64_t width : kWidths) {
    expect_swiglu<float>(width);
    expect_swiglu<BFloat16>(width);
    expect_swiglu<Float16>(width);
  }
}

template <class T>
void expect_embedding(int64_t dim) {
  CpuRunner cpu;
  const Tensor table = random_tensor({7, dim}, 3, 1, DTypeOf<T>::value);
  const std::vector<int32_t> ids{6, 0, 6, 3};
  Tensor expected = Tensor::empty({4, dim}, DType::kF32);
  ops::embedding(cpu.context, tensor_of(ids), table, expected);
  const auto device_ids = on_device("ids", ids);
  const auto device_table = on_device<T>("table", table);
  Buffer<float> out("out", static_cast<size_t>(4 * dim));
  ops::cuda::embedding(device_ids->data(), 4, device_table->data(), dim, out.data(), nullptr);
  EXPECT_TRUE(same_bits(to_host(out, {4, dim}), expected)) << dim;
}

TEST(CudaEmbedding, IsTheTableBitForBit) {
  for (const int64_t dim : kWidths) {
    expect_embedding<float>(dim);
    expect_embedding<BFloat16>(dim);
    expect_embedding<Float16>(dim);
  }
}

template <class T>
void expect_store_kv(int64_t kv_heads, int64_t head_dim, int64_t page_size) {
  CpuRunner cpu;
  const int64_t columns = kv_heads * head_dim, width = 2 * columns + 3, pages = 4;
  const std::vector<int64_t> slots{pages * page_size - 1, 0, page_size}, shape{pages, kv_heads, page_size, head_dim};
  const Tensor kv = random_tensor({3, width}, 4);
  ops::KvLayer layer{Tensor::empty(shape, DTypeOf<T>::value), Tensor::empty(shape, DTypeOf<T>::value)};
  std::memset(layer.keys.raw(), 0xFF, layer.keys.nbytes());
  std::memset(layer.values.raw(), 0xFF, layer.values.nbytes());
  const auto keys = on_device<T>("keys", layer.keys), values = on_device<T>("values", layer.values);
  const auto device_kv = on_device<float>("kv", kv);
  const auto device_slots = on_device("slots", slots);
  ops::store_kv(cpu.context, kv, 1, columns + 2, tensor_of(slots), layer);
  ops::cuda::store_kv(device_kv->data(), 3, width, 1, columns + 2, device_slots->data(), kv_heads, page_size, head_dim,
                      keys->data(), values->data(), nullptr);
  EXPECT_TRUE(same_bits(to_host(*keys, shape), layer.keys));
  EXPECT_TRUE(same_bits(to_host(*values, shape), layer.values));
}

TEST(CudaStoreKv, WritesTheSlotsAndNothingElse) {
  for (const int64_t head_dim : {1, 16, 43, 128}) {
    expect_store_kv<float>(3, head_dim, 4);
    expect_store_kv<BFloat16>(3, head_dim, 1);
  }
}

}  // namespace
}  // namespace pydllm
