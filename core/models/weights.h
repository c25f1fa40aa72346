// The tensors of a checkpoint by name: each may be taken once, and what is missing, misshapen or left over is reported
// by name.
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

  bool contains(const std::string& name) const;
  // Throws InvalidCheckpoint(name) when missing, of another shape, or not a float type.
  Tensor take(const std::string& name, const std::vector<Extent>& shape);
  // The caller has packed this tensor: counts progress and drops its pages from memory.
  void done(const std::string& name);
  std::vector<std::string> unused() const;  // sorted
  int64_t taken_elements() const noexcept { return taken_elements_; }

 private:
  struct Slot {
    size_t shard;
    size_t entry;
    bool taken = false;
  };
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, Slot> slots_;
  LoadProgress* progress_;
  int64_t taken_elements_ = 0;
};

}  // namespace pydllm
