// SPDX-License-Identifier: Apache-2.0
#include "engine/populating.h"

#include <sys/mman.h>

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tracker/tracker.h"

namespace varve {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

class PopulatingTest : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory_, MAP_FAILED);
    madvise(memory_, kBytes, MADV_NOHUGEPAGE);
    if (madvise(memory_, page_, MADV_POPULATE_WRITE) != 0) GTEST_SKIP() << "MADV_POPULATE_WRITE needs Linux 5.14";
    madvise(memory_, page_, MADV_DONTNEED);
  }
  void TearDown() override { munmap(memory_, kBytes); }

  AddressRange range(std::size_t offset, std::size_t bytes) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory_) + offset;
    return {begin, begin + bytes};
  }
  bool resident(std::size_t offset) const {
    unsigned char there = 0;
    EXPECT_EQ(mincore(static_cast<std::byte*>(memory_) + offset, page_, &there), 0);
    return (there & 1) != 0;
  }
  std::size_t resident_pages() const {
    std::size_t pages = 0;
    for (std::size_t at = 0; at < kBytes; at += page_) pages += resident(at) ? 1 : 0;
    return pages;
  }

  static constexpr std::size_t kBytes = 16 * kMiB;
  const std::size_t page_ = tracker::page_bytes();
  void* memory_ = nullptr;
};

TEST_F(PopulatingTest, FaultsInWhatIsWantedAndNothingThatWasNotAdded) {
  Populating populating;
  populating.add(range(8 * kMiB, 5 * kMiB));  // in any order
  populating.add(range(page_, 3 * page_));
  populating.add(range(6 * page_, page_));
  populating.sort();
  EXPECT_EQ(resident_pages(), 0U);
  populating.prepare(range(0, kMiB));
  for (const std::size_t page : {1U, 2U, 3U, 6U}) EXPECT_TRUE(resident(page * page_)) << page;
  EXPECT_EQ(resident_pages(), 4U);
  populating.prepare(range(5 * kMiB, kMiB));  // between
  populating.prepare(range(14 * kMiB, kMiB));
  EXPECT_EQ(resident_pages(), 4U);
  populating.prepare(range(10 * kMiB + 5, 20));
  EXPECT_TRUE(resident(10 * kMiB));
  EXPECT_LE(resident_pages(), 4U + 2 * kMiB / page_) << "no more than the block";
  populating.prepare(range(8 * kMiB, 5 * kMiB));
  EXPECT_EQ(resident_pages(), 4U + 5 * kMiB / page_);
}

TEST_F(PopulatingTest, AfterPrepareEveryThreadFindsThePagesThere) {
  Populating populating;
  populating.add(range(0, kBytes));
  populating.sort();
  std::atomic<std::size_t> missing{0};
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (std::size_t at = 0; at < kBytes; at += 64 * page_) {
        populating.prepare(range(at, page_));
        if (!resident(at)) ++missing;
      }
    });
  threads.clear();
  EXPECT_EQ(missing, 0U);
  EXPECT_EQ(resident_pages(), kBytes / page_);
}

TEST_F(PopulatingTest, WhatCannotBeFaultedInIsLeftToTheWriter) {
  ASSERT_EQ(munmap(static_cast<std::byte*>(memory_) + kMiB, page_), 0);
  Populating populating;
  populating.add(range(kMiB, page_));
  populating.add(range(8 * kMiB, page_));
  populating.sort();
  populating.prepare(range(kMiB, page_));
  populating.prepare(range(8 * kMiB, page_));
  EXPECT_FALSE(resident(8 * kMiB)) << "it does not try again";
}

}  // namespace
}  // namespace varve
