#include "cache/kv_cache.h"

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

KvShape small_shape(DType dtype) {
  return {.layers = 2, .kv_heads = 3, .head_dim = 5, .page_size = 4, .dtype = dtype};
}

TEST(KvCache, HasOnePairOfPageTensorsPerLayer) {
  KvCache cache(small_shape(DType::kBF16), 7, Device{});
  for (int32_t layer = 0; layer < 2; ++layer) {
    for (const Tensor& tensor : {cache.keys(layer), cache.values(layer)}) {
      EXPECT_EQ(tensor.shape(), (std::vector<int64_t>{7, 3, 4, 5}));
      EXPECT_EQ(tensor.dtype(), DType::kBF16);
    }
  }
  EXPECT_NE(cache.keys(0).raw(), cache.values(0).raw());
  EXPECT_NE(cache.keys(0).raw(), cache.keys(1).raw());
  EXPECT_EQ(cache.shape().bytes_per_page(), 2 * 2 * 3 * 5 * 4 * 2);
  EXPECT_EQ(static_cast<size_t>(7 * cache.shape().bytes_per_page()), 4 * cache.keys(0).nbytes());
}

TEST(KvCache, PoisonFillsExactlyOnePageOfEveryLayerWithNaN) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    KvCache cache(small_shape(dtype), 3, Device{});
    std::vector<Tensor> tensors{cache.keys(0), cache.values(0), cache.keys(1), cache.values(1)};
    for (const Tensor& tensor : tensors) std::memset(tensor.raw(), 0, tensor.nbytes());
    cache.poison(Context{}, 1);
    for (const Tensor& tensor : tensors) {
      for (int64_t i = 0; i < tensor.numel(); ++i) {
        const bool inside = i / 60 == 1;
        ASSERT_EQ(std::isnan(at(tensor, i)), inside);
        ASSERT_TRUE(inside || at(tensor, i) == 0);
      }
    }
  }
}

TEST(KvCache, SlotsFollowThePageTable) {
  const std::vector<PageId> pages{5, 0, 9};
  EXPECT_EQ(slot_of(pages, 4, 0), 20);
  EXPECT_EQ(slot_of(pages, 4, 3), 23);
  EXPECT_EQ(slot_of(pages, 4, 4), 0);
  EXPECT_EQ(slot_of(pages, 4, 11), 39);
  EXPECT_EQ(slot_of(pages, 1, 2), 9);
  const std::vector<PageId> far{2000000000};
  EXPECT_EQ(slot_of(far, 64, 63), int64_t{2000000000} * 64 + 63);
  EXPECT_INTERNAL_ERROR(slot_of(pages, 4, 12), "position: 12 is beyond 3 pages of 4");
  EXPECT_INTERNAL_ERROR(slot_of(pages, 4, -1), "position");
  EXPECT_INTERNAL_ERROR(slot_of(pages, 0, 1), "page_size");
}

TEST(KvCache, BadShapesAndPagesAreInternalErrors) {
  KvShape shape = small_shape(DType::kF16);
  EXPECT_INTERNAL_ERROR(KvCache(shape, 1, Device{}), "dtype: expected float32 or bfloat16, got float16");
  shape = small_shape(DType::kF32);
  shape.layers = 0;
  EXPECT_INTERNAL_ERROR(KvCache(shape, 1, Device{}), "layers");
  EXPECT_INTERNAL_ERROR(KvCache(small_shape(DType::kF32), -1, Device{}), "pages");
  shape = {.layers = 1 << 30, .kv_heads = 1 << 30, .head_dim = 1 << 30, .page_size = 16, .dtype = DType::kF32};
  EXPECT_INTERNAL_ERROR(shape.bytes_per_page(), "out of range");
  KvCache cache(small_shape(DType::kF32), 2, Device{});
  EXPECT_INTERNAL_ERROR(cache.poison(Context{}, 2), "poison: expected 0 <= page < 2, got 2");
  EXPECT_INTERNAL_ERROR(cache.poison(Context{}, -1), "poison");
}

}  // namespace
}  // namespace pydllm
