// A LLaDA checkpoint of random weights for engine tests: real kernels, two layers, the fake model's vocabulary.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "models/registry.h"
#include "safetensors_writer.h"
#include "tensor/context.h"

namespace pydllm::engine {

constexpr int32_t kPoisonous = 59;  // its embedding is NaN where a test asks for that

inline ModelConfig tiny_config(DType dtype) {
  ModelConfig config;
  config.architecture = "LLaDAModelLM";
  config.vocab_size = 61;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 16;
  config.intermediate_size = 48;
  config.max_positions = 128;
  config.dtype = dtype;
  return config;
}

class TinyLlada {
 public:
  TinyLlada() {
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

  std::unique_ptr<Model> load(DType dtype, Device device = {}) const {
    const testing::TemporaryDirectory directory;
    Weights weights({directory.write("model.safetensors", testing::safetensors_of<float>(tensors_))}, nullptr);
    const Workplace work(1, device);
    return load_model(work.context(), tiny_config(dtype), weights, false);
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

// The same network attending block-causally, as a model outside the registry.
class BlockCausalLlada final : public Model {
 public:
  BlockCausalLlada(std::unique_ptr<Model> network, int32_t block_length, bool logit_shift = false)
      : network_(std::move(network)), info_(network_->info()) {
    info_.architecture = "BlockCausalLlada";
    info_.attention = AttentionKind::kBlockCausal;
    info_.block_length = block_length;
    info_.logit_shift = logit_shift;
  }
  const ModelInfo& info() const override { return info_; }
  Tensor forward(const Context& context, const StepInput& input, KvCache& cache) override {
    return network_->forward(context, input, cache);
  }
  void logits(const Context& context, const Tensor& hidden, Tensor& out) override {
    network_->logits(context, hidden, out);
  }

 private:
  std::unique_ptr<Model> network_;
  ModelInfo info_;
};

}  // namespace pydllm::engine
