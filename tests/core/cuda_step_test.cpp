// What a step on the emulated device shares between its layers, and the engine that multiplies with cuBLASLt (a made-up
// library, tests/core/fakes) instead of its own kernel.
#include <dlfcn.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_testing.h"
#include "engine_harness.h"
#include "fakes/cublaslt_record.h"
#include "ops/attention.h"
#include "ops/cuda/cublaslt.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "tensor/copy.h"
#include "tiny_llada.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using engine::Client;
using engine::TinyLlada;
using ops::cuda::CublasLtLibrary;

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

// --- cuBLASLt ---

const std::string kGood = std::string(PYDLLM_FAKES) + "/good";
const ops::cuda::CublasLtSearch kNowhere{{"/nonexistent"}, "/nonexistent", ""};

class CudaMatmul : public ::testing::Test {
 protected:
  void SetUp() override {
    // Opened by its file, so that these tests run beside a real cuBLASLt as well.
    library_ = std::make_shared<const CublasLtLibrary>(kGood + "/libcublasLt.so.13", RTLD_NOW, "test");
    handle_ = dlopen(library_->path().c_str(), RTLD_NOW | RTLD_NOLOAD);
    record_ = reinterpret_cast<LtRecordOf*>(dlsym(handle_, "fake_cublaslt_record"))();
    *record_ = {};
  }
  void TearDown() override {
    ops::cuda::emulation::device_is_lost() = false;
    EXPECT_EQ(record_->alive, 0) << "objects of cuBLASLt outlived their engine";
    library_.reset();
    dlclose(handle_);
  }

  engine::EngineOptions options(bool with_library) const {
    engine::EngineOptions out = engine::fake_options();
    if (with_library) out.cublaslt = library_;
    return out;
  }

  std::shared_ptr<const CublasLtLibrary> library_;
  LtRecord* record_ = nullptr;
  void* handle_ = nullptr;
};

engine::Request some_request() {
  return engine::ask({1, 2, 3}, 12, "llada_schedule", {{"steps", int64_t{3}}});
}

TEST_F(CudaMatmul, AnAnswerThroughTheLibraryIsThatOfTheKernel) {
  const TinyLlada checkpoint;
  Client own(checkpoint.load(DType::kBF16, kDevice), options(false));
  const engine::Stream expected = own.run(some_request());
  ASSERT_TRUE(expected.finished_with(engine::FinishReason::kLength)) << expected.end().message;
  EXPECT_TRUE(record_->multiplied.empty());
  Client library(checkpoint.load(DType::kBF16, kDevice), options(true));
  const engine::Stream actual = library.run(some_request());
  ASSERT_TRUE(actual.finished_with(engine::FinishReason::kLength)) << actual.end().message;
  EXPECT_EQ(actual.tokens(), expected.tokens());
  // Every product of every forward: four in each of two layers, and the head.
  EXPECT_EQ(record_->multiplied.size(), static_cast<size_t>(actual.end().forward_passes) * 9);
  library.expect_clean();
}

TEST_F(CudaMatmul, FailuresEndTheRequestsOfTheirStepByName) {
  Client client(TinyLlada().load(DType::kBF16, kDevice), options(true));
  record_->failing_call = "cublasLtMatmul";
  record_->failing_status = 13;
  const engine::Stream failed = client.run(some_request());
  EXPECT_TRUE(failed.failed_with(engine::FailReason::kInternal));
  EXPECT_EQ(failed.end().message.find("cublasLtMatmul: CUBLAS_STATUS_EXECUTION_FAILED for 32 rows"), 0u)
      << failed.end().message;
  record_->failing_call.clear();
  EXPECT_TRUE(client.run(some_request()).finished_with(engine::FinishReason::kLength));
  client.expect_clean();
}

// The status says no more than that a kernel could not run; the device is asked.
TEST_F(CudaMatmul, AFailureOfALostDeviceIsTheDevices) {
  Client client(TinyLlada().load(DType::kBF16, kDevice), options(true));
  record_->failing_call = "cublasLtMatmul";
  record_->failing_status = 13;
  record_->lost = &ops::cuda::emulation::device_is_lost();
  const engine::Stream lost = client.run(some_request());
  ASSERT_TRUE(lost.failed_with(engine::FailReason::kDeviceLost)) << lost.end().message;
  while (!client.engine().ended()) std::this_thread::yield();
}

TEST_F(CudaMatmul, ALibraryThatCannotStartIsRefusedWithItsFile) {
  record_->failing_call = "cublasLtCreate";
  record_->failing_status = 13;
  const std::string said = message_of<Unsupported>([&] { ops::start_matmul(library_, kDevice); });
  EXPECT_EQ(said, "matmul: " + library_->path() +
                      ": cublasLtCreate: CUBLAS_STATUS_EXECUTION_FAILED; choose builtin to do without it");
}

