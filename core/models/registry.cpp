#include "models/registry.h"

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "models/config_checks.h"
#include "models/json_cursor.h"
#include "models/llada.h"
#include "models/llada2.h"
#include "models/qwen.h"

namespace pydllm {
namespace {

constexpr std::string_view kFullAttention[] = {"llada_schedule",
                                               "confidence_threshold",
                                               "confidence_factor",
                                               "entropy_threshold",
                                               "multi_block_entropy",
                                               "near_max",
                                               "credit",
                                               "hierarchical",
                                               "d2f"};

// Of models whose row i - 1 predicts position i.
constexpr std::string_view kShiftedFullAttention[] = {"dream",
                                                      "rnd1_entropy",
                                                      "llada_schedule",
                                                      "confidence_threshold",
                                                      "confidence_factor",
                                                      "entropy_threshold",
                                                      "multi_block_entropy",
                                                      "near_max",
                                                      "credit",
                                                      "hierarchical",
                                                      "d2f"};

constexpr std::string_view kBlockCausal[] = {"low_confidence", "joint_threshold", "sdar",   "multi_block",
                                             "fast_dllm_v2",   "near_max",        "credit", "hierarchical"};

// Of LLaDA2 from 2.2 on: a checkpoint without the ids of DELETE and SPLIT cannot run the last one.
constexpr std::string_view kLlada2[] = {"low_confidence", "joint_threshold", "sdar",
                                        "multi_block",    "fast_dllm_v2",    "near_max",
                                        "credit",         "hierarchical",    "levenshtein"};

// d3LLM decodes Dream by other rules than LLaDA, whose numbers are the algorithms' own.
constexpr AlgorithmDefault kDreamDefaults[] = {
    {"multi_block_entropy", "entropy_threshold", "0.4"}, {"multi_block_entropy", "comparison", "lt"},
    {"multi_block_entropy", "force_scope", "first"},     {"multi_block_entropy", "cache_delay_iter", "1"},
    {"entropy_threshold", "comparison", "lt"},
};

constexpr Architecture kArchitectures[] = {
    {"LLaDAModelLM", make_llada, "confidence_threshold", kFullAttention},
    {"LLaDAMoEModelLM", make_qwen, "confidence_threshold", kFullAttention},
    {"DreamModel", make_qwen, "dream", kShiftedFullAttention, kDreamDefaults},
    {"RND1", make_qwen, "rnd1_entropy", kShiftedFullAttention},
    {"RND1LM", make_qwen, "rnd1_entropy", kShiftedFullAttention},
    {"LLaDA2MoeModelLM", make_llada2, "low_confidence", kLlada2},
    {"SDARForCausalLM", make_qwen, "sdar", kBlockCausal},
    {"SDARMoeForCausalLM", make_qwen, "sdar", kBlockCausal},
    {"StableDiffcoderForCausalLM", make_qwen, "low_confidence", kBlockCausal},
    {"Fast_dLLM_QwenForCausalLM", make_qwen, "fast_dllm_v2", kBlockCausal},
};

constexpr size_t kNamesShown = 8;

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
  throw InvalidCheckpoint("architectures",
                          format("architectures: expected ", known_names(), ", got ", printable(name)));
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
