// The engine with a real transformer: random weights, real kernels, real pages.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/thread_pool.h"
#include "engine_harness.h"
#include "models/registry.h"
#include "safetensors_writer.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kPoisonous = 59;  // its embedding is NaN where a test asks for that

ModelConfig tiny_config(DType dtype) {
  ModelConfig config;
  config.architecture = "LLaDAModelLM";
  config.vocab_size = 61;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 48;
  config.max_positions = 128;
  config.dtype = dtype;
  return config;
}

class Checkpoint {
 public:
  Checkpoint() {
    add("wte.weight", {61, 32});
    add("ln_f.weight", {32});
    add("ff_out.weight", {61, 32});
    for (const std::string block : {"blocks.0.", "blocks.1."}) {
      add(block + "attn_norm.weight", {32});
      add(block + "ff_norm.weight", {32});
      add(block + "q_proj.weight", {32, 32});
      add(block + "k_proj.weight", {16, 32});
      add(block + "v_proj.weight", {16, 32});
      add(block + "attn_out.weight", {32, 32});
      add(block + "ff_proj.weight", {48, 32});
      add(block + "up_proj.weight", {48, 32});
      add(block + "ff_out.weight", {32, 48});
    }
  }

  void poison_embedding() {
    std::vector<float>& table = tensors_.front().values;
    std::fill_n(table.begin() + kPoisonous * 32, 32, std::numeric_limits<float>::quiet_NaN());
  }

  std::unique_ptr<Model> load(DType dtype) const {
    const testing::TemporaryDirectory directory;
    Weights weights({directory.write("model.safetensors", testing::safetensors_of<float>(tensors_))}, nullptr);
    ThreadPool pool(1);
    return load_model({.device = {}, .pool = &pool}, tiny_config(dtype), weights, false);
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape) {
    const bool norm = shape.size() == 1;
    std::normal_distribution<float> normal(norm ? 1.0f : 0.0f,
                                           norm ? 0.2f : 2.0f / std::sqrt(static_cast<float>(shape.back())));
    std::vector<float> values(static_cast<size_t>(norm ? shape[0] : shape[0] * shape[1]));
    for (float& value : values) value = normal(random_);
    tensors_.push_back({"model.transformer." + name, std::move(shape), std::move(values)});
  }

  std::mt19937 random_{20};
  std::vector<testing::NamedTensor> tensors_;
};

struct Answer {
  std::vector<int32_t> tokens;
  int32_t passes = 0;
  EventKind end = EventKind::kFinished;
  bool operator==(const Answer&) const = default;
};

Answer answer_of(const Stream& stream) {
  return {stream.tokens(), stream.end().forward_passes, stream.end().kind};
}

class EngineLlada : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Weights, EngineLlada, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& weights) { return std::string(name_of(weights.param)); });

TEST_P(EngineLlada, AnAnswerIsTheSameAloneBatchedAndAfterARestartWithOtherThreads) {
  const Checkpoint checkpoint;
  std::vector<Answer> alone;
  Client single(checkpoint.load(GetParam()), fake_options());
  for (uint32_t seed = 0; seed < 16; ++seed) alone.push_back(answer_of(single.run(random_request(seed))));
  for (const int32_t budget : {100, 4096}) {
    EngineOptions options = fake_options();
    options.max_batched_tokens = budget;
    options.page_size = budget == 100 ? 8 : 32;
    options.max_logit_rows = budget == 100 ? 7 : 256;
    Client client(checkpoint.load(GetParam()), options, budget == 100 ? 3 : 1);
    std::vector<RequestId> ids;
    for (uint32_t seed = 0; seed < 16; ++seed) ids.push_back(client.submit(random_request(seed)));
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(answer_of(client.stream(ids[i])), alone[i]) << "request " << i << ", budget " << budget;
      EXPECT_EQ(alone[i].end, EventKind::kFinished);
    }
    client.expect_clean();
  }
}

TEST(EngineLladaFaults, NaNPagesOfAFailedRequestReachNoLaterRequest) {
  Checkpoint checkpoint;
  checkpoint.poison_embedding();
  EngineOptions options = fake_options();
  options.debug_checks = false;  // freed pages keep what the failed request wrote
  options.page_size = 32;
  options.pages = 4;
  Client client(checkpoint.load(DType::kF32), options);
  const Request healthy = ask({1, 2, 3}, 9, "llada_schedule", {{"steps", int64_t{3}}});
  const Stream before = client.run(healthy);
  ASSERT_TRUE(before.finished_with(FinishReason::kLength)) << before.end().message;
  const Stream sick = client.run(ask(std::vector<int32_t>(100, kPoisonous), 28));
  EXPECT_TRUE(sick.failed_with(FailReason::kInternal));
  EXPECT_EQ(sick.end().message, "non-finite logits in forward pass 1");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(client.run(healthy).tokens(), before.tokens());
}

TEST(EngineLladaFaults, IdleStepsOfAScheduleRunWithoutRows) {
  Client client(Checkpoint().load(DType::kF32), fake_options());
  const Stream stream = client.run(ask({1, 2}, 4, "llada_schedule", {{"steps", int64_t{9}}}));
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength)) << stream.end().message;
  EXPECT_EQ(stream.end().forward_passes, 9);
}

}  // namespace
}  // namespace pydllm::engine