Tensor product(const Context& context, int64_t depth, DType dtype) {
  const Tensor parts[] = {random_tensor({6, depth}, 1)};
  const auto weight = ops::PackedWeight::pack(context, parts, dtype, random_tensor({6}, 2));
  const Tensor x = random_tensor({3, depth}, 3, 1, ops::linear_input_dtype(dtype));
  Tensor y = on_device(context, random_tensor({3, 6}, 4));
  ops::linear(context, on_device(context, x), weight, y, ops::LinearMode::kAccumulate);
  return to_host(context, y);
}

// float32 and float16 weights, and rows that do not begin at multiples of 16 bytes.
TEST_F(CudaMatmul, WhatTheLibraryIsNotAskedForGoesToTheKernel) {
  const Workplace gpu(1, kDevice);
  const auto lt = ops::start_matmul(library_, kDevice);
  Context context = gpu.context();
  for (const auto& [depth, dtype, asked] :
       {std::tuple{8, DType::kBF16, 1u}, std::tuple{12, DType::kBF16, 1u}, std::tuple{16, DType::kF32, 1u},
        std::tuple{16, DType::kF16, 1u}, std::tuple{40, DType::kBF16, 2u}}) {
    context.cublaslt = nullptr;
    const Tensor expected = product(context, depth, dtype);
    context.cublaslt = lt.get();
    expect_near(product(context, depth, dtype), expected, 1e-5, 1e-5);
    EXPECT_EQ(record_->multiplied.size(), asked) << depth << " " << name_of(dtype);
  }
}

TEST_F(CudaMatmul, IsChosenOnceAndSaysWhatItIs) {
  const ops::cuda::CublasLtSearch search{{kGood}, "", ""};
  const auto choose = [&](const char* wanted, Device device, DType dtype, const ops::cuda::CublasLtSearch& where) {
    return ops::choose_matmul(wanted, device, dtype, where);
  };
  for (const char* wanted : {"cublaslt", "auto"}) {
    const ops::Matmul chosen = choose(wanted, kDevice, DType::kBF16, search);
    ASSERT_NE(chosen.cublaslt, nullptr);
    EXPECT_EQ(chosen.description, "cublaslt 13.0.2 (this process: " + library_->path() + ")");
  }
  for (const auto& [device, dtype] : {std::pair{kDevice, DType::kF32}, std::pair{Device{}, DType::kBF16}}) {
    const ops::Matmul other = choose("auto", device, dtype, search);
    EXPECT_EQ(other.cublaslt, nullptr);
    EXPECT_EQ(other.description, "builtin");
  }
  EXPECT_EQ(choose("builtin", kDevice, DType::kBF16, search).description, "builtin");
}

TEST_F(CudaMatmul, WhatCannotBeHadIsRefusedByName) {
  const auto refusal = [](Device device, DType dtype) {
    return message_of<Unsupported>([&] { ops::choose_matmul("cublaslt", device, dtype, kNowhere); });
  };
  EXPECT_EQ(refusal(Device{}, DType::kBF16),
            "matmul: cublaslt multiplies on a CUDA device, got cpu; choose builtin to do without it");
  EXPECT_EQ(refusal(kDevice, DType::kF16),
            "matmul: cublaslt multiplies bfloat16 weights, got float16; choose builtin to do without it");
  EXPECT_EQ(message_of<InvalidRequest>([] { ops::choose_matmul("cublas", kDevice, DType::kBF16, kNowhere); }),
            "matmul: expected auto, cublaslt or builtin, got 'cublas'");
}

TEST(CudaMatmulSearch, WithoutALibraryAutoIsTheKernelAndSaysWhy) {
  const ops::Matmul chosen = ops::choose_matmul("auto", kDevice, DType::kBF16, kNowhere);
  if (chosen.cublaslt) GTEST_SKIP() << "the loader of this machine finds a cuBLASLt of its own";
  EXPECT_EQ(chosen.description,
            "builtin (cuBLASLt 12 or newer was not found (this process: none; wheel /nonexistent: none; CUDA_HOME "
            "/nonexistent/lib64: none; CUDA_HOME /nonexistent/lib: none; CUDA_PATH: not set; the loader: none); run: "
            "pip install nvidia-cublas)");
  const std::string refused =
      message_of<Unsupported>([] { ops::choose_matmul("cublaslt", kDevice, DType::kBF16, kNowhere); });
  EXPECT_EQ(refused.find("matmul: cuBLASLt 12 or newer was not found ("), 0u) << refused;
  EXPECT_NE(refused.find("run: pip install nvidia-cublas; choose builtin"), std::string::npos) << refused;
}

}  // namespace
}  // namespace pydllm
