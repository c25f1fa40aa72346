// What the core wants of a CUDA device: memory, a stream, copies. No CUDA header, so that everyone may include it. One
// of three files implements it: runtime.cu on a device, ops/cuda/emulated_runtime.cpp in test builds (kernels run on
// the CPU), runtime_none.cpp where nvcc is absent.
//
// Errors: a device that is not there or cannot be used is Unsupported("device"); memory that is not to be had is
// ResourceExhausted; a failure that leaves the device unusable for the rest of the process is DeviceLost; everything
// else is InternalError. All name what was tried.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

struct CUstream_st;

namespace pydllm::cudart {

using Stream = CUstream_st*;  // cudaStream_t

// Throws unless this process can compute on `device`; the message says why not and what to do.
void expect_usable(Device device);

// The calling thread launches kernels on `device` from now on.
void use(Device device);

struct Memory {
  size_t free = 0;
  size_t total = 0;  // bytes of the device
};
Memory memory(Device device);

// At least 256-byte aligned, uninitialised.
std::shared_ptr<void> allocate(Device device, size_t bytes);
// Host memory that copies to and from the device without a detour.
std::shared_ptr<void> allocate_pinned(Device device, size_t bytes);

std::shared_ptr<CUstream_st> make_stream(Device device);

// In the order of the stream. Either side may be host memory; ordinary host memory that is copied from may be reused
// when the call returns, pinned memory when the copy is done.
void copy(void* to, const void* from, size_t bytes, Stream stream);
void fill(void* to, uint8_t byte, size_t bytes, Stream stream);
// Waits for everything on the stream.
void synchronize(Stream stream);

}  // namespace pydllm::cudart
