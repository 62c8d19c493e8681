// SPDX-License-Identifier: Apache-2.0
#include "engine/staging.h"

#include <sys/resource.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>

#include "engine/staging_limit.h"
#include "tests/support/sanitizers.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kLong = 1'000'000'000;

std::shared_ptr<StagingPool> make(std::uint64_t bound_bytes, std::uint64_t first_bytes) {
  auto pool = StagingPool::create(bound_bytes, first_bytes);
  EXPECT_TRUE(pool) << pool.error().message();
  return pool ? std::move(pool).value() : nullptr;
}

long faults_of_this_thread() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

/// One write a page; no shadow memory of a sanitizer is touched, which would fault too.
VARVE_HOLDER_SAFE void touch(std::byte* memory, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 4096) static_cast<volatile std::byte*>(memory)[at] = std::byte{1};
}

TEST(Staging, faults_in_a_first_part_and_never_exceeds_its_bound) {
  const auto pool = make(16 * kMiB, 6 * kMiB);
  EXPECT_EQ(pool->bound_bytes(), 16 * kMiB);
  EXPECT_EQ(pool->warm_bytes(), 6 * kMiB);
  EXPECT_EQ(pool->in_use_bytes(), 0U);
  StagingStall stall;
  std::vector<Extent> extents;
  for (int i = 0; i < 8; ++i) extents.push_back(pool->acquire(stall));
  EXPECT_EQ(pool->warm_bytes(), 16 * kMiB);
  EXPECT_EQ(pool->in_use_bytes(), 16 * kMiB);
  EXPECT_EQ(pool->room_bytes(), 0U);
  EXPECT_EQ(stall.waited_ns, 0U);
  EXPECT_GT(stall.grown_ns, 0U);
  for (const auto& extent : extents) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(extent.memory) % kExtentBytes, 0U);
    pool->release(extent);
  }
  EXPECT_FALSE(pool->in_use());
}

TEST(Staging, tells_what_growing_would_take) {
  const auto pool = make(16 * kMiB, 4 * kMiB);
  EXPECT_EQ(pool->growing_ns(3 * kMiB), 0U);
  const std::uint64_t one = pool->growing_ns(5 * kMiB);
  EXPECT_GT(one, 0U);
  EXPECT_EQ(pool->growing_ns(15 * kMiB), 6 * one);
  EXPECT_EQ(pool->growing_ns(1024 * kMiB), 6 * one);  // for the rest a cut waits
  pool->expect(1024 * kMiB);
  EXPECT_FALSE(pool->warm_up(kLong));
  EXPECT_EQ(pool->growing_ns(1024 * kMiB), 0U);
}

TEST(Staging, causes_no_page_fault_when_warm) {
  const auto pool = make(32 * kMiB, 16 * kMiB);
  StagingStall stall;
  std::vector<Extent> extents(8);
  const long before = faults_of_this_thread();
  for (auto& extent : extents) {
    extent = pool->acquire(stall);
    touch(extent.memory, kExtentBytes);
  }
  const long after = faults_of_this_thread();
  EXPECT_LE(after - before, 2);
  EXPECT_EQ(stall.grown_ns, 0U);
  for (const auto& extent : extents) pool->release(extent);
}

TEST(Staging, waits_for_an_extent_to_be_given_back) {
  const auto pool = make(4 * kMiB, 4 * kMiB);
  StagingStall stall;
  const Extent first = pool->acquire(stall);
  const Extent second = pool->acquire(stall);
  std::thread consumer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    pool->release(first);
  });
  const Extent third = pool->acquire(stall);
  EXPECT_EQ(third.memory, first.memory);
  EXPECT_GT(stall.waited_ns, 10'000'000U);
  consumer.join();
  pool->release(second);
  pool->release(third);
}

