// SPDX-License-Identifier: Apache-2.0
#include "tracker/page_bitmap.h"

#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace varve::tracker {
namespace {

std::vector<std::size_t> members(PageBitmap& bitmap, std::size_t pages) {
  std::vector<std::size_t> found;
  for (std::size_t page = bitmap.next_set(0); page < pages; page = bitmap.next_set(page + 1)) found.push_back(page);
  return found;
}

TEST(PageBitmap, IsEmptyAtFirst) {
  PageBitmap bitmap;
  ASSERT_TRUE(bitmap.allocate(1000));
  EXPECT_TRUE(bitmap.empty());
  EXPECT_EQ(bitmap.next_set(0), 1000U);
  EXPECT_EQ(bitmap.next_clear(0), 0U);
}

TEST(PageBitmap, RangesMayBeginAndEndAnywhere) {
  for (const std::size_t begin : {0U, 1U, 63U, 64U, 65U, 4095U, 4096U})
    for (const std::size_t length : {1U, 2U, 63U, 64U, 65U, 4096U, 5000U}) {
      PageBitmap bitmap;
      ASSERT_TRUE(bitmap.allocate(10'000));
      bitmap.set(begin, begin + length);
      EXPECT_EQ(bitmap.count(), length);
      EXPECT_EQ(bitmap.next_set(0), begin);
      EXPECT_EQ(bitmap.next_clear(begin), begin + length);
      EXPECT_EQ(bitmap.next_set(begin + length), 10'000U);
      bitmap.clear(begin, begin + length);
      EXPECT_TRUE(bitmap.empty());
      EXPECT_EQ(bitmap.next_set(0), 10'000U);
    }
}

TEST(PageBitmap, AFullSetEndsAtItsBound) {
  for (const std::size_t pages : {1U, 64U, 100U, 4096U, 8192U}) {
    PageBitmap bitmap;
    ASSERT_TRUE(bitmap.allocate(pages));
    bitmap.set(0, pages);
    EXPECT_EQ(bitmap.count(), pages);
    EXPECT_EQ(bitmap.next_clear(0), pages);
    EXPECT_EQ(bitmap.next_set(pages - 1), pages - 1);
    EXPECT_EQ(bitmap.next_set(pages), pages);
  }
}

TEST(PageBitmap, EqualsASetWhateverIsDone) {
  constexpr std::size_t kPages = 300'000;
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  PageBitmap bitmap;
  ASSERT_TRUE(bitmap.allocate(kPages));
  std::set<std::size_t> model;
  for (int step = 0; step < 300; ++step) {
    const std::size_t begin = random() % kPages;
    const std::size_t end = std::min<std::size_t>(kPages, begin + 1 + random() % (step % 3 == 0 ? 3000 : 3));
    if (random() % 2 == 0) {
      bitmap.set(begin, end);
      for (std::size_t page = begin; page < end; ++page) model.insert(page);
    } else {
      bitmap.clear(begin, end);
      model.erase(model.lower_bound(begin), model.lower_bound(end));
    }
    ASSERT_EQ(bitmap.count(), model.size());
    if (step % 20 == 0) {
      ASSERT_EQ(members(bitmap, kPages), std::vector<std::size_t>(model.begin(), model.end()));
    }
  }
}

}  // namespace
}  // namespace varve::tracker
