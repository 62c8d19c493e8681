// SPDX-License-Identifier: Apache-2.0
#include "engine/populating.h"

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tracker/kernel_abi.h"
#include "tracker/pagemap.h"
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
  std::byte* at(std::size_t offset) const { return static_cast<std::byte*>(memory_) + offset; }
  /// Pages of these categories, or minus errno.
  long pages_that_are(std::uint64_t categories, AddressRange pages) const {
    std::vector<tracker::abi::PageRegion> regions(64);
    tracker::abi::ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.start = pages.begin;
    arguments.end = pages.end;
    arguments.vec = reinterpret_cast<std::uint64_t>(regions.data());
    arguments.vec_len = regions.size();
    arguments.category_mask = categories;
    arguments.return_mask = categories;
    const long found = tracker::Pagemap().scan(arguments);
    if (found < 0) return found;
    std::size_t bytes = 0;
    for (const auto& region : std::span(regions).first(static_cast<std::size_t>(found)))
      bytes += region.end - region.start;
    return static_cast<long>(bytes / page_);
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

TEST_F(PopulatingTest, WhatWasWrittenIsLeftAloneAndWhatLiesBesideItIsNot) {
  constexpr auto kLook = Populating::Look::written;
  if (pages_that_are(tracker::abi::kPageIsPresent, range(0, page_)) < 0) GTEST_SKIP() << "PAGEMAP_SCAN needs Linux 6.7";
  const auto written = range(0, 16 * page_);
  const auto with_a_hole = range(4 * kMiB, 16 * page_);
  const auto read_only_once = range(8 * kMiB, 16 * page_);
  const auto untouched = range(12 * kMiB, 16 * page_);
  std::memset(at(0), 1, 16 * page_);
  std::memset(at(4 * kMiB), 1, 16 * page_);
  ASSERT_EQ(madvise(at(4 * kMiB) + 7 * page_, page_, MADV_DONTNEED), 0);
  for (std::size_t i = 0; i < 16; ++i)
    [[maybe_unused]] const std::byte zero = *static_cast<volatile std::byte*>(at(8 * kMiB) + i * page_);
  ASSERT_EQ(pages_that_are(tracker::abi::kPageIsZero, read_only_once), 16) << "as a page that was only read is";
  // Were it asked for, the kernel would refuse, and nothing more would be tried.
  ASSERT_EQ(mprotect(memory_, 16 * page_, PROT_READ), 0);
  Populating populating;
  for (const auto pages : {written, with_a_hole, read_only_once, untouched}) populating.add(pages, kLook);
  populating.sort();
  populating.prepare(written);
  populating.prepare(with_a_hole);
  EXPECT_TRUE(resident(4 * kMiB + 7 * page_));
  populating.prepare(read_only_once);
  EXPECT_EQ(pages_that_are(tracker::abi::kPageIsZero, read_only_once), 0);
  EXPECT_EQ(pages_that_are(tracker::abi::kPageIsPresent, read_only_once), 16);
  populating.prepare(untouched);
  EXPECT_EQ(pages_that_are(tracker::abi::kPageIsPresent, untouched), 16);
}

TEST_F(PopulatingTest, WithoutALookWhatWasWrittenIsAskedForToo) {
  std::memset(at(0), 1, page_);
  ASSERT_EQ(mprotect(memory_, page_, PROT_READ), 0);
  Populating populating;
  populating.add(range(0, page_));
  populating.add(range(8 * kMiB, page_));
  populating.sort();
  populating.prepare(range(0, page_));
  populating.prepare(range(8 * kMiB, page_));
  EXPECT_FALSE(resident(8 * kMiB)) << "a fork may have made it read-only: the kernel was asked, and refused";
}

}  // namespace
}  // namespace varve
