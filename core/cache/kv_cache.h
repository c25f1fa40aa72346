// The K/V memory of a model: one pair of page tensors per layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/page_pool.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm {

struct KvShape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t page_size = 0;  // positions per page
  DType dtype = DType::kF32;
  int64_t bytes_per_page() const;  // over all layers, keys and values
};

class KvCache {
 public:
  KvCache(const KvShape& shape, int32_t pages, Device device);

  const KvShape& shape() const noexcept { return shape_; }
  int32_t pages() const noexcept { return pages_; }
  // float32 | bfloat16 [pages, kv_heads, page_size, head_dim]
  Tensor& keys(int32_t layer) { return keys_.at(static_cast<size_t>(layer)); }
  Tensor& values(int32_t layer) { return values_.at(static_cast<size_t>(layer)); }

  // Fills a page with NaN in every layer, so that reading a freed page shows (debug checks).
  void poison(const Context& context, PageId page);

 private:
  KvShape shape_;
  int32_t pages_;
  std::vector<Tensor> keys_;
  std::vector<Tensor> values_;
};

// Slot of a position: pages[position / page_size] * page_size + position % page_size.
int64_t slot_of(std::span<const PageId> pages, int32_t page_size, int32_t position);

}  // namespace pydllm
