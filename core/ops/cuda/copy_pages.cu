#include "ops/cuda/launch.h"

namespace pydllm::ops::cuda {

constexpr unsigned kCopyThreads = 256;

struct alignas(16) PageChunk {
  uint32_t words[4];
};

// Block (copy, tensor), in pieces of one type.
template <class Piece>
__global__ void __launch_bounds__(kCopyThreads)
    copy_pages_kernel(void* const* tensors, const PageCopy* copies, int64_t pieces) {
  const PageCopy copy = copies[blockIdx.x];
  auto* tensor = static_cast<Piece*>(tensors[blockIdx.y]);
  const Piece* from = tensor + copy.from * pieces;
  Piece* to = tensor + copy.to * pieces;
  for (int64_t i = threadIdx.x; i < pieces; i += kCopyThreads) to[i] = from[i];
}

void copy_pages(void* const* tensors, int64_t tensor_count, const PageCopy* copies, int64_t copy_count,
                int64_t page_bytes, Stream stream) {
  if (tensor_count == 0 || copy_count == 0 || page_bytes == 0) return;
  check(tensor_count <= 65535, "copy_pages: expected at most 65535 tensors, got ", tensor_count);
  check(page_bytes % 2 == 0, "copy_pages: expected pages of whole elements of 2 or 4 bytes, got ", page_bytes,
        " bytes");
  const dim3 grid{blocks("copy_pages", copy_count), static_cast<unsigned>(tensor_count), 1};
  if (page_bytes % static_cast<int64_t>(sizeof(PageChunk)) == 0) {
    launch("copy_pages", copy_pages_kernel<PageChunk>, grid, kCopyThreads, 0, stream, tensors, copies,
           page_bytes / static_cast<int64_t>(sizeof(PageChunk)));
  } else {
    launch("copy_pages", copy_pages_kernel<uint16_t>, grid, kCopyThreads, 0, stream, tensors, copies, page_bytes / 2);
  }
}

}  // namespace pydllm::ops::cuda
