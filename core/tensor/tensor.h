// A contiguous, row-major, shared-storage tensor. Copies are views; views keep their storage alive.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace pydllm {

class Tensor {
 public:
  Tensor() = default;

  // Uninitialised, 64-byte aligned. Throws InternalError on a negative or overflowing shape, std::bad_alloc when
  // memory is short.
  static Tensor empty(std::vector<int64_t> shape, DType dtype, Device device = {});
  static Tensor zeros(std::vector<int64_t> shape, DType dtype, Device device = {});
  // Memory owned by `owner` (a memory map, another framework); `owner` lives as long as any view.
  static Tensor borrow(void* data, std::vector<int64_t> shape, DType dtype, Device device,
                       std::shared_ptr<const void> owner);
  template <class T>
  static Tensor from(std::span<const T> values) {
    Tensor out = empty({static_cast<int64_t>(values.size())}, DTypeOf<T>::value);
    std::copy(values.begin(), values.end(), out.data<T>());
    return out;
  }

  bool defined() const noexcept { return data_ != nullptr || !shape_.empty(); }
  const std::vector<int64_t>& shape() const noexcept { return shape_; }
  int rank() const noexcept { return static_cast<int>(shape_.size()); }
  int64_t size(int axis) const { return shape_.at(static_cast<size_t>(axis)); }
  int64_t numel() const noexcept;
  size_t nbytes() const noexcept { return static_cast<size_t>(numel()) * size_of(dtype_); }
  DType dtype() const noexcept { return dtype_; }
  Device device() const noexcept { return device_; }
  const std::shared_ptr<const void>& owner() const noexcept { return owner_; }

  void* raw() const noexcept { return data_; }
  // Throws InternalError when T is not the element type.
  template <class T>
  T* data() const {
    check(DTypeOf<T>::value == dtype_, "tensor holds ", name_of(dtype_), ", asked for ", name_of(DTypeOf<T>::value));
    return static_cast<T*>(data_);
  }

  // Same storage, another shape with the same number of elements.
  Tensor view(std::vector<int64_t> shape) const;
  // Rows [begin, begin + count) of the first axis; same storage.
  Tensor rows(int64_t begin, int64_t count) const;

 private:
  void* data_ = nullptr;
  std::vector<int64_t> shape_;
  DType dtype_ = DType::kF32;
  Device device_;
  std::shared_ptr<const void> owner_;
};

std::string shape_string(std::span<const int64_t> shape);  // "[3, 64]"

// The extents of a rank-N tensor, or InternalError naming it: const auto [rows, dim] = shape_of<2>(x, "x");
template <size_t N>
std::array<int64_t, N> shape_of(const Tensor& tensor, const char* name) {
  check(tensor.shape().size() == N, name, ": expected rank ", N, ", got shape ", shape_string(tensor.shape()));
  std::array<int64_t, N> out;
  std::copy(tensor.shape().begin(), tensor.shape().end(), out.begin());
  return out;
}

// InternalError unless the tensor has this dtype (and shape); the message names it.
void expect_dtype(const Tensor& tensor, const char* name, DType dtype);
void expect_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape);

}  // namespace pydllm
