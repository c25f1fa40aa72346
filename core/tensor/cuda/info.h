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
    uint64_t free_bytes = 0;  // that a new allocation may take now; 0 when `error` is not empty
    std::string error;        // why the device cannot be used, in CUDA's words; empty when it can
  };
  bool built = false;           // this build contains CUDA code
  std::string runtime_version;  // of the linked runtime, "13.0"; empty when not built
  std::string driver_version;   // the newest CUDA that the driver supports, "13.1"; empty without a driver
  std::string error;            // why there is no device, in words; empty when there is one
  std::vector<Device> devices;
};

// Never throws for a missing or broken driver: the reason is in `error`. Asking for the free memory makes a context on
// every device (some hundred MB of it, until the process ends).
CudaInfo cuda_info();

}  // namespace pydllm
