// The LLaDA model against its formula in float64, written here from the papers and independent of the ops.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "models/registry.h"
#include "safetensors_writer.h"

namespace pydllm {
namespace {

using testing::NamedTensor;
using testing::safetensors_of;
using testing::TemporaryDirectory;

// Odd vocabulary and intermediate size, grouped heads; Q = 6 * 10 differs from the hidden size.
ModelConfig small_config() {
  ModelConfig config;
  config.architecture = "LLaDAModelLM";
  config.vocab_size = 53;
  config.hidden_size = 46;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 10;
  config.intermediate_size = 37;
  config.max_positions = 40;
  config.rope_theta = 500.0;
  config.rms_norm_eps = 1e-3;
  return config;
}

struct Shaped {
  std::string name;
  std::vector<int64_t> shape;
};

// Names and shapes of the original implementation.
std::vector<Shaped> tensors_of(const ModelConfig& c) {
  const int64_t h = c.hidden_size, q = c.num_heads * c.head_dim, k = c.num_kv_heads * c.head_dim;
  const int64_t f = c.intermediate_size, v = c.vocab_size;
  std::vector<Shaped> out = {{"wte.weight", {v, h}}, {"ln_f.weight", {h}}};
  const auto linear = [&](const std::string& name, int64_t rows, int64_t columns, bool bias) {
    out.push_back({name + ".weight", {rows, columns}});
    if (bias) out.push_back({name + ".bias", {rows}});
  };
  if (!c.tie_word_embeddings) linear("ff_out", v, h, c.linear_bias);
  for (int32_t i = 0; i < c.num_layers; ++i) {
    const std::string at = format("blocks.", i, ".");
    out.push_back({at + "attn_norm.weight", {h}});
    out.push_back({at + "ff_norm.weight", {h}});
    linear(at + "q_proj", q, h, c.attention_bias);
    linear(at + "k_proj", k, h, c.attention_bias);
    linear(at + "v_proj", k, h, c.attention_bias);
    linear(at + "attn_out", h, q, c.linear_bias);
    linear(at + "ff_proj", f, h, c.linear_bias);
    linear(at + "up_proj", f, h, c.linear_bias);
    linear(at + "ff_out", h, f, c.linear_bias);
  }
  for (Shaped& tensor : out) tensor.name = "model.transformer." + tensor.name;
  return out;
}

// Norm weights around 1, matrices scaled so that every layer matters, all of them exact in bfloat16 so that every
// storage type holds the same model.
std::vector<NamedTensor> random_tensors(const ModelConfig& config, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<NamedTensor> out;
  for (const Shaped& shaped : tensors_of(config)) {
    const bool norm = shaped.name.find("norm") != std::string::npos || shaped.name.find("ln_f") != std::string::npos;
    const double scale = shaped.shape.size() == 2 ? 1.5 / std::sqrt(static_cast<double>(shaped.shape[1])) : 0.3;
    std::normal_distribution<double> normal(norm ? 1.0 : 0.0, scale);
    int64_t count = 1;
    for (const int64_t extent : shaped.shape) count *= extent;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = to_float(to_bfloat16(static_cast<float>(normal(random))));
    out.push_back({shaped.name, shaped.shape, std::move(values)});
  }
  return out;
}

// --- the formula ---

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Reference {
 public:
  Reference(const ModelConfig& config, const std::vector<NamedTensor>& tensors) : c_(config) {
    for (const NamedTensor& tensor : tensors) values_[tensor.name] = &tensor;
  }

  // Logits of every position of one sequence.
  Rows logits(const std::vector<int32_t>& tokens) const {
    Rows x;
    for (const int32_t token : tokens) x.push_back(matrix_row(p_ + "wte.weight", token));
    for (int32_t i = 0; i < c_.num_layers; ++i) layer(format(p_, "blocks.", i, "."), x);
    Rows out;
    for (const Row& row : x) {
      const Row normed = norm(row, p_ + "ln_f.weight");
      out.push_back(c_.tie_word_embeddings ? multiply(normed, p_ + "wte.weight") : linear(normed, p_ + "ff_out"));
    }
    return out;
  }

 private:
  const std::vector<float>& values(const std::string& name) const { return values_.at(name)->values; }

  Row matrix_row(const std::string& name, int64_t row) const {
    const auto& all = values(name);
    const int64_t width = values_.at(name)->shape[1];
    return Row(all.begin() + row * width, all.begin() + (row + 1) * width);
  }

  Row multiply(const Row& x, const std::string& name) const {
    Row out;
    for (int64_t n = 0; n < values_.at(name)->shape[0]; ++n) {
      const Row weight = matrix_row(name, n);
      out.push_back(std::inner_product(x.begin(), x.end(), weight.begin(), 0.0));
    }
    return out;
  }

  Row linear(const Row& x, const std::string& name) const {
    Row out = multiply(x, name + ".weight");
    if (!values_.contains(name + ".bias")) return out;
    for (size_t n = 0; n < out.size(); ++n) out[n] += values(name + ".bias")[n];
    return out;
  }

  Row norm(const Row& x, const std::string& name) const {
    const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / static_cast<double>(x.size());
    Row out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] / std::sqrt(mean + c_.rms_norm_eps) * values(name)[i]);
    return out;
  }

