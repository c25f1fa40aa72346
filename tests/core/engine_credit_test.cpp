// credit in the engine: rows whose logits are edited once more, after a look at their statistics.
#include <gtest/gtest.h>

#include "engine_harness.h"
#include "tiny_llada.h"

namespace pydllm::engine {
namespace {

constexpr int32_t kFull = 0, kBlock = 4;  // block lengths of models

std::unique_ptr<Model> tiny_model(const TinyLlada& checkpoint, int32_t block) {
  if (block == kFull) return checkpoint.load(DType::kF32);
  return std::make_unique<BlockCausalLlada>(checkpoint.load(DType::kF32), block);
}

decode::ParamMap params_of(int32_t block, decode::ParamMap params) {
  if (block == kFull) params.emplace_back("block_length", int64_t{kBlock});
  return params;
}

// A request of credit 0 is near_max, whatever its second look costs.
TEST(CreditEngine, WithoutWeightItIsNearMax) {
  const TinyLlada checkpoint;
  for (const int32_t block : {kFull, kBlock}) {
    Client client(tiny_model(checkpoint, block), fake_options());
    int different = 0;
    for (int32_t i = 0; i < 8; ++i) {
      Request request = ask({i, 5, 9}, 24, "near_max", params_of(block, {{"threshold", .06}}));
      request.temperature = i % 2 ? .7f : 0;
      request.trace = i % 3 == 0;
      const std::vector<int32_t> expected = client.run(request).tokens();
      request.algorithm = "credit";
      request.params.emplace_back("credit_alpha", 0.0);
      EXPECT_EQ(client.run(request).tokens(), expected) << i;
      request.params.back().second = 20.0;
      different += client.run(request).tokens() != expected;
    }
    EXPECT_GT(different, 0);
  }
}

TEST(CreditEngine, ARequestIsTheSameAloneAndAmongNeighbours) {
  EngineOptions options = fake_options();
  options.max_logit_rows = 3;  // a request's rows lie in several chunks
  for (const int32_t block : {kFull, kBlock}) {
    fake::Behaviour behaviour;
    behaviour.block_length = block;
    std::vector<Request> requests;
    for (int32_t i = 0; i < 6; ++i) {
      requests.push_back(ask({1, 2 + i}, 13 + i, i % 3 ? "credit" : "near_max", params_of(block, {})));
      requests.back().temperature = i % 2 ? 0.9f : 0;
      if (i % 3 == 2) requests.back().frequency_penalty = 1, requests.back().logit_bias = {{i, 5}, {40, -100}};
    }
    std::vector<std::vector<int32_t>> alone;
    for (const Request& request : requests) alone.push_back(Client(behaviour).run(request).tokens());
    Client together(behaviour, options);
    std::vector<RequestId> ids;
    for (const Request& request : requests) ids.push_back(together.submit(request));
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(together.stream(ids[i]).tokens(), alone[i]);
  }
}

}  // namespace
}  // namespace pydllm::engine