TEST(Staging, warms_up_in_the_background_what_the_last_cuts_needed) {
  const auto pool = make(64 * kMiB, 4 * kMiB);
  pool->warm_up(kLong);
  EXPECT_EQ(pool->warm_bytes(), 4 * kMiB);
  pool->begin_cut(20 * kMiB);
  pool->warm_up(kLong);
  EXPECT_GE(pool->warm_bytes(), 20 * kMiB);
  EXPECT_LE(pool->warm_bytes(), 24 * kMiB);
  StagingStall stall;
  std::vector<Extent> held;
  for (int i = 0; i < 10; ++i) held.push_back(pool->acquire(stall));
  EXPECT_EQ(stall.grown_ns, 0U);
  pool->begin_cut(20 * kMiB);  // while the first is not read yet
  pool->warm_up(kLong);
  EXPECT_GE(pool->warm_bytes(), 40 * kMiB);
  pool->begin_cut(1000 * kMiB);
  pool->warm_up(kLong);
  EXPECT_EQ(pool->warm_bytes(), 64 * kMiB);
  for (const auto& extent : held) pool->release(extent);
}

TEST(Staging, warms_up_for_a_cut_that_was_announced) {
  auto pool = make(64 * kMiB, 4 * kMiB);
  ASSERT_NE(pool, nullptr);
  pool->expect(20 * kMiB);
  while (pool->warm_up(1)) {
  }
  EXPECT_GE(pool->warm_bytes(), 20 * kMiB);
  EXPECT_LE(pool->warm_bytes(), 24 * kMiB);
  pool->expect(10 * kMiB);
  EXPECT_FALSE(pool->warm_up(kLong));
  EXPECT_LE(pool->warm_bytes(), 24 * kMiB) << "less is no reason to give back";
}

TEST(Staging, lends_what_is_warm_and_free_and_no_more) {
  const auto pool = make(64 * kMiB, 4 * kMiB);
  const auto first = pool->try_acquire();
  const auto second = pool->try_acquire();
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->memory, second->memory);
  EXPECT_FALSE(pool->try_acquire());
  EXPECT_EQ(pool->warm_bytes(), 4 * kMiB);
  EXPECT_EQ(pool->in_use_bytes(), 4 * kMiB);
  pool->release(*first);
  EXPECT_TRUE(pool->try_acquire());
}

TEST(Staging, gives_back_what_no_cut_needed_for_long) {
  const auto pool = make(64 * kMiB, 4 * kMiB);
  pool->begin_cut(40 * kMiB);
  pool->warm_up(kLong);
  const std::uint64_t large = pool->warm_bytes();
  ASSERT_GE(large, 40 * kMiB);
  for (std::uint32_t cut = 2; cut < StagingPool::kDisusePeriod; ++cut) {
    pool->begin_cut(kMiB);
    pool->warm_up(kLong);
    ASSERT_EQ(pool->warm_bytes(), large) << cut;
  }
  for (std::uint32_t cut = 0; cut < 2 * StagingPool::kDisusePeriod; ++cut) {
    pool->begin_cut(kMiB);
    pool->warm_up(kLong);
  }
  EXPECT_EQ(pool->warm_bytes(), 4 * kMiB);
  // And it can grow again.
  StagingStall stall;
  std::vector<Extent> held;
  for (int i = 0; i < 32; ++i) {
    held.push_back(pool->acquire(stall));
    held.back().memory[kExtentBytes - 1] = std::byte{1};
  }
  EXPECT_EQ(pool->warm_bytes(), 64 * kMiB);
  for (const auto& extent : held) pool->release(extent);
}

TEST(Staging, shrinks_its_bound_where_memory_is_refused) {
  if (test::kSanitized) GTEST_SKIP() << "sanitizers reserve more address space than a limit would allow";
  EXPECT_EQ(capture_test::in_a_child([]() -> std::string {
              std::ifstream statm("/proc/self/statm");
              std::uint64_t pages = 0;
              statm >> pages;
              const rlimit limit{pages * 4096 + 40 * kMiB, pages * 4096 + 40 * kMiB};
              if (setrlimit(RLIMIT_AS, &limit) != 0) return "no limit";
              auto pool = StagingPool::create(1024 * kMiB, 4 * kMiB);
              if (!pool) return pool.error().message();
              if ((*pool)->bound_bytes() > 40 * kMiB) return "bound is " + std::to_string((*pool)->bound_bytes());
              if ((*pool)->bound_bytes() < 16 * kMiB) return "bound is " + std::to_string((*pool)->bound_bytes());
              const rlimit nothing{pages * 4096, pages * 4096 + 40 * kMiB};
              setrlimit(RLIMIT_AS, &nothing);
              const auto refused = StagingPool::create(kMiB, kMiB);
              return refused ? "memory beyond the limit" : "";
            }),
            "");
}