  void rotate(Row& heads, double position) const {
    const size_t half = static_cast<size_t>(c_.head_dim) / 2;
    for (size_t begin = 0; begin < heads.size(); begin += 2 * half) {
      for (size_t d = 0; d < half; ++d) {
        const double angle = position * std::pow(c_.rope_theta, -2.0 * static_cast<double>(d) / c_.head_dim);
        const double a = heads[begin + d], b = heads[begin + half + d];
        heads[begin + d] = a * std::cos(angle) - b * std::sin(angle);
        heads[begin + half + d] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }

  Row attended(const Row& q, const Rows& keys, const Rows& values_rows) const {
    const auto dim = static_cast<size_t>(c_.head_dim);
    Row out;
    for (size_t head = 0; head < static_cast<size_t>(c_.num_heads); ++head) {
      const size_t kv = head / static_cast<size_t>(c_.num_heads / c_.num_kv_heads) * dim;
      Row weights;
      double total = 0;
      for (const Row& key : keys) {
        double score = 0;
        for (size_t d = 0; d < dim; ++d) score += q[head * dim + d] * key[kv + d];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        total += weights.back();
      }
      for (size_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (size_t t = 0; t < weights.size(); ++t) sum += weights[t] / total * values_rows[t][kv + d];
        out.push_back(sum);
      }
    }
    return out;
  }

  void layer(const std::string& at, Rows& x) const {
    Rows q, k, v;
    for (size_t t = 0; t < x.size(); ++t) {
      const Row normed = norm(x[t], at + "attn_norm.weight");
      q.push_back(linear(normed, at + "q_proj"));
      k.push_back(linear(normed, at + "k_proj"));
      v.push_back(linear(normed, at + "v_proj"));
      rotate(q.back(), static_cast<double>(t));
      rotate(k.back(), static_cast<double>(t));
    }
    for (size_t t = 0; t < x.size(); ++t) {
      add(x[t], linear(attended(q[t], k, v), at + "attn_out"));
      const Row normed = norm(x[t], at + "ff_norm.weight");
      Row gate = linear(normed, at + "ff_proj");
      const Row up = linear(normed, at + "up_proj");
      for (size_t f = 0; f < gate.size(); ++f) gate[f] = gate[f] / (1 + std::exp(-gate[f])) * up[f];
      add(x[t], linear(gate, at + "ff_out"));
    }
  }

  static void add(Row& x, const Row& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const std::string p_ = "model.transformer.";
  ModelConfig c_;
  std::map<std::string, const NamedTensor*> values_;
};

// --- the model under test ---

class Runner {
 public:
  template <class Stored = float>
  Runner(const ModelConfig& config, const std::vector<NamedTensor>& tensors, std::type_identity<Stored> = {})
      : pool_(2), context_{.device = {}, .pool = &pool_} {
    const TemporaryDirectory directory;
    Weights weights({directory.write("model.safetensors", safetensors_of<Stored>(tensors))}, &progress_);
    model_ = load_model(context_, config, weights, false);
  }

  const ModelInfo& info() const { return model_->info(); }
  const LoadProgress& progress() const { return progress_; }

  // Logits of the given rows (indices into all tokens) of several sequences in one forward; pages are handed out
  // backwards so that position and slot never agree by luck.
  std::vector<std::vector<float>> logits(const std::vector<std::vector<int32_t>>& sequences,
                                         const std::vector<int32_t>& rows) {
    const ModelInfo& about = model_->info();
    KvCache cache({about.kv_layers, about.kv_heads, about.head_dim, kPageSize, about.kv_dtype}, kPages, {});
    for (PageId page = 0; page < kPages; ++page) cache.poison(context_, page);
    std::vector<std::vector<PageId>> tables;
    const StepInput input = step(sequences, rows, tables);
    const Tensor hidden = model_->forward(context_, input, cache);
    EXPECT_EQ(hidden.dtype(), about.hidden_dtype);
    Tensor out = Tensor::empty({hidden.size(0), about.vocab_size}, DType::kF32);
    model_->logits(context_, hidden, out);
    std::vector<std::vector<float>> result;
    for (int64_t r = 0; r < out.size(0); ++r) {
      const float* row = out.data<float>() + r * about.vocab_size;
      result.emplace_back(row, row + about.vocab_size);
    }
    return result;
  }

 private:
  static constexpr int32_t kPageSize = 4;
  static constexpr int32_t kPages = 32;

  static StepInput step(const std::vector<std::vector<int32_t>>& sequences, const std::vector<int32_t>& rows,
                        std::vector<std::vector<PageId>>& tables) {
    std::vector<int32_t> tokens, positions;
    std::vector<int64_t> slots;
    StepInput input;
    PageId next = kPages;
    tables.resize(sequences.size());
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto length = static_cast<int32_t>(sequences[s].size());
      while (static_cast<int32_t>(tables[s].size()) * kPageSize < length) tables[s].push_back(--next);
      input.sequences.push_back({static_cast<int32_t>(tokens.size()), length, length, tables[s]});
      for (int32_t t = 0; t < length; ++t) {
        tokens.push_back(sequences[s][static_cast<size_t>(t)]);
        positions.push_back(t);
        slots.push_back(slot_of(tables[s], kPageSize, t));
      }
    }
    input.tokens = Tensor::from<int32_t>(tokens);
    input.positions = Tensor::from<int32_t>(positions);
    input.slots = Tensor::from<int64_t>(slots);
    input.hidden_rows = Tensor::from<int32_t>(rows);
    return input;
  }

  ThreadPool pool_;
  Context context_;
  LoadProgress progress_;
  std::unique_ptr<Model> model_;
};

std::vector<int32_t> all_rows(size_t count) {
  std::vector<int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

const std::vector<int32_t> kFirst = {3, 52, 0, 17, 17, 8, 41, 29, 5};
const std::vector<int32_t> kSecond = {11, 2, 33, 50, 1};

// Root of the summed squares of the error over those of the reference.
double relative_error(const std::vector<std::vector<float>>& got, const Rows& expected) {
  double error = 0, total = 0;
  EXPECT_EQ(got.size(), expected.size());
  for (size_t r = 0; r < expected.size(); ++r) {
    for (size_t i = 0; i < expected[r].size(); ++i) {
      error += std::pow(got[r][i] - expected[r][i], 2);
      total += std::pow(expected[r][i], 2);
    }
  }
  return std::sqrt(error / total);
}

struct Variant {
  const char* name;
  int32_t kv_heads;
  bool tied, attention_bias, linear_bias;
};

class LladaModel : public ::testing::TestWithParam<Variant> {
 protected:
  static ModelConfig config() {
    ModelConfig config = small_config();
    config.num_kv_heads = GetParam().kv_heads;
    config.tie_word_embeddings = GetParam().tied;
    config.attention_bias = GetParam().attention_bias;
    config.linear_bias = GetParam().linear_bias;
    return config;
  }

  // Both sequences in one ragged forward, every row.
  template <class Stored>
  static double error_with(DType dtype) {
    ModelConfig as = config();
    as.dtype = dtype;
    const std::vector<NamedTensor> tensors = random_tensors(as, 7);
    Runner runner(as, tensors, std::type_identity<Stored>{});
    const Reference reference(as, tensors);
    Rows expected = reference.logits(kFirst);
    for (Row& row : reference.logits(kSecond)) expected.push_back(std::move(row));
    return relative_error(runner.logits({kFirst, kSecond}, all_rows(expected.size())), expected);
  }
};

TEST_P(LladaModel, Float32MatchesTheFormula) {
  EXPECT_LT(error_with<float>(DType::kF32), 2e-6);
}

// One rounding of weights and activations is 2^-9 relative; a few dozen of them add up like a random walk.
TEST_P(LladaModel, BFloat16StaysNearTheFormula) {
  EXPECT_LT(error_with<BFloat16>(DType::kBF16), 0.02);
}

// Activations stay float32, so only the weights round, and these weights are exact in float16.
TEST_P(LladaModel, Float16MatchesTheFormula) {
  EXPECT_LT(error_with<Float16>(DType::kF16), 1e-4);
}

TEST_P(LladaModel, StoredTypeDoesNotMatterWhenTheValuesFit) {
  EXPECT_EQ(error_with<BFloat16>(DType::kF32), error_with<float>(DType::kF32));
}

INSTANTIATE_TEST_SUITE_P(Variants, LladaModel,
                         ::testing::Values(Variant{"Plain", 6, false, false, false},
                                           Variant{"GroupedHeads", 2, false, false, false},
                                           Variant{"OneKeyHeadAndQkvBias", 1, false, true, false},
                                           Variant{"EveryBias", 3, false, true, true},
                                           Variant{"TiedWithBiases", 2, true, true, true}),
                         [](const auto& test) { return test.param.name; });

TEST(Llada, ASequenceIsBitIdenticalAloneAndInABatch) {
  const ModelConfig config = small_config();
  Runner runner(config, random_tensors(config, 1));
  const auto alone = runner.logits({kSecond}, all_rows(kSecond.size()));
  const auto both = runner.logits({kFirst, kSecond}, all_rows(kFirst.size() + kSecond.size()));
  for (size_t r = 0; r < kSecond.size(); ++r) EXPECT_EQ(both[kFirst.size() + r], alone[r]) << r;
}

TEST(Llada, BuffersOfALargerForwardDoNotLeakIntoASmallerOne) {
  const ModelConfig config = small_config();
  const std::vector<NamedTensor> tensors = random_tensors(config, 2);
  Runner used(config, tensors), fresh(config, tensors);
  used.logits({kFirst, kFirst, kSecond}, all_rows(20));
  EXPECT_EQ(used.logits({kSecond}, all_rows(5)), fresh.logits({kSecond}, all_rows(5)));
}

TEST(Llada, ReturnsTheWantedRowsInTheirOrder) {
  const ModelConfig config = small_config();
  Runner runner(config, random_tensors(config, 3));
  const auto all = runner.logits({kFirst}, all_rows(kFirst.size()));
  const auto some = runner.logits({kFirst}, {7, 0, 7});
  ASSERT_EQ(some.size(), 3u);
  EXPECT_EQ(some[0], all[7]);
  EXPECT_EQ(some[1], all[0]);
  EXPECT_EQ(some[2], all[7]);
  EXPECT_TRUE(runner.logits({kFirst}, {}).empty());
}

TEST(Llada, InfoDescribesTheModel) {
  ModelConfig config = small_config();
  config.dtype = DType::kBF16;
  const std::vector<NamedTensor> tensors = random_tensors(config, 4);
  const Runner runner(config, tensors);
  int64_t parameters = 0;
  for (const NamedTensor& tensor : tensors) parameters += static_cast<int64_t>(tensor.values.size());
  EXPECT_EQ(runner.info().parameter_count, parameters);
  EXPECT_GE(runner.info().weight_bytes, 2 * parameters);
  EXPECT_EQ(runner.info().kv_dtype, DType::kBF16);
  EXPECT_EQ(runner.info().hidden_dtype, DType::kBF16);
  EXPECT_EQ(runner.info().vocab_size, 53);
  EXPECT_EQ(runner.info().max_positions, 40);
  EXPECT_EQ(runner.progress().bytes_done, runner.progress().bytes_total);
  EXPECT_EQ(runner.progress().bytes_total, static_cast<uint64_t>(4 * parameters));
}

// --- refusals ---

std::string refusal(const ModelConfig& config, const std::vector<NamedTensor>& tensors, bool allow_unused = false) {
  const TemporaryDirectory directory;
  ThreadPool pool(1);
  Weights weights({directory.write("model.safetensors", safetensors_of<float>(tensors))}, nullptr);
  try {
    load_model({.device = {}, .pool = &pool}, config, weights, allow_unused);
  } catch (const InvalidCheckpoint& error) {
    return error.field() + "|" + error.what();
  }
  return "";
}

TEST(LladaLoading, EveryMissingTensorIsNamed) {
  ModelConfig config = small_config();
  config.num_layers = 1;
  config.attention_bias = config.linear_bias = true;
  const std::vector<NamedTensor> whole = random_tensors(config, 5);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::vector<NamedTensor> tensors = whole;
    tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_TRUE(refusal(config, tensors).starts_with(whole[i].name + "|tensor '" + whole[i].name + "': missing"))
        << refusal(config, tensors);
  }
}

TEST(LladaLoading, EveryMisshapenTensorIsNamed) {
  ModelConfig config = small_config();
  config.num_layers = 1;
  const std::vector<NamedTensor> whole = random_tensors(config, 5);
  for (size_t i = 0; i < whole.size(); ++i) {
    std::vector<NamedTensor> tensors = whole;
    tensors[i].shape.push_back(1);
    EXPECT_TRUE(refusal(config, tensors).starts_with(whole[i].name + "|")) << refusal(config, tensors);
    EXPECT_NE(refusal(config, tensors).find("expected shape"), std::string::npos);
  }
}

TEST(LladaLoading, UnusedTensorsAreNamedUnlessAllowedOrHarmless) {
  const ModelConfig config = small_config();
  std::vector<NamedTensor> tensors = random_tensors(config, 6);
  tensors.push_back({"model.transformer.blocks.0.rotary_emb.inv_freq", {1}, {1}});
  EXPECT_EQ(refusal(config, tensors), "");
  for (int i = 0; i < 10; ++i) tensors.push_back({format("x", i), {1}, {0}});
  EXPECT_EQ(refusal(config, tensors), "x0|expected no other tensors, got x0, x1, x2, x3, x4, x5, x6, x7 and 2 more");
  EXPECT_EQ(refusal(config, tensors, true), "");
}

TEST(LladaLoading, BiasesThatTheConfigDoesNotAnnounceAreUnused) {
  ModelConfig config = small_config();
  config.attention_bias = true;
  const std::vector<NamedTensor> tensors = random_tensors(config, 6);
  config.attention_bias = false;
  EXPECT_TRUE(refusal(config, tensors).starts_with("model.transformer.blocks.0.k_proj.bias|"));
}

struct BadField {
  const char* field;
  void (*spoil)(ModelConfig&);
};

class LladaConfig : public ::testing::TestWithParam<BadField> {};

TEST_P(LladaConfig, OutOfRangeIsRefusedByName) {
  ModelConfig config = small_config();
  GetParam().spoil(config);
  const std::string message = refusal(config, random_tensors(small_config(), 8));
  EXPECT_TRUE(message.starts_with(format(GetParam().field, "|", GetParam().field, ": expected "))) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

constexpr int32_t kHuge = std::numeric_limits<int32_t>::max();
INSTANTIATE_TEST_SUITE_P(Fields, LladaConfig,
                         ::testing::Values(BadField{"vocab_size", [](ModelConfig& c) { c.vocab_size = 0; }},
                                           BadField{"vocab_size", [](ModelConfig& c) { c.vocab_size = kHuge; }},
                                           BadField{"hidden_size", [](ModelConfig& c) { c.hidden_size = -1; }},
                                           BadField{"hidden_size", [](ModelConfig& c) { c.hidden_size = kHuge; }},
                                           BadField{"num_layers", [](ModelConfig& c) { c.num_layers = 0; }},
                                           BadField{"num_layers", [](ModelConfig& c) { c.num_layers = kHuge; }},
                                           BadField{"num_heads", [](ModelConfig& c) { c.num_heads = kHuge; }},
                                           BadField{"num_kv_heads", [](ModelConfig& c) { c.num_kv_heads = 0; }},
                                           BadField{"num_kv_heads", [](ModelConfig& c) { c.num_kv_heads = 4; }},
                                           BadField{"num_kv_heads", [](ModelConfig& c) { c.num_kv_heads = 12; }},
                                           BadField{"head_dim", [](ModelConfig& c) { c.head_dim = 9; }},
                                           BadField{"head_dim", [](ModelConfig& c) { c.head_dim = kHuge; }},
                                           BadField{"head_dim",
                                                    [](ModelConfig& c) {
                                                      c.num_heads = c.num_kv_heads = 4096;
                                                      c.head_dim = 4096;
                                                    }},
                                           BadField{"intermediate_size",
                                                    [](ModelConfig& c) { c.intermediate_size = 0; }},
                                           BadField{"max_positions", [](ModelConfig& c) { c.max_positions = 0; }},
                                           BadField{"max_positions", [](ModelConfig& c) { c.max_positions = kHuge; }},
                                           BadField{"max_positions", [](ModelConfig& c) { c.max_positions = 1 << 24; }},
                                           BadField{"rotary_dim", [](ModelConfig& c) { c.rotary_dim = 7; }},
                                           BadField{"rotary_dim", [](ModelConfig& c) { c.rotary_dim = 12; }},
                                           BadField{"block_length", [](ModelConfig& c) { c.block_length = -1; }},
                                           BadField{"block_length", [](ModelConfig& c) { c.block_length = 41; }},
                                           BadField{"rope_theta", [](ModelConfig& c) { c.rope_theta = 0; }},
                                           BadField{"rope_theta", [](ModelConfig& c) { c.rope_theta = std::nan(""); }},
                                           BadField{"rms_norm_eps", [](ModelConfig& c) { c.rms_norm_eps = -1e-5; }},
                                           BadField{"rms_norm_eps", [](ModelConfig& c) { c.rms_norm_eps = HUGE_VAL; }},
                                           BadField{"dtype", [](ModelConfig& c) { c.dtype = DType::kI64; }}),
                         [](const auto& test) { return format(test.param.field, test.index); });

MoeConfig small_mixture() {
  return {.num_experts = 12,
          .experts_per_token = 4,
          .expert_intermediate_size = 5,
          .expert_groups = 3,
          .expert_groups_kept = 2};
}

using BadMixture = std::pair<const char*, void (*)(MoeConfig&)>;
class MixtureConfig : public ::testing::TestWithParam<BadMixture> {};

TEST_P(MixtureConfig, OutOfRangeIsRefusedByName) {
  ModelConfig config = small_config();
  config.moe = small_mixture();
  GetParam().second(config.moe);
  const std::string message = refusal(config, random_tensors(small_config(), 8));
  EXPECT_TRUE(message.starts_with(format(GetParam().first, "|", GetParam().first, ": expected "))) << message;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, MixtureConfig,
    ::testing::Values(BadMixture{"num_experts", [](MoeConfig& m) { m.num_experts = -1; }},
                      BadMixture{"num_experts", [](MoeConfig& m) { m.num_experts = kHuge; }},
                      BadMixture{"experts_per_token", [](MoeConfig& m) { m.experts_per_token = 13; }},
                      BadMixture{"expert_intermediate_size", [](MoeConfig& m) { m.expert_intermediate_size = 0; }},
                      BadMixture{"shared_intermediate_size", [](MoeConfig& m) { m.shared_intermediate_size = -1; }},
                      BadMixture{"dense_layers", [](MoeConfig& m) { m.dense_layers = 3; }},
                      BadMixture{"router_score", [](MoeConfig& m) { m.router_score = "tanh"; }},
                      BadMixture{"router_scale", [](MoeConfig& m) { m.router_scale = 0; }},
                      BadMixture{"expert_groups", [](MoeConfig& m) { m.expert_groups = 5; }},
                      BadMixture{"expert_groups", [](MoeConfig& m) { m.expert_groups = 12; }},
                      BadMixture{"expert_groups_kept", [](MoeConfig& m) { m.expert_groups_kept = 4; }},
                      BadMixture{"expert_groups_kept",
                                 [](MoeConfig& m) {
                                   m.experts_per_token = 9;
                                   m.expert_groups_kept = 2;
                                 }},
                      BadMixture{"expert_capacity", [](MoeConfig& m) { m.expert_capacity = 3; }},
                      BadMixture{"block_length", [](MoeConfig& m) { m.expert_capacity = 6; }}),
    [](const auto& test) { return format(test.param.first, test.index); });

}  // namespace
}  // namespace pydllm
