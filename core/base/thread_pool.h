// The core's own thread pool: data parallelism inside one op. The caller takes part; tasks are handed out by an atomic
// ticket; idle workers spin for a bounded time and then sleep on a futex, so that a busy machine is never starved by
// spinning (OpenMP's barriers collapse there).
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace pydllm {

class ThreadPool {
 public:
  // threads >= 1, the calling thread included; 0 means one per usable core (cgroup quota and affinity respected).
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const noexcept { return size_; }

  // Runs task(i) for i in [0, count), each exactly once, and returns when all are done. Which thread runs which task is
  // unspecified, so tasks must write disjoint memory. Not reentrant; one run() at a time. The first exception thrown by
  // a task is rethrown here after all tasks ended.
  template <class Task>
  void run(int64_t count, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run_erased(
        count, [](void* context, int64_t i) { (*static_cast<Plain*>(context))(i); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  struct Impl;
  void run_erased(int64_t count, void (*task)(void*, int64_t), void* context);

  int size_;
  std::unique_ptr<Impl> impl_;
};

// Cores this process may use: affinity mask and cgroup v1/v2 CPU quota, at least 1.
int usable_cores();

}  // namespace pydllm
