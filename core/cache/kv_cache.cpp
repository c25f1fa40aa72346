#include "cache/kv_cache.h"

#include <cstring>

#include "base/check.h"

namespace pydllm {
namespace {

void expect_shape_fields(const KvShape& shape) {
  check(shape.layers >= 1, "layers: expected >= 1, got ", shape.layers);
  check(shape.kv_heads >= 1, "kv_heads: expected >= 1, got ", shape.kv_heads);
  check(shape.head_dim >= 1, "head_dim: expected >= 1, got ", shape.head_dim);
  check(shape.page_size >= 1, "page_size: expected >= 1, got ", shape.page_size);
  check(shape.dtype == DType::kF32 || shape.dtype == DType::kBF16, "dtype: expected float32 or bfloat16, got ",
        name_of(shape.dtype));
}

// 0xFF in every byte: not a number in both types of a page.
void poison_page(const Context& context, const Tensor& page) {
  if (page.device().type == DeviceType::kCpu) {
    std::memset(page.raw(), 0xFF, page.nbytes());
  } else {
    check(context.arena != nullptr, "poison: the context has no arena");
    cudart::fill(page.raw(), 0xFF, page.nbytes(), context.arena->stream());
  }
}

}  // namespace

int64_t KvShape::bytes_per_page() const {
  int64_t bytes = 2 * static_cast<int64_t>(size_of(dtype));
  for (const int32_t extent : {layers, kv_heads, page_size, head_dim}) {
    check(extent >= 0 && !__builtin_mul_overflow(bytes, static_cast<int64_t>(extent), &bytes),
          "bytes_per_page: the shape is out of range");
  }
  return bytes;
}

KvCache::KvCache(const KvShape& shape, int32_t pages, Device device) : shape_(shape), pages_(pages) {
  expect_shape_fields(shape);
  check(pages >= 0, "pages: expected >= 0, got ", pages);
  const std::vector<int64_t> extents{pages, shape.kv_heads, shape.page_size, shape.head_dim};
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(Tensor::empty(extents, shape.dtype, device));
    values_.push_back(Tensor::empty(extents, shape.dtype, device));
  }
}

void KvCache::poison(const Context& context, PageId page) {
  check(page >= 0 && page < pages_, "poison: expected 0 <= page < ", pages_, ", got ", page);
  for (const std::vector<Tensor>* tensors : {&keys_, &values_}) {
    for (const Tensor& tensor : *tensors) poison_page(context, tensor.rows(page, 1));
  }
}

int64_t slot_of(std::span<const PageId> pages, int32_t page_size, int32_t position) {
  check(page_size >= 1, "page_size: expected >= 1, got ", page_size);
  const int32_t index = position / page_size;
  check(position >= 0 && static_cast<size_t>(index) < pages.size(), "position: ", position, " is beyond ", pages.size(),
        " pages of ", page_size);
  return static_cast<int64_t>(pages[static_cast<size_t>(index)]) * page_size + position % page_size;
}

}  // namespace pydllm
