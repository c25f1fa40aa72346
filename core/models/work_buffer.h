// Scratch memory of a model, kept between forwards and grown when a larger batch comes.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace pydllm {

class WorkBuffer {
 public:
  WorkBuffer(int64_t width, DType dtype, Device device) : width_(width), dtype_(dtype), device_(device) {}

  // [count, width], uninitialised; valid until the next call with a larger count.
  Tensor rows(int64_t count) {
    if (!storage_.defined() || storage_.size(0) < count) storage_ = Tensor::empty({count, width_}, dtype_, device_);
    return storage_.rows(0, count);
  }

 private:
  int64_t width_;
  DType dtype_;
  Device device_;
  Tensor storage_;
};

}  // namespace pydllm
