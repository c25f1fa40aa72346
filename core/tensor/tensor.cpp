#include "tensor/tensor.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <numeric>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "tensor/cuda/runtime.h"

namespace pydllm {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the width of the widest vector

// The product of the extents; the size in bytes must fit as well.
int64_t checked_numel(std::span<const int64_t> shape, DType dtype) {
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  bool overflow = false, zero = false;
  for (const int64_t extent : shape) {
    check(extent >= 0, "tensor: expected extents of at least 0, got shape ", shape_string(shape));
    if (extent == 0)
      zero = true;
    else
      overflow |= __builtin_mul_overflow(bytes, extent, &bytes);
  }
  check(!overflow, "tensor: shape ", shape_string(shape), " of ", name_of(dtype), " does not fit into memory");
  return zero ? 0 : bytes / static_cast<int64_t>(size_of(dtype));
}

// Large tensors start on a huge page and ask for more: streaming packed weights then takes a tenth of the page walks.
constexpr size_t kHugePage = size_t{2} << 20;

void* allocate_aligned(size_t bytes, size_t alignment) {
  // aligned_alloc wants a multiple of the alignment; an empty tensor still gets an address of its own.
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = nullptr;
  if (rounded < bytes || posix_memalign(&memory, alignment, rounded) != 0) throw std::bad_alloc();
  return memory;
}

std::shared_ptr<void> allocate(size_t bytes) {
  if (bytes < 2 * kHugePage) return {allocate_aligned(bytes, kAlignment), std::free};
  void* const memory = allocate_aligned(bytes, kHugePage);
#ifdef MADV_HUGEPAGE
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice: what it returns changes nothing
#endif
  return {memory, std::free};
}

}  // namespace

Tensor Tensor::empty(std::vector<int64_t> shape, DType dtype, Device device) {
  const size_t bytes = static_cast<size_t>(checked_numel(shape, dtype)) * size_of(dtype);
  std::shared_ptr<void> memory = device.type == DeviceType::kCpu ? allocate(bytes) : cudart::allocate(device, bytes);
  void* const data = memory.get();
  return borrow(data, std::move(shape), dtype, device, std::move(memory));
}

Tensor Tensor::zeros(std::vector<int64_t> shape, DType dtype, Device device) {
  check(device.type == DeviceType::kCpu, "tensor: zeros on ", name_of(device));
  Tensor out = empty(std::move(shape), dtype);
  std::memset(out.raw(), 0, out.nbytes());
  return out;
}

Tensor Tensor::borrow(void* data, std::vector<int64_t> shape, DType dtype, Device device,
                      std::shared_ptr<const void> owner) {
  const int64_t numel = checked_numel(shape, dtype);
  check(data != nullptr || numel == 0, "tensor: null memory borrowed for shape ", shape_string(shape));
  Tensor out;
  out.data_ = data;
  out.shape_ = std::move(shape);
  out.dtype_ = dtype;
  out.device_ = device;
  out.owner_ = std::move(owner);
  return out;
}

int64_t Tensor::numel() const noexcept {
  if (!defined()) return 0;
  return std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<>());
}

Tensor Tensor::view(std::vector<int64_t> shape) const {
  check(defined(), "tensor: view of an undefined tensor");
  check(checked_numel(shape, dtype_) == numel(), "tensor: cannot view shape ", shape_string(shape_), " as ",
        shape_string(shape));
  Tensor out = *this;
  out.shape_ = std::move(shape);
  return out;
}

Tensor Tensor::rows(int64_t begin, int64_t count) const {
  check(rank() >= 1, "tensor: rows of shape ", shape_string(shape_));
  check(begin >= 0 && count >= 0 && begin <= shape_[0] && count <= shape_[0] - begin, "tensor: rows ", begin, " to ",
        begin, " + ", count, " are outside shape ", shape_string(shape_));
  Tensor out = *this;
  out.shape_[0] = count;
  const size_t row_bytes = shape_[0] == 0 ? 0 : nbytes() / static_cast<size_t>(shape_[0]);
  if (row_bytes != 0) out.data_ = static_cast<std::byte*>(data_) + static_cast<size_t>(begin) * row_bytes;
  return out;
}

std::string shape_string(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

void expect_dtype(const Tensor& tensor, const char* name, DType dtype) {
  check(tensor.defined(), name, ": expected ", name_of(dtype), ", got an undefined tensor");
  check(tensor.dtype() == dtype, name, ": expected ", name_of(dtype), ", got ", name_of(tensor.dtype()));
}

void expect_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
  const std::span<const int64_t> expected(shape.begin(), shape.size());
  check(std::equal(expected.begin(), expected.end(), tensor.shape().begin(), tensor.shape().end()), name,
        ": expected shape ", shape_string(expected), ", got ", shape_string(tensor.shape()));
}

}  // namespace pydllm
