// tensor/cuda/runtime.h in test builds: one device, cuda:0, whose memory is guarded host memory and whose streams do
// everything at once.
#include <cstring>

#include "base/check.h"
#include "ops/cuda/emulation.h"
#include "tensor/cuda/info.h"
#include "tensor/cuda/runtime.h"

namespace pydllm {
namespace {

constexpr size_t kMemory = size_t{4} << 30;

}  // namespace

namespace cudart {

using ops::cuda::emulation::Buffer;

void expect_usable(Device device) {
  if (device.index != 0) {
    throw Unsupported("device",
                      format("device: expected cuda:0, the emulated device of a test build, got ", name_of(device)));
  }
}

void use(Device device) {
  expect_usable(device);
}

Memory memory(Device) {
  return {kMemory, kMemory};
}

std::shared_ptr<void> allocate(Device device, size_t bytes) {
  if (bytes > kMemory) {
    throw ResourceExhausted(format("device: ", name_of(device), " has no ", bytes, " bytes left"));
  }
  auto buffer = std::make_shared<Buffer<unsigned char>>("device memory", bytes);
  return {buffer, buffer->data()};
}

std::shared_ptr<void> allocate_pinned(Device device, size_t bytes) {
  return allocate(device, bytes);
}

std::shared_ptr<CUstream_st> make_stream(Device) {
  return nullptr;
}

void copy(void* to, const void* from, size_t bytes, Stream) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void fill(void* to, uint8_t byte, size_t bytes, Stream) {
  if (bytes > 0) std::memset(to, byte, bytes);
}

void synchronize(Stream) {
  if (ops::cuda::emulation::device_is_lost()) throw DeviceLost("cudaStreamSynchronize: the emulated device is lost");
}

}  // namespace cudart

CudaInfo cuda_info() {
  CudaInfo info;
  info.built = true;
  info.runtime_version = "emulated";
  CudaInfo::Device device;
  device.name = "CUDA on the CPU (emulation for tests)";
  device.major = 8;
  device.memory_bytes = device.free_bytes = kMemory;
  info.devices.push_back(device);
  return info;
}

}  // namespace pydllm
