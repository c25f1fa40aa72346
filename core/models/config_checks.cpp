#include "models/config_checks.h"

#include <cmath>
#include <string>

#include "base/check.h"
#include "models/json_cursor.h"

namespace pydllm {
namespace {

// Far above any model, far below what would overflow an int32 product or ask for absurd memory before a tensor is read.
constexpr int32_t kMaxVocab = 1 << 24;
constexpr int32_t kMaxWidth = 1 << 20;
constexpr int32_t kMaxLayers = 4096;
constexpr int32_t kMaxHeads = 4096;
constexpr int32_t kMaxHeadDim = 4096;
constexpr int32_t kMaxExperts = 4096;
constexpr int32_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxRopeEntries = int64_t{1} << 27;  // positions * head_dim: 512 MiB of sines and cosines

template <class T>
[[noreturn]] void refuse(const char* field, const std::string& expected, const T& got) {
  throw InvalidCheckpoint(field, format(field, ": expected ", expected, ", got ", got));
}

void check_between(const char* field, int32_t value, int32_t minimum, int32_t maximum) {
  if (value < minimum || value > maximum) refuse(field, format("an integer in [", minimum, ", ", maximum, "]"), value);
}

void check_range(const char* field, int32_t value, int32_t maximum) {
  check_between(field, value, 1, maximum);
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

void check_expert_groups(const MoeConfig& moe) {
  check_between("expert_groups", moe.expert_groups, 1, moe.num_experts);
  if (moe.num_experts % moe.expert_groups != 0 || (moe.expert_groups > 1 && moe.num_experts == moe.expert_groups)) {
    refuse("expert_groups", format("groups of one size above 1 of ", moe.num_experts, " experts"), moe.expert_groups);
  }
  const int32_t size = moe.num_experts / moe.expert_groups;
  check_between("expert_groups_kept", moe.expert_groups_kept, (moe.experts_per_token + size - 1) / size,
                moe.expert_groups);
}

void check_moe(const ModelConfig& config) {
  const MoeConfig& moe = config.moe;
  check_between("num_experts", moe.num_experts, 0, kMaxExperts);
  if (moe.num_experts == 0) return;
  check_between("experts_per_token", moe.experts_per_token, 1, moe.num_experts);
  check_range("expert_intermediate_size", moe.expert_intermediate_size, kMaxWidth);
  check_between("shared_intermediate_size", moe.shared_intermediate_size, 0, kMaxWidth);
  check_between("dense_layers", moe.dense_layers, 0, config.num_layers);
  if (moe.router_score != "softmax" && moe.router_score != "sigmoid") {
    refuse("router_score", "softmax or sigmoid", printable(moe.router_score));
  }
  check_positive("router_scale", moe.router_scale);
  check_expert_groups(moe);
  if (moe.expert_capacity == 0) return;
  check_between("expert_capacity", moe.expert_capacity, moe.experts_per_token, moe.num_experts);
  if (config.block_length == 0) refuse("block_length", "at least 1 with expert_capacity", config.block_length);
}

}  // namespace

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
  check_between("rotary_dim", config.rotary_dim, 0, config.head_dim);
  if (config.rotary_dim % 2 != 0) refuse("rotary_dim", "an even number", config.rotary_dim);
  check_between("block_length", config.block_length, 0, config.max_positions);
  check_moe(config);
  check_positive("rope_theta", config.rope_theta);
  check_positive("rms_norm_eps", config.rms_norm_eps);
  if (config.dtype != DType::kF32 && config.dtype != DType::kBF16 && config.dtype != DType::kF16) {
    refuse("dtype", "float32, bfloat16 or float16", name_of(config.dtype));
  }
}

}  // namespace pydllm
