#include "models/registry.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "models/json_cursor.h"
#include "models/llada.h"
#include "models/qwen.h"

namespace pydllm {
namespace {

constexpr std::string_view kFullAttention[] = {"llada_schedule", "confidence_threshold", "entropy_threshold"};

constexpr Architecture kArchitectures[] = {
    {"LLaDAModelLM", make_llada, "confidence_threshold", kFullAttention},
    {"DreamModel", make_qwen, "confidence_threshold", kFullAttention},
};

// Far above any model, far below what would overflow an int32 product or ask for absurd memory before a tensor is read.
constexpr int32_t kMaxVocab = 1 << 24;
constexpr int32_t kMaxWidth = 1 << 20;
constexpr int32_t kMaxLayers = 4096;
constexpr int32_t kMaxHeads = 4096;
constexpr int32_t kMaxHeadDim = 4096;
constexpr int32_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxRopeEntries = int64_t{1} << 27;  // positions * head_dim: 512 MiB of sines and cosines
constexpr size_t kNamesShown = 8;

template <class T>
[[noreturn]] void refuse(const char* field, const std::string& expected, const T& got) {
  throw InvalidCheckpoint(field, format(field, ": expected ", expected, ", got ", got));
}

void check_range(const char* field, int32_t value, int32_t maximum) {
  if (value < 1 || value > maximum) refuse(field, format("an integer in [1, ", maximum, "]"), value);
}

void check_positive(const char* field, double value) {
  if (!std::isfinite(value) || value <= 0) refuse(field, "a finite number > 0", value);
}

void check_heads(const ModelConfig& config) {
  check_range("num_heads", config.num_heads, kMaxHeads);
  check_range("num_kv_heads", config.num_kv_heads, kMaxHeads);
  check_range("head_dim", config.head_dim, kMaxHeadDim);
  if (config.num_heads % config.num_kv_heads != 0) {
    refuse("num_kv_heads", format("a divisor of num_heads (", config.num_heads, ")"), config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0) refuse("head_dim", "an even number", config.head_dim);
  if (config.num_heads * config.head_dim > kMaxWidth) {
    refuse("head_dim", format("num_heads * head_dim of at most ", kMaxWidth), config.num_heads * config.head_dim);
  }
}

void check_config(const ModelConfig& config) {
  check_range("vocab_size", config.vocab_size, kMaxVocab);
  check_range("hidden_size", config.hidden_size, kMaxWidth);
  check_range("num_layers", config.num_layers, kMaxLayers);
  check_heads(config);
  check_range("intermediate_size", config.intermediate_size, kMaxWidth);
  check_range("max_positions", config.max_positions, kMaxPositions);
  if (int64_t{config.max_positions} * config.head_dim > kMaxRopeEntries) {
    refuse("max_positions", format("at most ", kMaxRopeEntries / config.head_dim), config.max_positions);
  }
  check_positive("rope_theta", config.rope_theta);
  check_positive("rms_norm_eps", config.rms_norm_eps);
  if (config.dtype != DType::kF32 && config.dtype != DType::kBF16 && config.dtype != DType::kF16) {
    refuse("dtype", "float32, bfloat16 or float16", name_of(config.dtype));
  }
}

// Buffers that some exporters store although they follow from the config.
bool is_harmless(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

std::string first_names(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), kNamesShown); ++i) {
    out += (i == 0 ? "" : ", ") + printable(names[i]);
  }
  return names.size() > kNamesShown ? format(out, " and ", names.size() - kNamesShown, " more") : out;
}

void check_unused(Weights& weights, bool allow_unused) {
  std::vector<std::string> unused = weights.unused();
  for (const std::string& name : unused) weights.done(name);
  std::erase_if(unused, is_harmless);
  if (unused.empty() || allow_unused) return;
  throw InvalidCheckpoint(printable(unused.front()), format("expected no other tensors, got ", first_names(unused)));
}

std::string known_names() {
  std::string out;
  for (const Architecture& architecture : kArchitectures) {
    out += (out.empty() ? "" : ", ") + std::string(architecture.name);
  }
  return out;
}

}  // namespace

std::span<const Architecture> architectures() {
  return kArchitectures;
}

const Architecture& find_architecture(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
  }
  refuse("architectures", known_names(), printable(name));
}

std::unique_ptr<Model> load_model(const Context& context, const ModelConfig& config, Weights& weights,
                                  bool allow_unused) {
  const Architecture& architecture = find_architecture(config.architecture);
  check_config(config);
  std::unique_ptr<Model> model = architecture.make(context, config, weights);
  check_unused(weights, allow_unused);
  return model;
}

}  // namespace pydllm
