// Writes safetensors files for tests, well-formed or not.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace pydllm::testing {

// A directory of its own, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "pydllm-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw InternalError("no temporary directory");
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string file(std::string_view name) const { return (path_ / name).string(); }
  std::string write(std::string_view name, std::string_view bytes) const {
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string length_prefix(uint64_t length) {
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out;
}

// Header and data with a true length in front.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  return length_prefix(header.size()) + std::string(header) + std::string(data);
}

struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

template <class T>
void append_values(std::string& data, const std::vector<float>& values) {
  for (const float value : values) {
    T stored;
    if constexpr (std::is_same_v<T, float>) stored = value;
    if constexpr (std::is_same_v<T, BFloat16>) stored = to_bfloat16(value);
    if constexpr (std::is_same_v<T, Float16>) stored = to_float16(value);
    data.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
}

// A well-formed file that stores every tensor as T (float, BFloat16, Float16).
template <class T>
std::string safetensors_of(const std::vector<NamedTensor>& tensors) {
  const char* dtype = std::is_same_v<T, float> ? "F32" : std::is_same_v<T, BFloat16> ? "BF16" : "F16";
  std::string header = "{", data;
  for (const NamedTensor& tensor : tensors) {
    const size_t begin = data.size();
    append_values<T>(data, tensor.values);
    std::string shape;
    for (const int64_t extent : tensor.shape) shape += format(shape.empty() ? "" : ",", extent);
    header += format(header.size() > 1 ? "," : "", '"', tensor.name, R"(":{"dtype":")", dtype, R"(","shape":[)", shape,
                     R"(],"data_offsets":[)", begin, ",", data.size(), "]}");
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return safetensors_bytes(header, data);
}

}  // namespace pydllm::testing
