// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_page_copy.h"

#include <random>

#include <gtest/gtest.h>

#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBytes = 64 * kPage;

class PageCopies : public testing::TestWithParam<bool> {
 protected:
  PageCopies() : from_(kBytes), to_(kBytes), expected_(kBytes, std::byte{0xee}) {
    capture_test::fill(from_.get(), kBytes, 3);
    std::memset(to_.get(), 0xee, kBytes);
  }
  void add(std::size_t to, std::size_t from, std::size_t bytes) {
    copy_.add(to_.get() + to, from_.get() + from, bytes);
    std::memcpy(expected_.data() + to, from_.get() + from, bytes);
  }
  void expect_copied() {
    copy_.fence();
    EXPECT_EQ(std::memcmp(to_.get(), expected_.data(), kBytes), 0);
  }
  capture_test::Mapped from_;
  capture_test::Mapped to_;
  std::vector<std::byte> expected_;
  PageCopy copy_{GetParam()};
};

TEST_P(PageCopies, copy_whole_pages_in_any_number) {
  for (std::size_t pages = 1; pages < 11; ++pages) {
    add(0, pages * kPage, pages * kPage);
    expect_copied();
  }
}

TEST_P(PageCopies, gather_scattered_pages) {
  for (std::size_t page = 0; page < 21; ++page) add(page * kPage, (63 - 2 * page) * kPage, kPage);
  expect_copied();
}

TEST_P(PageCopies, copy_what_begins_and_ends_anywhere_and_nothing_besides) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 300; ++round) {
    const std::size_t offset = random() % kPage;
    const std::size_t from = random() % 16 * kPage + offset;
    const std::size_t to = random() % 16 * kPage + offset;
    add(to, from, random() % (30 * kPage));
    expect_copied();
  }
  add(7, 9, 1000);  // less than a page may lie anywhere
  add(5000, 4000, 300);
  expect_copied();
}

TEST_P(PageCopies, take_nothing) {
  add(0, 0, 0);
  add(100, 100, 0);
  expect_copied();
}

INSTANTIATE_TEST_SUITE_P(Way, PageCopies, testing::Bool(),
                         [](const auto& past_cache) { return past_cache.param ? "past_the_cache" : "by_memcpy"; });

}  // namespace
}  // namespace varve
