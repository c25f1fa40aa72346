#include "tensor/cuda/arena.h"

#include <algorithm>

#include "tensor/cuda/built.h"

namespace pydllm::cudart {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kSmallestChunk = size_t{1} << 20;

// The emulation guards both ends of each piece, so that each is a chunk of its own.
size_t chunk_bytes(size_t wanted, size_t last) {
  return kCudaIsEmulated ? wanted : std::max({wanted, kSmallestChunk, 2 * last});
}

}  // namespace

void* Arena::Pile::take(Device device, std::shared_ptr<void> (*allocate)(Device, size_t), size_t bytes) {
  const size_t rounded =
      kCudaIsEmulated ? bytes : std::max((bytes + kAlignment - 1) / kAlignment, size_t{1}) * kAlignment;
  if (kCudaIsEmulated || chunks_.empty() || chunks_.back().bytes - used_ < rounded) {
    const size_t size = chunk_bytes(rounded, chunks_.empty() ? 0 : chunks_.back().bytes);
    chunks_.push_back({allocate(device, size), size});
    used_ = 0;
  }
  void* const out = static_cast<std::byte*>(chunks_.back().memory.get()) + used_;
  used_ += rounded;
  return out;
}

// The last chunk is the largest: a step like the last one fits into it.
void Arena::Pile::clear() {
  if (!chunks_.empty()) chunks_.erase(chunks_.begin(), chunks_.end() - (kCudaIsEmulated ? 0 : 1));
  used_ = 0;
}

void Arena::download(void* to, const void* from, size_t bytes) {
  copy(to, from, bytes, stream_);
  synchronize(stream_);
}

void Arena::reset() {
  synchronize(stream_);
  on_device_.clear();
  pinned_.clear();
}

}  // namespace pydllm::cudart
