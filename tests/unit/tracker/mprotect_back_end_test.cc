// SPDX-License-Identifier: Apache-2.0
#include "tracker/mprotect_back_end.h"

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

#include <gtest/gtest.h>

#include "tracker/forked.h"
#include "tracker/scratch.h"

namespace varve::tracker {
namespace {

TEST(MprotectBackEnd, ProtectingAndFaultingAsFastAsTheyCanLosesNothing) {
  mark_process();
  auto back_end = MprotectBackEnd::create();
  if (!back_end.has_value()) GTEST_SKIP() << back_end.error().message();
  constexpr std::size_t kPages = 4;
  auto scratch = Scratch::make(kPages * page_bytes());
  ASSERT_TRUE(scratch.has_value());
  const PageRange range = scratch->range();
  const auto word = [&](std::size_t page) {
    return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(range.begin + page * page_bytes()));
  };
  ASSERT_TRUE((*back_end)->add(range).has_value());
  ASSERT_TRUE((*back_end)->begin_protecting().has_value());
  std::atomic<bool> stop{false};
  std::array<std::thread, 3> writers;
  for (std::size_t writer = 0; writer < writers.size(); ++writer)
    writers[writer] = std::thread([&, writer] {
      for (std::size_t page = writer; !stop; page = (page + 1) % kPages) word(page).fetch_add(1);
    });
  ScanBuffer buffer;
  PageRuns runs;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(400);
  while (std::chrono::steady_clock::now() < end) {
    runs.clear();
    ASSERT_TRUE((*back_end)->list_and_protect(range, buffer, runs).has_value());
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  ASSERT_TRUE((*back_end)->list_and_protect(range, buffer, runs).has_value());
  runs.clear();
  ASSERT_TRUE((*back_end)->list(range, buffer, runs).has_value());
  EXPECT_TRUE(runs.empty());
  word(2).fetch_add(1);
  ASSERT_TRUE((*back_end)->list(range, buffer, runs).has_value());
  EXPECT_EQ(runs, PageRuns({{range.begin + 2 * page_bytes(), range.begin + 3 * page_bytes()}}));
  (*back_end)->remove(range);
}

}  // namespace
}  // namespace varve::tracker
