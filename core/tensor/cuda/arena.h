// Memory that the ops of one step need beside their tensors: small inputs on their way to the device, work space.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "tensor/cuda/runtime.h"

namespace pydllm::cudart {

// Hands out memory that stays valid until reset(). One thread, one stream.
class Arena {
 public:
  Arena(Device device, Stream stream) : device_(device), stream_(stream) {}

  Stream stream() const { return stream_; }

  // On the device, 256-byte aligned, uninitialised; never null.
  template <class T>
  T* take(size_t count) {
    return static_cast<T*>(on_device_.take(device_, allocate, count * sizeof(T)));
  }

  // A copy on the device. `values` may change when the call returns.
  template <class T>
  T* upload(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    void* const staged = pinned_.take(device_, allocate_pinned, values.size_bytes());
    if (!values.empty()) std::memcpy(staged, values.data(), values.size_bytes());
    T* const out = take<T>(values.size());
    copy(out, staged, values.size_bytes(), stream_);
    return out;
  }

  // Waits until the copy is done.
  void download(void* to, const void* from, size_t bytes);

  // Waits for the stream; then everything handed out is free again.
  void reset();

 private:
  struct Chunk {
    std::shared_ptr<void> memory;
    size_t bytes = 0;
  };
  class Pile {
   public:
    void* take(Device device, std::shared_ptr<void> (*allocate)(Device, size_t), size_t bytes);
    void clear();

   private:
    std::vector<Chunk> chunks_;  // the last one is in use
    size_t used_ = 0;
  };

  Device device_;
  Stream stream_;
  Pile on_device_, pinned_;
};

}  // namespace pydllm::cudart
