// SPDX-License-Identifier: Apache-2.0
#include "tracker/range_counts.h"

#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace varve::tracker {
namespace {

TEST(RangeCounts, TellsEachPageOnceHoweverManyUseIt) {
  RangeCounts counts;
  EXPECT_EQ(counts.add({10, 20}), PageRuns({{10, 20}}));
  EXPECT_EQ(counts.add({10, 20}), PageRuns());
  EXPECT_EQ(counts.add({5, 30}), PageRuns({{5, 10}, {20, 30}}));
  EXPECT_EQ(counts.remove({10, 20}), PageRuns());
  EXPECT_EQ(counts.remove({5, 30}), PageRuns({{5, 10}, {20, 30}}));
  EXPECT_EQ(counts.remove({10, 20}), PageRuns({{10, 20}}));
}

TEST(RangeCounts, NeighboursAreToldApart) {
  RangeCounts counts;
  counts.add({0, 10});
  EXPECT_EQ(counts.add({10, 20}), PageRuns({{10, 20}}));
  EXPECT_EQ(counts.remove({0, 10}), PageRuns({{0, 10}}));
  EXPECT_EQ(counts.remove({10, 20}), PageRuns({{10, 20}}));
}

TEST(RangeCounts, EqualsAMapOfPagesWhateverIsDone) {
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  RangeCounts counts;
  std::map<std::uintptr_t, int> model;
  std::vector<PageRange> held;
  for (int step = 0; step < 2000; ++step) {
    const bool add = held.empty() || random() % 2 == 0;
    PageRange range;
    if (add) {
      range.begin = random() % 100;
      range.end = range.begin + 1 + random() % 30;
      held.push_back(range);
    } else {
      const std::size_t which = random() % held.size();
      range = held[which];
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    }
    PageRuns expected;
    for (std::uintptr_t page = range.begin; page < range.end; ++page) {
      const int users = add ? model[page]++ : --model[page];
      if (users != 0) continue;
      if (!expected.empty() && expected.back().end == page)
        ++expected.back().end;
      else
        expected.push_back({page, page + 1});
    }
    ASSERT_EQ(add ? counts.add(range) : counts.remove(range), expected);
  }
}

}  // namespace
}  // namespace varve::tracker
