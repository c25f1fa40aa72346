#include "tensor/context.h"

namespace pydllm {

Workplace::Workplace(int threads, Device device) : pool_(threads), context_{.device = device, .pool = &pool_} {
  if (device.type != DeviceType::kCuda) return;
  cudart::expect_usable(device);
  stream_ = cudart::make_stream(device);
  context_.arena = &arena_.emplace(device, stream_.get());
}

}  // namespace pydllm
