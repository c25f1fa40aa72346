// Runs CUDA kernels on the CPU, compiled by the host compiler from the very same sources. For tests: the library that
// ships contains none of it.
//
// Every CUDA thread of a block is a fiber; blocks run one after another. A fiber runs until a barrier or a warp
// operation and the fibers that may go on are taken in an order drawn anew each time (from a fixed seed), so that a
// missing barrier shows. What is found:
//   * a barrier or warp operation that not all threads reach, or that they reach at different places in the source
//   * shared memory read before it was written: it starts as NaN in every block
//   * asynchronous copies used before they were waited for: they happen at the wait
//   * asynchronous copies and matrix loads at addresses that are not multiples of 16 bytes
//   * writes outside a Buffer or the shared memory; with AddressSanitizer also reads
// What is not found: races between blocks, or between the lanes of a warp without a warp operation between them in an
// order that is never drawn; anything about speed, alignment of other accesses, or the hardware's own rounding
// order.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include "base/check.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace pydllm::ops::cuda::emulation {

// A kernel broke the rules of CUDA; the message names the kernel and what happened.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Where = std::source_location;

#ifdef __SANITIZE_ADDRESS__
inline void poison(const void* p, size_t n) {
  __asan_poison_memory_region(p, n);
}
inline void unpoison(const void* p, size_t n) {
  __asan_unpoison_memory_region(p, n);
}
#else
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

// Bytes between two guard zones. Everything starts as 0xFF: NaN in each float type, -1 in each signed integer.
class Guarded {
 public:
  static constexpr size_t kGuard = 256;

  Guarded(std::string name, size_t bytes)
      : name_(std::move(name)), bytes_(bytes), memory_(new unsigned char[bytes + 2 * kGuard + kAlign]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    begin_ = memory_.get() + ((address + kGuard + kAlign - 1) / kAlign * kAlign - address);
    std::memset(begin_ - kGuard, 0xFF, bytes + 2 * kGuard);
    poison(begin_ - kGuard, kGuard);
    poison(begin_ + bytes_, kGuard);
  }
  ~Guarded() { unpoison(begin_ - kGuard, bytes_ + 2 * kGuard); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  const std::string& name() const { return name_; }
  unsigned char* data() const { return begin_; }
  size_t bytes() const { return bytes_; }
  void forget() { std::memset(begin_, 0xFF, bytes_); }

  // AddressSanitizer stops a write by itself, at the instruction.
  bool intact() const {
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    const auto untouched = [](unsigned char byte) { return byte == 0xFF; };
    return std::all_of(begin_ - kGuard, begin_, untouched) &&
           std::all_of(begin_ + bytes_, begin_ + bytes_ + kGuard, untouched);
#endif
  }

 private:
  static constexpr size_t kAlign = 64;
  std::string name_;
  size_t bytes_;
  std::unique_ptr<unsigned char[]> memory_;
  unsigned char* begin_ = nullptr;
};

// Held by a launch and by whoever changes the list of buffers: there is one emulated device, and any thread may use it.
inline std::recursive_mutex& device_lock() {
  static std::recursive_mutex one;
  return one;
}

// A test sets it to make waiting for the device throw what a kernel's illegal access would.
inline std::atomic<bool>& device_is_lost() {
  static std::atomic<bool> lost{false};
  return lost;
}

inline std::vector<const Guarded*>& buffers() {
  static std::vector<const Guarded*> all;
  return all;
}

// Global memory of n elements, checked after every launch.
template <class T>
class Buffer {
 public:
  Buffer(std::string name, size_t n) : memory_(std::move(name), n * sizeof(T)), size_(n) {
    const std::lock_guard lock(device_lock());
    buffers().push_back(&memory_);
  }
  Buffer(std::string name, const T* values, size_t n) : Buffer(std::move(name), n) {
    if (n > 0) std::memcpy(memory_.data(), values, n * sizeof(T));
  }
  ~Buffer() {
    const std::lock_guard lock(device_lock());
    std::erase(buffers(), &memory_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return reinterpret_cast<T*>(memory_.data()); }
  const T& operator[](size_t i) const { return reinterpret_cast<const T*>(memory_.data())[i]; }
  size_t size() const { return size_; }

 private:
  Guarded memory_;
  size_t size_;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;  // read; the rest of the 16 is filled with 0
};

enum class Wait : uint8_t { kNothing, kBarrier, kWarp, kEnded };

struct Fiber {
  static constexpr size_t kStack = 128 << 10;
  ucontext_t context;  // where it begins, or waits under AddressSanitizer
  jmp_buf place;       // where it waits
  bool begun = false;  // at the end of its last kernel it waits for the next one
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* fake_stack = nullptr;
  Wait wait = Wait::kNothing;
  std::vector<std::vector<Copy>> copies;  // committed groups, then the open one
};

struct Warp {
  static constexpr size_t kSlot = 64;
  using Slots = unsigned char[32][kSlot];
  int arrived = 0;
  unsigned phase = 0;
  unsigned line = 0;
  alignas(16) Slots slots[2];  // by turns: a lane is at most one operation ahead of its neighbours
};

class Machine {
 public:
  void launch(const char* kernel, dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
    const std::lock_guard lock(device_lock());
    check(threads >= 32 && threads <= 1024 && threads % 32 == 0, kernel, ": expected whole warps, got ", threads);
    check(grid.x >= 1 && grid.y >= 1 && grid.z >= 1, kernel, ": expected at least one block");
    kernel_ = kernel;
    error_.clear();
    grid_ = grid;
    threads_ = threads;
    body_ = &body;
    random_.seed(1);
    Guarded shared("shared memory", shared_bytes);
    shared_ = &shared;
    while (fibers_.size() < threads) fibers_.push_back(std::make_unique<Fiber>());
    for (block_.z = 0; block_.z < grid.z; ++block_.z) {
      for (block_.y = 0; block_.y < grid.y; ++block_.y) {
        for (block_.x = 0; block_.x < grid.x; ++block_.x) {
          shared.forget();
          run_block();
        }
      }
    }
    for (const Guarded* buffer : buffers()) {
      if (!buffer->intact()) throw KernelError(format(kernel, ": a write outside of ", buffer->name()));
    }
  }

