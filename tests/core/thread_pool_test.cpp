#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/cpu_quota.h"
#include "base/errors.h"

#ifdef __linux__
#include <sched.h>
#endif

namespace pydllm {
namespace {

namespace fs = std::filesystem;

TEST(ThreadPool, RunsEveryTaskExactlyOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 8, 9, 1000}) {
      std::vector<int> runs(static_cast<size_t>(count));  // plain ints: TSan sees it if two threads take one task
      pool.run(count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(count), 1)) << threads << " threads, " << count << " tasks";
    }
  }
}

// The writes of one run's tasks are read by the caller and by the next run's tasks without any other synchronisation;
// a straggler of an earlier run that took a ticket or read a job's fields late would break the sums (and TSan).
TEST(ThreadPool, ShortRunsInARowNeverMix) {
  ThreadPool pool(4);
  std::vector<int64_t> cells(16, 0);
  for (int64_t round = 0; round < 3000; ++round) {
    const int64_t count = 2 + round % 15;
    pool.run(count, [&cells, round](int64_t i) { cells[static_cast<size_t>(i)] += round; });
  }
  std::vector<int64_t> expected(16, 0);
  for (int64_t round = 0; round < 3000; ++round) {
    for (int64_t i = 0; i < 2 + round % 15; ++i) expected[static_cast<size_t>(i)] += round;
  }
  EXPECT_EQ(cells, expected);
}

// Two tasks that wait for each other can only end when two threads run them at once.
TEST(ThreadPool, TasksRunAtTheSameTime) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  std::set<std::thread::id> ids;
  std::vector<std::thread::id> by_task(2);
  pool.run(2, [&](int64_t i) {
    by_task[static_cast<size_t>(i)] = std::this_thread::get_id();
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  ids.insert(by_task.begin(), by_task.end());
  EXPECT_EQ(ids.size(), 2u);
  EXPECT_TRUE(ids.count(std::this_thread::get_id())) << "the caller takes part";
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    // Yielding without work long enough for the worker to leave its bounded spin; both outcomes are correct.
    for (int i = 0; i < 2000; ++i) std::this_thread::yield();
    std::atomic<int> arrived{0};
    pool.run(2, [&](int64_t) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    EXPECT_EQ(arrived.load(), 2);
  }
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](timeval t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(ThreadPool, IdleWorkersSleep) {
  ThreadPool pool(4);
  pool.run(64, [](int64_t) {});
  const double before = cpu_seconds();
  usleep(200'000);  // not a synchronisation: the span over which idle workers could burn time
  // Three spinning workers would burn 0.2 s per core; the bounded spin is well below a millisecond each.
  EXPECT_LT(cpu_seconds() - before, 0.1);
}

TEST(ThreadPool, ExceptionIsRethrownAfterAllTasksEnded) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> ended{0};
    const auto run = [&] {
      pool.run(50, [&](int64_t i) {
        ended.fetch_add(1);
        if (i % 10 == 3) throw std::runtime_error("task failed");
      });
    };
    EXPECT_THROW(run(), std::runtime_error);
    EXPECT_EQ(ended.load(), 50);
    ended = 0;
    pool.run(5, [&](int64_t) { ended.fetch_add(1); });  // the pool stays usable and forgets the failure
    EXPECT_EQ(ended.load(), 5);
  }
}

TEST(ThreadPool, NestedRunIsAnError) {
  for (const int threads : {1, 2}) {
    ThreadPool pool(threads);
    EXPECT_THROW(pool.run(2, [&](int64_t) { pool.run(2, [](int64_t) {}); }), InternalError);
    EXPECT_THROW(pool.run(-1, [](int64_t) {}), InternalError);
    pool.run(2, [](int64_t) {});
  }
}

TEST(ThreadPool, ThreadCountIsChecked) {
  EXPECT_THROW(ThreadPool(-1), InvalidRequest);
  EXPECT_THROW(ThreadPool(1025), InvalidRequest);
  EXPECT_EQ(ThreadPool(0).size(), usable_cores());
  try {
    ThreadPool pool(-7);
  } catch (const InvalidRequest& error) {
    EXPECT_EQ(error.field(), "threads");
    EXPECT_STREQ(error.what(), "threads: expected 0 to 1024, got -7");
  }
}

TEST(ThreadPool, PoolsComeAndGoWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(1 + i % 5);
}

#ifdef __linux__
TEST(UsableCores, FollowsTheAffinityMask) {
  const auto count_on_one_cpu = [] {
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof(all), &all);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++cpu) {
      if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    }
    sched_setaffinity(0, sizeof(one), &one);
    const int cores = usable_cores();
    sched_setaffinity(0, sizeof(all), &all);
    return cores;
  };
  EXPECT_EQ(count_on_one_cpu(), 1);
  EXPECT_GE(usable_cores(), 1);
}
#endif

class CgroupQuota : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "pydllm_cgroup_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    mount_ = pattern;
  }
  void TearDown() override { fs::remove_all(mount_); }
  void write(const fs::path& file, const std::string& text) {
    fs::create_directories((mount_ / file).parent_path());
    std::ofstream(mount_ / file) << text;
  }
  fs::path mount_;
};

TEST_F(CgroupQuota, Version2TakesTheTightestAncestor) {
  write("a/cpu.max", "150000 100000\n");
  write("a/b/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota("0::/a/b\n", mount_).value(), 1.5);
  write("cpu.max", "50000 100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota("0::/a/b\n", mount_).value(), 0.5);
}

TEST_F(CgroupQuota, Version2WithoutLimitIsEmpty) {
  write("cpu.max", "max 100000\n");
  EXPECT_FALSE(cgroup_cpu_quota("0::/\n", mount_).has_value());
  EXPECT_FALSE(cgroup_cpu_quota("0::/missing\n", mount_).has_value());
}

TEST_F(CgroupQuota, Version1ReadsTheCpuController) {
  write("cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
  write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  write("memory/job/cpu.cfs_quota_us", "1\n");
  write("memory/job/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(cgroup_cpu_quota("7:memory:/job\n4:cpu,cpuacct:/job\n", mount_).value(), 3.0);
}

TEST_F(CgroupQuota, Version1MinusOneMeansNoLimit) {
  write("cpu/cpu.cfs_quota_us", "-1\n");
  write("cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(cgroup_cpu_quota("1:cpu:/\n", mount_).has_value());
}

TEST_F(CgroupQuota, GarbageIsNoLimit) {
  write("cpu.max", "what 100000\n");
  EXPECT_FALSE(cgroup_cpu_quota("nonsense\n0:\n0::/\n", mount_).has_value());
  EXPECT_FALSE(cgroup_cpu_quota("", mount_).has_value());
}

}  // namespace
}  // namespace pydllm
