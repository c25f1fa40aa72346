#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

#include "base/check.h"
#include "base/cpu_quota.h"

namespace pydllm {
namespace {

constexpr int kMaxThreads = 1024;

// About 30 us of pauses: longer than the gap between two ops of one layer, so that the workers of a busy engine stay
// awake, and shorter than a scheduler's time slice, so that a shared core is soon given back.
constexpr int kSpins = 2000;

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The word workers watch: | generation 20 bits | open 1 bit | workers inside 11 bits |. A worker enters by adding one
// while the job is open; the caller closes the job and leaves when nobody is inside. A late worker thus never sees the
// fields of a job that is over, and the caller never waits for a worker that is still asleep.
//
// Every change that is followed by a notify is a sequentially consistent read-modify-write: libstdc++ skips the futex
// call when it sees no waiter, and a mere release store could be ordered after that look (a lost wake-up).
constexpr uint32_t kInsideMask = (1u << 11) - 1;
constexpr uint32_t kOpen = 1u << 11;
constexpr uint32_t kGenerationStep = 1u << 12;
static_assert(kMaxThreads <= static_cast<int>(kInsideMask));

uint32_t generation_of(uint32_t state) {
  return state / kGenerationStep;
}

int affinity_cores() {
#ifdef __linux__
  // The default cpu_set_t holds 1024 CPUs; larger machines make the call fail and get the fallback.
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

int checked_size(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    throw InvalidRequest("threads", format("threads: expected 0 to ", kMaxThreads, ", got ", threads));
  }
  return threads == 0 ? std::min(usable_cores(), kMaxThreads) : threads;
}

}  // namespace

struct ThreadPool::Impl {
  Impl(int size, int spin_limit) : spins(spin_limit) {
    workers.reserve(static_cast<size_t>(size - 1));
    try {
      for (int i = 1; i < size; ++i) workers.emplace_back([this] { work(); });
    } catch (...) {
      shut_down();
      throw;
    }
  }
  ~Impl() { shut_down(); }

  void shut_down() {
    stop.store(true);
    state.fetch_add(kGenerationStep);
    state.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void work() {
    uint32_t seen = 0;
    while (wait_for_job(seen)) {
      if (!enter(seen)) continue;
      drain();
      leave();
    }
  }

  // Returns once the generation differs from `seen`; false when the pool is closing. `stop` is set before the
  // generation moves: a late worker whose enter() has already seen the last generation learns it here.
  bool wait_for_job(uint32_t seen) {
    if (stop.load()) return false;
    uint32_t now = state.load();
    for (int spin = 0; generation_of(now) == seen && spin < spins; ++spin) {
      pause_briefly();
      now = state.load(std::memory_order_acquire);
    }
    while (generation_of(now) == seen) {
      state.wait(now);
      now = state.load();
    }
    return !stop.load();
  }

  bool enter(uint32_t& seen) {
    uint32_t now = state.load();
    while (true) {
      seen = generation_of(now);
      if ((now & kOpen) == 0) return false;
      if (state.compare_exchange_weak(now, now + 1)) return true;
    }
  }

  void leave() {
    const uint32_t now = state.fetch_sub(1) - 1;
    if ((now & kOpen) != 0 || (now & kInsideMask) != 0) return;
    finished.exchange(1);
    finished.notify_one();
  }

  void drain() {
    for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      run_task(i);
    }
  }

  void run_task(int64_t i) {
    try {
      task(context, i);
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }

  void run(int64_t task_count) {
    count = task_count;
    next.store(0, std::memory_order_relaxed);
    if (workers.empty() || count == 1) return drain();
    open();
    drain();
    close();
  }

  // Nobody is inside and the job is closed: adding both cannot carry into a neighbouring field.
  void open() {
    state.fetch_add(kGenerationStep + kOpen);
    const int64_t helpers = std::min<int64_t>(count - 1, static_cast<int64_t>(workers.size()));
    if (helpers == static_cast<int64_t>(workers.size())) return state.notify_all();
    for (int64_t i = 0; i < helpers; ++i) state.notify_one();
  }

  // While the job is open nobody sets `finished`, so it is cleared before closing.
  void close() {
    finished.store(0);
    if ((state.fetch_and(~kOpen) & kInsideMask) == 0) return;
    for (int spin = 0; finished.load(std::memory_order_acquire) == 0 && spin < spins; ++spin) pause_briefly();
    while (finished.load() == 0) finished.wait(0);
  }

  const int spins;
  // On their own cache lines: workers spin on one word while others draw tickets from the next.
  alignas(64) std::atomic<uint32_t> state{0};
  alignas(64) std::atomic<uint32_t> finished{0};  // 1 when the last worker has left a closed job
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) int64_t count = 0;
  void (*task)(void*, int64_t) = nullptr;
  void* context = nullptr;
  std::mutex failure_mutex;
  std::exception_ptr failure;
  std::atomic<bool> busy{false};
  std::atomic<bool> stop{false};
  std::vector<std::thread> workers;
};

// With more threads than cores a spinning thread takes the core from the one it waits for.
ThreadPool::ThreadPool(int threads)
    : size_(checked_size(threads)), impl_(std::make_unique<Impl>(size_, size_ <= usable_cores() ? kSpins : 0)) {}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run_erased(int64_t count, void (*task)(void*, int64_t), void* context) {
  check(count >= 0, "thread pool: expected a count of at least 0, got ", count);
  if (count == 0) return;
  check(!impl_->busy.exchange(true), "thread pool: run() called while another run() is in progress");
  impl_->task = task;
  impl_->context = context;
  impl_->run(count);
  const std::exception_ptr failure = std::exchange(impl_->failure, nullptr);
  impl_->busy.store(false);
  if (failure) std::rethrow_exception(failure);
}

int usable_cores() {
  const int cores = std::max(affinity_cores(), 1);
#ifdef __linux__
  std::ostringstream memberships;
  memberships << std::ifstream("/proc/self/cgroup").rdbuf();
  const std::optional<double> quota = cgroup_cpu_quota(memberships.str(), "/sys/fs/cgroup");
  // Rounded down: threads beyond the quota would be stopped for the rest of each period, spinning ones included.
  if (quota && *quota < cores) return std::max(static_cast<int>(*quota), 1);
#endif
  return cores;
}

}  // namespace pydllm
