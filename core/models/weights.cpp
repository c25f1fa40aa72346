#include "models/weights.h"

#include <utility>

#include "models/json_cursor.h"

namespace pydllm {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

[[noreturn]] void refuse(const std::string& tensor, const std::string& what) {
  throw InvalidCheckpoint(printable(tensor), format("tensor '", printable(tensor), "': ", what));
}

std::vector<int64_t> sizes_of(const std::vector<Extent>& shape) {
  std::vector<int64_t> sizes;
  for (const Extent& extent : shape) sizes.push_back(extent.size);
  return sizes;
}

// " (the config's vocab_size, hidden_size)", or nothing where no field is named.
std::string origin_of(const std::vector<Extent>& shape) {
  std::string names;
  for (const Extent& extent : shape) {
    if (!extent.fields.empty()) names += format(names.empty() ? "" : ", ", extent.fields);
  }
  return names.empty() ? names : format(" (the config's ", names, ")");
}

}  // namespace

Weights::Weights(const std::vector<std::string>& shard_paths, LoadProgress* progress) : progress_(progress) {
  if (shard_paths.empty()) throw InvalidCheckpoint("shards", "expected at least one safetensors file, got none");
  uint64_t bytes = 0;
  for (const std::string& path : shard_paths) {
    const size_t shard = shards_.size();
    const SafetensorsFile& file = shards_.emplace_back(path);
    for (size_t i = 0; i < file.entries().size(); ++i) {
      const SafetensorsEntry& entry = file.entries()[i];
      const auto [slot, inserted] = slots_.try_emplace(entry.name, Slot{.shard = shard, .entry = i});
      if (!inserted) refuse(entry.name, format("stands in ", shards_[slot->second.shard].name(), " and ", file.name()));
      bytes += entry.end - entry.begin;
    }
  }
  if (progress_ != nullptr) progress_->bytes_total += bytes;
}

Weights::Weights(std::map<std::string, Tensor> tensors) {
  for (auto& [name, tensor] : tensors) slots_.emplace(name, Slot{.tensor = std::move(tensor)});
}

bool Weights::contains(const std::string& name) const {
  return slots_.contains(name);
}

// The tensor of a slot, of this shape and of a float type.
Tensor Weights::found(const std::string& name, const Slot& slot, const std::vector<Extent>& shape) const {
  const std::vector<int64_t> sizes = sizes_of(shape);
  const auto expect = [&](const std::vector<int64_t>& stored, const std::optional<DType>& dtype,
                          std::string_view type) {
    if (stored != sizes) {
      refuse(name, format("expected shape ", shape_string(sizes), ", got ", shape_string(stored), origin_of(shape)));
    }
    if (!dtype || !is_float(*dtype)) refuse(name, format("expected F32, BF16 or F16, got ", type));
  };
  if (shards_.empty()) {
    expect(slot.tensor.shape(), slot.tensor.dtype(), name_of(slot.tensor.dtype()));
    return slot.tensor;
  }
  const SafetensorsFile& file = shards_[slot.shard];
  const SafetensorsEntry& entry = file.entries()[slot.entry];
  expect(entry.shape, entry.dtype, entry.dtype_name);
  return file.tensor(entry);
}

Tensor Weights::take(const std::string& name, const std::vector<Extent>& shape) {
  const auto at = slots_.find(name);
  if (at == slots_.end()) {
    refuse(name, format("missing, expected shape ", shape_string(sizes_of(shape)), origin_of(shape)));
  }
  Slot& slot = at->second;
  check(!slot.taken, "tensor ", name, " was taken twice");
  Tensor tensor = found(name, slot, shape);
  slot.taken = true;
  taken_elements_ += tensor.numel();
  return tensor;
}

void Weights::done(const std::string& name) {
  const auto at = slots_.find(name);
  check(at != slots_.end(), "done with unknown tensor ", name);
  if (shards_.empty()) return;
  const SafetensorsFile& file = shards_[at->second.shard];
  const SafetensorsEntry& entry = file.entries()[at->second.entry];
  file.release_pages(entry);
  if (progress_ != nullptr) progress_->bytes_done += entry.end - entry.begin;
}

std::vector<std::string> Weights::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, slot] : slots_) {
    if (!slot.taken) names.push_back(name);
  }
  return names;
}

}  // namespace pydllm
