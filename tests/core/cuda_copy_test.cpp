// The emulated kernels that only move bytes.
#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using ops::cuda::PageCopy;

TEST(CudaGatherRows, TakesRowsInAnyOrderAndTwice) {
  for (const int64_t dim : {1, 127, 128, 129, 300}) {
    const Tensor x = random_tensor({5, dim}, 1);
    const std::vector<int32_t> rows = {4, 0, 4, 2};
    const auto device = on_device<float>("x", x);
    const auto wanted = on_device("rows", rows);
    Buffer<float> out("out", static_cast<size_t>(4 * dim));
    ops::cuda::gather_rows(device->data(), wanted->data(), 4, dim, out.data(), nullptr);
    const Tensor result = to_host(out, {4, dim});
    for (int64_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bits(result.rows(i, 1), x.rows(rows[static_cast<size_t>(i)], 1)));
  }
}

// Keys and values of two layers: copied pages hold their source's bytes, all others what they held.
template <class T>
void expect_copied(int64_t kv_heads, int64_t page_size, int64_t head_dim) {
  const int64_t page = kv_heads * page_size * head_dim, pages = 6;
  const std::vector<PageCopy> copies = {{5, 0}, {2, 3}, {5, 1}};
  const std::vector<int64_t> source_of = {5, 5, 2, 2, 4, 5};
  std::vector<Tensor> before;
  std::vector<std::unique_ptr<Buffer<T>>> tensors;
  std::vector<void*> table;
  for (uint32_t i = 0; i < 4; ++i) {
    before.push_back(random_tensor({pages, page}, i, 1, DTypeOf<T>::value));
    tensors.push_back(on_device<T>("pages", before.back()));
    table.push_back(tensors.back()->data());
  }
  const auto device_table = on_device("tensors", table);
  const auto list = on_device("copies", copies);
  ops::cuda::copy_pages(device_table->data(), 4, list->data(), 3, page * static_cast<int64_t>(sizeof(T)), nullptr);
  for (size_t i = 0; i < 4; ++i) {
    const Tensor after = to_host(*tensors[i], {pages, page});
    for (int64_t p = 0; p < pages; ++p) {
      EXPECT_TRUE(same_bits(after.rows(p, 1), before[i].rows(source_of[static_cast<size_t>(p)], 1)))
          << "tensor " << i << ", page " << p;
    }
  }
}

TEST(CudaCopyPages, CopiesWholePagesOfEveryTensorAndNothingElse) {
  expect_copied<float>(1, 1, 1);
  expect_copied<float>(2, 4, 128);
  expect_copied<float>(3, 16, 43);
  expect_copied<BFloat16>(1, 3, 5);
  expect_copied<BFloat16>(1, 1, 8);
  expect_copied<BFloat16>(8, 16, 64);
}

TEST(CudaCopyPages, WhatIsNoElementOrTooManyIsAnInternalError) {
  EXPECT_INTERNAL_ERROR(ops::cuda::copy_pages(nullptr, 1, nullptr, 1, 33, nullptr), "copy_pages: expected pages of");
  EXPECT_INTERNAL_ERROR(ops::cuda::copy_pages(nullptr, 65536, nullptr, 1, 32, nullptr),
                        "copy_pages: expected at most 65535 tensors, got 65536");
}

}  // namespace
}  // namespace pydllm
