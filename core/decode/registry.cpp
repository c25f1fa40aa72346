#include <algorithm>

#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/param_values.h"

namespace pydllm::decode {
namespace {

constexpr const Algorithm* kAlgorithms[] = {
    &kLladaSchedule,
    &kConfidenceThreshold,
    &kConfidenceFactor,
    &kEntropyThreshold,
    &kMultiBlockEntropy,
    &kNearMax,
    &kCredit,
    &kHierarchical,
    &kDream,
    &kRnd1Entropy,
    &kD2f,
    &kLowConfidenceDecoding,
    &kJointThreshold,
    &kLevenshtein,
    &kSdar,
    &kMultiBlock,
    &kFastDllmV2,
};

bool answers_to(const Algorithm& algorithm, std::string_view name) {
  return algorithm.name == name || std::ranges::find(algorithm.aliases, name) != algorithm.aliases.end();
}

std::string known_names() {
  std::string names;
  for (const Algorithm* algorithm : kAlgorithms) {
    if (!names.empty()) names += ", ";
    names += algorithm->name;
  }
  return names;
}

}  // namespace

std::span<const Algorithm* const> algorithms() {
  return kAlgorithms;
}

const Algorithm& find_algorithm(std::string_view name) {
  for (const Algorithm* algorithm : kAlgorithms) {
    if (answers_to(*algorithm, name)) return *algorithm;
  }
  throw InvalidRequest("algorithm", format("algorithm: expected one of ", known_names(), ", got ", quoted(name)));
}

bool runs_on(const Algorithm& algorithm, AttentionKind model) {
  const bool masks = algorithm.attention.contains(AttentionKind::kPromptBlockCausal);
  return algorithm.attention.contains(model) || (masks && model == AttentionKind::kFull);
}

}  // namespace pydllm::decode