  dim3 thread() const { return {current_, 0, 0}; }
  dim3 block() const { return block_; }
  dim3 block_size() const { return {threads_, 1, 1}; }
  dim3 grid() const { return grid_; }
  void* shared() const { return shared_->data(); }

  void barrier(const Where& where) {
    if (waiting_ > 0 && where.line() != barrier_line_) stop("threads wait at different barriers");
    barrier_line_ = where.line();
    if (++waiting_ < threads_) return suspend(Wait::kBarrier);
    waiting_ = 0;
    for (unsigned i = 0; i < threads_; ++i) fibers_[i]->wait = Wait::kNothing;
  }

  // What each lane of this warp hands in, by lane.
  template <class T>
  const Warp::Slots& exchange(const T& value, const Where& where) {
    static_assert(sizeof(T) <= Warp::kSlot);
    Warp& warp = warps_[current_ / 32];
    if (warp.arrived > 0 && where.line() != warp.line) stop("lanes are at different warp operations");
    warp.line = where.line();
    Warp::Slots& slots = warp.slots[warp.phase % 2];
    std::memcpy(slots[current_ % 32], &value, sizeof(T));
    if (++warp.arrived < 32) {
      suspend(Wait::kWarp);
      return slots;
    }
    warp.arrived = 0;
    ++warp.phase;
    for (unsigned lane = 0; lane < 32; ++lane) fibers_[current_ / 32 * 32 + lane]->wait = Wait::kNothing;
    return slots;
  }

  // Asynchronous copies and matrix loads move 16 bytes at a time.
  void expect_aligned(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) stop("an address that is not a multiple of 16 bytes");
  }

  void copy_async(const Copy& copy) {
    expect_aligned(copy.to);
    expect_aligned(copy.from);
    self().copies.back().push_back(copy);
  }
  void commit_copies() { self().copies.emplace_back(); }
  void wait_for_copies(size_t open_groups) {
    auto& groups = self().copies;
    while (groups.size() > open_groups + 1) {
      for (const Copy& copy : groups.front()) {
        std::memset(copy.to, 0, 16);
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
      groups.erase(groups.begin());
    }
  }

  // Ends the launch from within a kernel, whose stack is not unwound: nothing on it may own memory.
  [[noreturn]] void stop(const char* what) {
    error_ = what;
    suspend(Wait::kEnded);
    std::abort();  // the launch has failed
  }

 private:
  Fiber& self() { return *fibers_[current_]; }

  [[noreturn]] void fail(const std::string& what) {
    for (const std::unique_ptr<Fiber>& fiber : fibers_) fiber->begun = false;  // some are in the middle of the kernel
    throw KernelError(format(kernel_, ": ", what, ", block (", block_.x, ", ", block_.y, ", ", block_.z, ")"));
  }

  static void enter();

  void start(Fiber& fiber) {
    fiber.wait = Wait::kNothing;
    fiber.copies.assign(1, {});
    if (fiber.begun) return;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = Fiber::kStack;
    fiber.context.uc_link = nullptr;
    unpoison(fiber.stack.get(), Fiber::kStack);
    makecontext(&fiber.context, &Machine::enter, 0);
  }

#ifdef __SANITIZE_ADDRESS__
  void enter_fiber(Fiber& fiber) {
    fiber.begun = true;
    swapcontext(&main_, &fiber.context);
  }
  void leave_fiber(Fiber& fiber) { swapcontext(&fiber.context, &main_); }
#else
  // _setjmp and _longjmp carry on where swapcontext would, without its two system calls each time; AddressSanitizer
  // takes a jump for an unwinding, though.
  [[gnu::noinline]] void enter_fiber(Fiber& fiber) {
    if (_setjmp(main_place_) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
  }
  [[gnu::noinline]] void leave_fiber(Fiber& fiber) {
    if (_setjmp(fiber.place) == 0) _longjmp(main_place_, 1);
  }
#endif

  void resume(unsigned index) {
    current_ = index;
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, self().stack.get(), Fiber::kStack);
#endif
    enter_fiber(self());
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void suspend(Wait wait) {
    Fiber& fiber = self();
    fiber.wait = wait;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fiber.fake_stack, main_stack_, main_stack_size_);
#endif
    leave_fiber(fiber);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack_, &main_stack_size_);
#endif
  }

