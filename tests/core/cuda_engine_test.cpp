// The engine on the emulated CUDA device against the engine on the CPU: same weights, same requests.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine_harness.h"
#include "tiny_llada.h"

namespace pydllm::engine {
namespace {

constexpr Device kDevice{DeviceType::kCuda, 0};

// AddressSanitizer's fibers take two system calls a switch: it sees every kernel in the tests of the kernels, and here
// one request.
#ifdef __SANITIZE_ADDRESS__
constexpr uint32_t kRequests = 1;
#else
constexpr uint32_t kRequests = 6;
#endif

Request traced(Request request) {
  request.trace = true;
  return request;
}

// The logits of the first forward of each position, as the engine gives them out.
Tensor first_logits(const TinyLlada& checkpoint, DType dtype, Device device, const Request& request) {
  Client client(checkpoint.load(dtype, device), fake_options());
  for (const Event& event : client.run(traced(request)).events) {
    if (event.first_logits.defined()) return event.first_logits;
  }
  ADD_FAILURE() << "no logits";
  return {};
}

// Norm of the difference over the norm.
double relative_error(const Tensor& actual, const Tensor& expected) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double want = static_cast<double>(expected.data<float>()[i]);
    difference += std::pow(static_cast<double>(actual.data<float>()[i]) - want, 2);
    size += want * want;
  }
  return std::sqrt(difference / size);
}

class CudaEngine : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Weights, CudaEngine, ::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                         [](const auto& weights) { return std::string(name_of(weights.param)); });

TEST_P(CudaEngine, LogitsAreThoseOfTheCpu) {
  const TinyLlada checkpoint;
  for (uint32_t seed = 3; seed < 3 + std::min(kRequests, 2u); ++seed) {
    Request request = random_request(seed);
    request.algorithm = "confidence_threshold";
    request.params = {};
    const Tensor expected = first_logits(checkpoint, GetParam(), Device{}, request);
    const Tensor actual = first_logits(checkpoint, GetParam(), kDevice, request);
    ASSERT_EQ(actual.shape(), expected.shape());
    EXPECT_EQ(actual.device(), Device{});
    EXPECT_LT(relative_error(actual, expected), GetParam() == DType::kBF16 ? 2e-2 : 2e-6);
  }
}

TEST(CudaEngine, AnswersInFloat32AreThoseOfTheCpuAloneAndTogether) {
  const TinyLlada checkpoint;
  Client cpu(checkpoint.load(DType::kF32), fake_options());
  Client cuda(checkpoint.load(DType::kF32, kDevice), fake_options());
  std::vector<std::pair<uint32_t, RequestId>> together;
  for (uint32_t seed = 0; seed < kRequests; ++seed) together.emplace_back(seed, cuda.submit(random_request(seed)));
  for (const auto& [seed, id] : together) {
    const Stream expected = cpu.run(random_request(seed));
    const Stream& actual = cuda.stream(id);
    ASSERT_EQ(actual.end().kind, EventKind::kFinished) << actual.end().message;
    EXPECT_EQ(actual.tokens(), expected.tokens()) << "request " << seed;
    EXPECT_EQ(actual.end().forward_passes, expected.end().forward_passes);
    EXPECT_EQ(cuda.run(random_request(seed)).tokens(), actual.tokens()) << "alone, request " << seed;
  }
  cuda.expect_clean();
}

TEST(CudaEngine, ACancelledRequestFreesItsPagesAndNaNPagesReachNobody) {
  TinyLlada checkpoint;
  checkpoint.poison_embedding();
  EngineOptions options = fake_options();
  options.debug_checks = false;  // freed pages keep what the failed request wrote
  options.page_size = 32;
  options.pages = 4;
  Client client(checkpoint.load(DType::kF32, kDevice), options);
  const Request healthy = ask({1, 2, 3}, 9, "llada_schedule", {{"steps", int64_t{3}}});
  const Stream before = client.run(healthy);
  ASSERT_TRUE(before.finished_with(FinishReason::kLength)) << before.end().message;
  EXPECT_TRUE(client.run(ask(std::vector<int32_t>(100, kPoisonous), 28)).failed_with(FailReason::kInternal));
  const RequestId cancelled = client.submit(ask({1, 2}, 28, "llada_schedule"));
  client.engine().cancel(cancelled);
  EXPECT_EQ(client.run(healthy).tokens(), before.tokens());
  EXPECT_TRUE(client.stream(cancelled).ended());
  client.expect_clean();
}

TEST(CudaDevice, OthersAreRefusedByName) {
  try {
    TinyLlada().load(DType::kF32, {DeviceType::kCuda, 1});
    FAIL() << "no exception";
  } catch (const Unsupported& error) {
    EXPECT_EQ(error.field(), "device");
    EXPECT_EQ(std::string(error.what()), "device: expected cuda:0, the emulated device of a test build, got cuda:1");
  }
}

}  // namespace
}  // namespace pydllm::engine
