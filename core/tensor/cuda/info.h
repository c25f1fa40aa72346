// What CUDA this build and this machine offer. No CUDA header, so that everyone may include it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pydllm {

struct CudaInfo {
  struct Device {
    std::string name;
    int major = 0;  // compute capability
    int minor = 0;
    uint64_t memory_bytes = 0;
  };
  bool built = false;           // this build contains CUDA code
  std::string runtime_version;  // of the linked runtime, "13.0"; empty when not built
  std::string error;            // why there is no usable device, in words; empty when there is one
  std::vector<Device> devices;
};

// Never throws for a missing or broken driver: the reason is in `error`.
CudaInfo cuda_info();

}  // namespace pydllm