  void run_block() {
    warps_.assign(threads_ / 32, {});
    waiting_ = 0;
    std::vector<unsigned> order(threads_);
    std::iota(order.begin(), order.end(), 0U);
    for (const unsigned i : order) start(*fibers_[i]);
    for (bool moved = true; moved;) {
      moved = false;
      std::shuffle(order.begin(), order.end(), random_);
      for (const unsigned i : order) {
        if (fibers_[i]->wait != Wait::kNothing) continue;
        moved = true;
        resume(i);
        if (!error_.empty()) fail(error_);
      }
    }
    const auto count = [&](Wait wait) {
      return std::count_if(order.begin(), order.end(), [&](unsigned i) { return fibers_[i]->wait == wait; });
    };
    if (count(Wait::kEnded) != threads_) {
      fail(format(count(Wait::kBarrier), " threads wait at a barrier and ", count(Wait::kWarp),
                  " in a warp operation for others that do not come"));
    }
    if (!shared_->intact()) fail("a write outside of shared memory");
  }

  const char* kernel_ = "";
  dim3 grid_, block_;
  unsigned threads_ = 0, current_ = 0, waiting_ = 0, barrier_line_ = 0;
  const std::function<void()>* body_ = nullptr;
  Guarded* shared_ = nullptr;
  std::string error_;
  ucontext_t main_;
  jmp_buf main_place_;
  const void* main_stack_ = nullptr;
  size_t main_stack_size_ = 0;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::mt19937 random_;
};

inline Machine& machine() {
  static Machine one;
  return one;
}

inline void Machine::enter() {
  Machine& one = machine();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &one.main_stack_, &one.main_stack_size_);
#endif
  for (;;) {
    (*one.body_)();
    one.suspend(Wait::kEnded);
  }
}

template <class T>
T lane_value(const Warp::Slots& slots, unsigned lane) {
  T value;
  std::memcpy(&value, slots[lane], sizeof(T));
  return value;
}

inline void expect_full_mask(unsigned mask) {
  if (mask != 0xFFFFFFFFU) machine().stop("only warp operations of all lanes are emulated");
}

}  // namespace pydllm::ops::cuda::emulation

#define threadIdx (::pydllm::ops::cuda::emulation::machine().thread())
#define blockIdx (::pydllm::ops::cuda::emulation::machine().block())
#define blockDim (::pydllm::ops::cuda::emulation::machine().block_size())
#define gridDim (::pydllm::ops::cuda::emulation::machine().grid())

inline void __syncthreads(pydllm::ops::cuda::emulation::Where where = std::source_location::current()) {
  pydllm::ops::cuda::emulation::machine().barrier(where);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFU,
                       pydllm::ops::cuda::emulation::Where where = std::source_location::current()) {
  pydllm::ops::cuda::emulation::expect_full_mask(mask);
  pydllm::ops::cuda::emulation::machine().exchange(0, where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes,
                  pydllm::ops::cuda::emulation::Where where = std::source_location::current()) {
  namespace emulation = pydllm::ops::cuda::emulation;
  emulation::expect_full_mask(mask);
  const auto& slots = emulation::machine().exchange(value, where);
  return emulation::lane_value<T>(slots, (threadIdx.x % 32) ^ static_cast<unsigned>(lanes));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane,
              pydllm::ops::cuda::emulation::Where where = std::source_location::current()) {
  namespace emulation = pydllm::ops::cuda::emulation;
  emulation::expect_full_mask(mask);
  return emulation::lane_value<T>(emulation::machine().exchange(value, where), static_cast<unsigned>(lane) % 32);
}

// One thread runs at a time.
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
