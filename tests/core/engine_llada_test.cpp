// The engine with a real transformer: random weights, real kernels, real pages.
#include <gtest/gtest.h>

#include "engine_harness.h"
#include "tiny_llada.h"

namespace pydllm::engine {
namespace {

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
  const TinyLlada checkpoint;
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
  TinyLlada checkpoint;
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
  Client client(TinyLlada().load(DType::kF32), fake_options());
  const Stream stream = client.run(ask({1, 2}, 4, "llada_schedule", {{"steps", int64_t{9}}}));
  EXPECT_TRUE(stream.finished_with(FinishReason::kLength)) << stream.end().message;
  EXPECT_EQ(stream.end().forward_passes, 9);
}

}  // namespace
}  // namespace pydllm::engine
