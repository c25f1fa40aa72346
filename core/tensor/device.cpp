#include "tensor/device.h"

#include <charconv>
#include <string>

#include "base/check.h"

namespace pydllm {

std::string name_of(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Device device_from_name(std::string_view name) {
  if (name == "cpu") return {};
  if (name == "cuda") return {DeviceType::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (name.starts_with(kPrefix)) {
    const char* const end = name.data() + name.size();
    int index = -1;
    const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, index);
    if (error == std::errc() && stop == end && index >= 0) return {DeviceType::kCuda, index};
  }
  throw InvalidRequest("device", format("device: expected cpu, cuda or cuda:N, got \"", name, "\""));
}

}  // namespace pydllm
