// A bounds-checked reader of safetensors files over a read-only memory map. The header is untrusted data.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace pydllm {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the header: "BF16"
  std::optional<DType> dtype;  // nothing for types of the format that the core does not hold (F64, BOOL, F8_E4M3, ...)
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

// Throws InvalidCheckpoint (field: file name without its directory; one line, what was expected and found) for: a file
// that cannot be opened, is no regular file or is shorter than its header; a header over 100 MB, not UTF-8, not the
// JSON object the format asks for, with duplicate keys or names, unknown dtypes, negative or overflowing shapes,
// offsets that leave the file, overlap, leave gaps or disagree with the shape.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  const std::string& name() const noexcept;  // file name without its directory
  const std::vector<SafetensorsEntry>& entries() const noexcept;
  // A view of the map (unaligned data are copied); the map lives as long as any view. Throws InvalidCheckpoint(name)
  // when the entry has no dtype.
  Tensor tensor(const SafetensorsEntry& entry) const;
  // Tells the kernel that these pages are no longer needed.
  void release_pages(const SafetensorsEntry& entry) const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace pydllm
