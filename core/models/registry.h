// Architectures this build can run.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "models/config.h"
#include "models/model.h"
#include "models/weights.h"

namespace pydllm {

// What a parameter of an algorithm is for one family when a request does not say; elsewhere it is the algorithm's own.
struct AlgorithmDefault {
  std::string_view algorithm;
  std::string_view param;
  std::string_view value;  // in the notation of the algorithm's table
};

struct Architecture {
  std::string_view name;  // architectures[0] of config.json
  std::unique_ptr<Model> (*make)(const Context& context, const ModelConfig& config, Weights& weights);
  std::string_view default_algorithm;
  std::span<const std::string_view> algorithms;  // names that are valid for this architecture
  std::span<const AlgorithmDefault> defaults = {};
};

std::span<const Architecture> architectures();
// Throws InvalidCheckpoint("architectures") naming what is known.
const Architecture& find_architecture(std::string_view name);

// Checks the config's ranges, builds the model, then refuses left-over tensors (InvalidCheckpoint naming up to eight of
// them) unless allow_unused.
std::unique_ptr<Model> load_model(const Context& context, const ModelConfig& config, Weights& weights,
                                  bool allow_unused);

}  // namespace pydllm
