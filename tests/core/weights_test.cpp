#include "models/weights.h"

#include <gtest/gtest.h>

#include "decode/algorithm.h"
#include "models/registry.h"
#include "safetensors_writer.h"

namespace pydllm {
namespace {

using testing::safetensors_bytes;
using testing::safetensors_of;
using testing::TemporaryDirectory;

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const InvalidCheckpoint& error) {
    return error.field() + "|" + error.what();
  }
  return "";
}

class WeightsTest : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
  std::string first_ = directory_.write("1.safetensors", safetensors_of<float>({{"a", {2, 2}, {1, 2, 3, 4}}}));
  std::string second_ = directory_.write("2.safetensors", safetensors_of<Float16>({{"b", {3}, {5, 6, 7}}}));
};

TEST_F(WeightsTest, FindsTensorsInAnyShard) {
  for (const auto& shards : {std::vector{first_, second_}, std::vector{second_, first_}}) {
    Weights weights(shards, nullptr);
    EXPECT_TRUE(weights.contains("a"));
    EXPECT_FALSE(weights.contains("c"));
    EXPECT_EQ(weights.take("a", {2, 2}).data<float>()[3], 4.0f);
    EXPECT_EQ(to_float(weights.take("b", {3}).data<Float16>()[2]), 7.0f);
    EXPECT_EQ(weights.taken_elements(), 7);
  }
}

TEST_F(WeightsTest, MissingAndMisshapenTensorsAreNamed) {
  Weights weights({first_, second_}, nullptr);
  EXPECT_EQ(message_of([&] { weights.take("c", {4, 5}); }), "c|tensor 'c': missing, expected shape [4, 5]");
  EXPECT_EQ(message_of([&] { weights.take("a", {4}); }), "a|tensor 'a': expected shape [4], got [2, 2]");
  EXPECT_EQ(message_of([&] { weights.take("b", {3, 1}); }), "b|tensor 'b': expected shape [3, 1], got [3]");
  EXPECT_EQ(message_of([&] { weights.take("a", {{2, "vocab_size"}, {3, "num_heads * head_dim"}}); }),
            "a|tensor 'a': expected shape [2, 3], got [2, 2] (the config's vocab_size, num_heads * head_dim)");
  EXPECT_EQ(message_of([&] { weights.take("c", {{4, "hidden_size"}}); }),
            "c|tensor 'c': missing, expected shape [4] (the config's hidden_size)");
}

TEST_F(WeightsTest, TensorsInMemoryAreCheckedLikeThoseOfFiles) {
  Weights weights(
      std::map<std::string, Tensor>{{"a", Tensor::zeros({2, 2}, DType::kF32)}, {"b", Tensor::zeros({3}, DType::kI32)}});
  EXPECT_TRUE(weights.contains("a"));
  EXPECT_EQ(weights.unused(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(message_of([&] { weights.take("a", {4}); }), "a|tensor 'a': expected shape [4], got [2, 2]");
  EXPECT_EQ(message_of([&] { weights.take("b", {3}); }), "b|tensor 'b': expected F32, BF16 or F16, got int32");
  EXPECT_EQ(message_of([&] { weights.take("c", {3}); }), "c|tensor 'c': missing, expected shape [3]");
  EXPECT_EQ(weights.take("a", {2, 2}).numel(), 4);
  weights.done("a");
  EXPECT_EQ(weights.unused(), std::vector<std::string>{"b"});
  EXPECT_EQ(weights.taken_elements(), 4);
}

TEST_F(WeightsTest, NonFloatTensorsAreRefusedOnlyWhenTaken) {
  for (const char* dtype : {"I64", "F64", "F8_E4M3", "BOOL"}) {
    const int bytes = dtype[1] == '8' || dtype[0] == 'B' ? 1 : 8;
    const std::string header = format(R"({"x":{"dtype":")", dtype, R"(","shape":[1],"data_offsets":[0,)", bytes, "]}}");
    Weights weights({directory_.write("x", safetensors_bytes(header, std::string(bytes, '\0')))}, nullptr);
    EXPECT_EQ(message_of([&] { weights.take("x", {1}); }),
              format("x|tensor 'x': expected F32, BF16 or F16, got ", dtype));
  }
}

TEST_F(WeightsTest, ATensorInTwoShardsIsRefused) {
  const std::string again = directory_.write("3.safetensors", safetensors_of<float>({{"a", {1}, {0}}}));
  EXPECT_EQ(message_of([&] { Weights({first_, again}, nullptr); }),
            "a|tensor 'a': stands in 1.safetensors and 3.safetensors");
  EXPECT_NE(message_of([&] { Weights({first_, first_}, nullptr); }), "");
}

TEST_F(WeightsTest, NoShardsAreRefused) {
  EXPECT_NE(message_of([] { Weights({}, nullptr); }), "");
}

TEST_F(WeightsTest, ATensorIsTakenOnce) {
  Weights weights({first_}, nullptr);
  weights.take("a", {2, 2});
  EXPECT_THROW(weights.take("a", {2, 2}), InternalError);
}

TEST_F(WeightsTest, UnusedTensorsAreListedSorted) {
  Weights weights({second_, first_}, nullptr);
  EXPECT_EQ(weights.unused(), (std::vector<std::string>{"a", "b"}));
  weights.take("a", {2, 2});
  EXPECT_EQ(weights.unused(), (std::vector<std::string>{"b"}));
}

TEST_F(WeightsTest, ProgressCountsBytesOfPackedTensors) {
  LoadProgress progress;
  Weights weights({first_, second_}, &progress);
  EXPECT_EQ(progress.bytes_total, 22u);
  const Tensor taken = weights.take("a", {2, 2});
  EXPECT_EQ(progress.bytes_done, 0u);
  weights.done("a");
  EXPECT_EQ(progress.bytes_done, 16u);
  EXPECT_EQ(taken.data<float>()[1], 2.0f);  // dropped pages come back from the file
}

TEST(Registry, KnowsLlada) {
  const Architecture& llada = find_architecture("LLaDAModelLM");
  EXPECT_EQ(llada.default_algorithm, "confidence_threshold");
  for (const std::string_view name : llada.algorithms) EXPECT_NO_THROW(decode::find_algorithm(name)) << name;
  EXPECT_NE(std::find(llada.algorithms.begin(), llada.algorithms.end(), llada.default_algorithm),
            llada.algorithms.end());
}

TEST(Registry, UnknownArchitecturesNameTheKnownOnes) {
  const std::string message = message_of([] { find_architecture("Llama\nForCausalLM"); });
  EXPECT_TRUE(message.starts_with("architectures|architectures: expected LLaDAModelLM, ")) << message;
  EXPECT_TRUE(message.ends_with(R"(, got Llama\x0aForCausalLM)")) << message;
}

}  // namespace
}  // namespace pydllm
