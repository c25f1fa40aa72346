// The tensors of a model by name, in files or in memory: each may be taken once, and what is missing, misshapen or left
// over is reported by name.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/safetensors.h"

namespace pydllm {

// Read by another thread while loading (progress bars).
struct LoadProgress {
  std::atomic<uint64_t> bytes_total{0};
  std::atomic<uint64_t> bytes_done{0};
};

// A size of a tensor, and the fields of the config that it follows from: what the message about another size names.
struct Extent {
  int64_t size = 0;
  std::string_view fields;  // "hidden_size", "num_heads * head_dim"; empty: none

  Extent(int64_t known, std::string_view named = {}) : size(known), fields(named) {}
};

class Weights {
 public:
  // Shards in any order. Throws InvalidCheckpoint when a tensor name stands in two shards.
  Weights(const std::vector<std::string>& shard_paths, LoadProgress* progress);
  // Of another library: in host memory, or on the device that the model is for (InternalError from the ops otherwise).
  explicit Weights(std::map<std::string, Tensor> tensors);

  bool contains(const std::string& name) const;
  // Throws InvalidCheckpoint(name) when missing, of another shape, or not a float type.
  Tensor take(const std::string& name, const std::vector<Extent>& shape);
  // The caller has packed this tensor: counts progress and drops its pages from memory. Tensors in memory are kept.
  void done(const std::string& name);
  std::vector<std::string> unused() const;  // sorted
  int64_t taken_elements() const noexcept { return taken_elements_; }

 private:
  // In a file, or `tensor` where there are no files.
  struct Slot {
    size_t shard = 0;
    size_t entry = 0;
    Tensor tensor = {};
    bool taken = false;
  };
  Tensor found(const std::string& name, const Slot& slot, const std::vector<Extent>& shape) const;

  std::vector<SafetensorsFile> shards_;
  std::map<std::string, Slot> slots_;
  LoadProgress* progress_ = nullptr;
  int64_t taken_elements_ = 0;
};

}  // namespace pydllm
