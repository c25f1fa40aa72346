// The CUDA driver of this process, if torch, CuPy or a CUDA runtime has loaded it: what taking over a foreign tensor
// asks of it. Never loads it: without a driver in the process there is no work on a device to wait for.
#pragma once

#include <cstdint>
#include <optional>

namespace pydllm {

// Handles of streams with a fixed meaning, the same in the driver, DLPack and __cuda_array_interface__.
inline constexpr uintptr_t kLegacyDefaultStream = 1;
inline constexpr uintptr_t kPerThreadDefaultStream = 2;

// Blocks until everything that was queued on `stream` of this device (its primary context) is done. InternalError names
// the call of the driver that failed and its error.
void wait_for_cuda_stream(int device, uintptr_t stream);

// The device whose memory this is; nothing when the process has no driver or the driver does not know the address.
std::optional<int> cuda_device_of(const void* pointer);

}  // namespace pydllm
