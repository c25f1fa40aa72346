#include "tensor/copy.h"

#include <cstring>

#include "base/check.h"

namespace pydllm {

void copy(const Context& context, const Tensor& from, const Tensor& to) {
  expect_dtype(to, "copy", from.dtype());
  check(from.shape() == to.shape(), "copy: expected shape ", shape_string(from.shape()), ", got ",
        shape_string(to.shape()));
  if (from.nbytes() == 0) return;
  const bool from_host = from.device().type == DeviceType::kCpu, to_host = to.device().type == DeviceType::kCpu;
  if (from_host && to_host) {
    std::memcpy(to.raw(), from.raw(), from.nbytes());
    return;
  }
  check(context.arena != nullptr, "copy: the context has no arena");
  cudart::copy(to.raw(), from.raw(), from.nbytes(), context.arena->stream());
  if (to_host) cudart::synchronize(context.arena->stream());
}

Tensor to_device(const Context& context, const Tensor& tensor) {
  if (tensor.device() == context.device) return tensor;
  Tensor out = Tensor::empty(tensor.shape(), tensor.dtype(), context.device);
  copy(context, tensor, out);
  return out;
}

Tensor to_device_for_step(const Context& context, const Tensor& tensor) {
  if (tensor.device() == context.device) return tensor;
  check(context.arena != nullptr, "copy: the context has no arena");
  const std::span bytes(static_cast<const std::byte*>(tensor.raw()), tensor.nbytes());
  return Tensor::borrow(context.arena->upload(bytes), tensor.shape(), tensor.dtype(), context.device, nullptr);
}

}  // namespace pydllm