TEST(Staging, goes_on_with_what_it_has_when_growing_is_refused) {
  if (test::kSanitized) GTEST_SKIP() << "sanitizers need writable memory of their own";
  EXPECT_EQ(capture_test::in_a_child([]() -> std::string {
              auto made = StagingPool::create(64 * kMiB, 8 * kMiB);
              if (!made) return made.error().message();
              StagingPool& pool = **made;
              StagingStall stall;
              std::vector<Extent> held;
              for (int i = 0; i < 4; ++i) held.push_back(pool.acquire(stall));
              std::thread consumer([&] {
                std::this_thread::sleep_for(std::chrono::milliseconds(50));
                pool.release(held[0]);
              });
              const rlimit limit{4 * kMiB, RLIM_INFINITY};
              setrlimit(RLIMIT_DATA, &limit);  // counts private writable memory: no more of it
              const Extent next = pool.acquire(stall);
              consumer.join();
              if (next.memory != held[0].memory || stall.waited_ns == 0) return "it did not wait for the consumer";
              return pool.bound_bytes() == 8 * kMiB ? "" : "bound is " + std::to_string(pool.bound_bytes());
            }),
            "");
}

TEST(Staging, belongs_to_the_process_that_made_it) {
  auto pool = make(8 * kMiB, 4 * kMiB);
  StagingStall stall;
  const Extent extent = pool->acquire(stall);
  extent.memory[0] = std::byte{1};
  EXPECT_EQ(capture_test::in_a_child([&]() -> std::string {
              // Something of the child's own lies there now; dropping the pool must not unmap it.
              void* const mine = mmap(extent.memory, 4096, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
              if (mine != extent.memory) return "the child inherited staging memory";
              pool.reset();
              static_cast<volatile std::byte*>(mine)[0] = std::byte{2};
              return "";
            }),
            "");
  EXPECT_EQ(extent.memory[0], std::byte{1});
  pool->release(extent);
}

// -- The limit --------------------------------------------------------------------------------------------------------

class Limit : public testing::Test {
 protected:
  Limit() {
    char name[] = "/tmp/varve-staging-limit-XXXXXX";
    root_ = mkdtemp(name);
    put("/proc/meminfo", "MemTotal:        1048576 kB\nMemFree: 1 kB\n");
  }
  ~Limit() override { std::filesystem::remove_all(root_); }
  void put(const std::string& path, const std::string& text) {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  std::string root_;
};

TEST_F(Limit, is_the_machines_memory_without_control_groups) {
  EXPECT_EQ(usable_memory_bytes(root_), 1024 * kMiB);
  put("/proc/self/cgroup", "garbage\n\n7:\n");
  put("/proc/self/mountinfo", "garbage - \n\n1 2 3\n");
  EXPECT_EQ(usable_memory_bytes(root_), 1024 * kMiB);
}

TEST_F(Limit, is_the_smallest_up_the_tree_of_version_2) {
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n");
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(usable_memory_bytes(root_), 1024 * kMiB);
  put("/sys/fs/cgroup/a/memory.max", "104857600\n");
  EXPECT_EQ(usable_memory_bytes(root_), 100 * kMiB);
  put("/sys/fs/cgroup/a/b/memory.max", "52428800\n");
  EXPECT_EQ(usable_memory_bytes(root_), 50 * kMiB);
}

TEST_F(Limit, counts_version_1_and_containers_without_a_namespace) {
  put("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/x\n");
  put("/proc/self/mountinfo",
      "30 24 0:26 /docker/abc /sys/fs/cgroup/memory ro shared:9 - cgroup cgroup rw,memory\n"
      "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(usable_memory_bytes(root_), 1024 * kMiB);
  put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "209715200\n");
  EXPECT_EQ(usable_memory_bytes(root_), 200 * kMiB);
}

TEST_F(Limit, of_this_machine_can_be_read) { EXPECT_GT(usable_memory_bytes(), 16 * kMiB); }

}  // namespace
}  // namespace varve
