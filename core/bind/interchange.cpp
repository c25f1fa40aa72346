// What the protocols for foreign tensors have in common.
#include <cstdint>

#include "base/check.h"
#include "bind/tensor.h"

namespace pydllm::bind {

void refuse_producer(const std::string& why) {
  throw py::value_error("producer: " + why);
}

void check_shape(const std::vector<int64_t>& shape, DType dtype) {
  auto bytes = static_cast<int64_t>(size_of(dtype));
  for (const int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) refuse_producer("the shape overflows");
  }
}

void check_strides(const std::vector<int64_t>& shape, const int64_t* strides, int64_t step) {
  int64_t expected = step;
  for (size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] == 0) return;
    if (shape[axis] != 1 && strides[axis] != expected) {
      refuse_producer("expected a contiguous row-major tensor, got strides that are not");
    }
    expected *= shape[axis];
  }
}

void check_address(const void* data, DType dtype) {
  if (reinterpret_cast<uintptr_t>(data) % size_of(dtype) != 0) refuse_producer("the data are not aligned to the dtype");
}

}  // namespace pydllm::bind
