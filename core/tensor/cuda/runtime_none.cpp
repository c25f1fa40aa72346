#include "base/check.h"
#include "tensor/cuda/runtime.h"

namespace pydllm::cudart {
namespace {

[[noreturn]] void refuse() {
  throw Unsupported("device",
                    "device: this build has no CUDA code (it was built without nvcc or without an NVIDIA driver); use "
                    "cpu, or build again where both are");
}

}  // namespace

void expect_usable(Device) {
  refuse();
}
void use(Device) {
  refuse();
}
Memory memory(Device) {
  refuse();
}
std::shared_ptr<void> allocate(Device, size_t) {
  refuse();
}
std::shared_ptr<void> allocate_pinned(Device, size_t) {
  refuse();
}
std::shared_ptr<CUstream_st> make_stream(Device) {
  refuse();
}
void copy(void*, const void*, size_t, Stream) {
  refuse();
}
void fill(void*, uint8_t, size_t, Stream) {
  refuse();
}
void synchronize(Stream) {
  refuse();
}

}  // namespace pydllm::cudart
