#include "tensor/cuda_problems.h"

#include <array>
#include <charconv>
#include <utility>

#include "base/check.h"

namespace pydllm {
namespace {

// "13.1" is {13, 1}; what is no version is {0, 0}.
std::pair<int, int> numbers(const std::string& version) {
  std::pair<int, int> out{0, 0};
  const char* const end = version.data() + version.size();
  const auto [stop, error] = std::from_chars(version.data(), end, out.first);
  if (error == std::errc() && stop != end && *stop == '.') std::from_chars(stop + 1, end, out.second);
  return out;
}

struct MinimumDriver {
  int cuda_major;
  int driver;  // branch of the Linux driver
};
// "CUDA Compatibility", table 1 of minor version compatibility.
constexpr std::array<MinimumDriver, 3> kMinimumDrivers = {{{11, 450}, {12, 525}, {13, 580}}};

// What to do so that the driver supports `runtime`.
std::string update_driver(const std::string& runtime) {
  for (const MinimumDriver& row : kMinimumDrivers) {
    if (row.cuda_major == numbers(runtime).first)
      return format("update the NVIDIA driver to ", row.driver, " or newer");
  }
  return format("update the NVIDIA driver to one for CUDA ", runtime);
}

// Within one major version a driver runs what a newer runtime was built for, except PTX that it cannot compile.
std::string driver_problem(const CudaInfo& info) {
  if (info.driver_version.empty()) {
    return format("no NVIDIA driver was found, this build's CUDA runtime ", info.runtime_version,
                  " needs one: install the NVIDIA driver");
  }
  const auto driver = numbers(info.driver_version), runtime = numbers(info.runtime_version);
  if (driver >= runtime) return "";
  const std::string versions = format("the NVIDIA driver supports CUDA ", info.driver_version,
                                      ", older than this build's CUDA runtime ", info.runtime_version, ": ");
  if (driver.first < runtime.first) return versions + update_driver(info.runtime_version);
  return format(versions, "GPUs newer than the kernels in this build will not work until the driver supports CUDA ",
                info.runtime_version);
}

}  // namespace

std::string cuda_device_problem(const CudaInfo& info, size_t index) {
  const CudaInfo::Device& device = info.devices.at(index);
  const std::string name = format("cuda:", index, " (", device.name, ")");
  if (device.major == 0) return format("cuda:", index, ": ", device.error);
  if (device.major < kOldestComputeCapability) {
    return format(name, ": expected compute capability ", kOldestComputeCapability, ".0 or newer, got ", device.major,
                  ".", device.minor);
  }
  return device.error.empty() ? "" : format(name, ": ", device.error);
}

std::vector<std::string> cuda_problems(const CudaInfo& info) {
  if (!info.built) return {info.error};
  std::vector<std::string> problems;
  const std::string driver = driver_problem(info);
  if (!driver.empty()) problems.push_back(driver);
  // Without a driver, and with an old one, CUDA's own words are the same and say less.
  const bool explained =
      info.driver_version.empty() || numbers(info.driver_version).first < numbers(info.runtime_version).first;
  if (!info.error.empty() && !explained) problems.push_back(info.error);
  for (size_t index = 0; index < info.devices.size(); ++index) {
    const std::string problem = cuda_device_problem(info, index);
    if (!problem.empty()) problems.push_back(problem);
  }
  return problems;
}

}  // namespace pydllm
