// Where a tensor lives.
#pragma once

#include <string>
#include <string_view>

namespace pydllm {

enum class DeviceType : int { kCpu = 1, kCuda = 2 };  // values of DLPack's DLDeviceType

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string name_of(Device device);  // "cpu", "cuda:0"
// "cpu", "cuda", "cuda:1"; throws InvalidRequest("device") otherwise.
Device device_from_name(std::string_view name);

}  // namespace pydllm
