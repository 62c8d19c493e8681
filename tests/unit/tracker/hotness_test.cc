// SPDX-License-Identifier: Apache-2.0
#include "tracker/hotness.h"

#include <gtest/gtest.h>

#include "tracker/costs.h"

namespace varve::tracker {
namespace {

PageRange run(std::size_t first, std::size_t end) {
  const std::uintptr_t base = std::uintptr_t{1} << 30;
  return {base + first * page_bytes(), base + end * page_bytes()};
}

class HotnessTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(hotness_.allocate(run(0, 1000), 3)); }
  PageRuns taken(const PageRuns& written) {
    PageRuns ranges;
    hotness_.take_cold(written, ranges);
    return ranges;
  }
  Hotness hotness_;
};

TEST_F(HotnessTest, APageIsColdAfterSoManyCutsInARowWithoutAChange) {
  hotness_.unchanged(1, run(5, 8));
  hotness_.unchanged(2, run(5, 8));
  EXPECT_FALSE(hotness_.any_cold());
  hotness_.unchanged(3, run(5, 7));
  EXPECT_TRUE(hotness_.any_cold());
  EXPECT_EQ(taken({run(0, 1000)}), PageRuns({run(5, 7)}));
  EXPECT_FALSE(hotness_.any_cold());
}

TEST_F(HotnessTest, AChangeBreaksTheRow) {
  for (const std::uint64_t cut : {1U, 2U, 4U, 5U}) hotness_.unchanged(cut, run(5, 6));
  EXPECT_FALSE(hotness_.any_cold());
  hotness_.unchanged(6, run(5, 6));
  EXPECT_TRUE(hotness_.any_cold());
}

TEST_F(HotnessTest, RowsGoOnAcrossTheWrapOfCutNumbers) {
  for (std::uint64_t cut = 62; cut <= 64; ++cut) hotness_.unchanged(cut, run(5, 6));
  EXPECT_TRUE(hotness_.any_cold());
}

TEST_F(HotnessTest, RangesSpanProtectedPagesButNoHotOnes) {
  for (std::uint64_t cut = 1; cut <= 3; ++cut)
    for (const PageRange pages : {run(10, 20), run(30, 31), run(50, 60), run(70, 80)}) hotness_.unchanged(cut, pages);
  // 40 is hot; 20 to 30 and 60 to 70 are protected; 70 to 75 was protected by somebody else.
  const PageRuns written = {run(10, 20), run(30, 31), run(40, 41), run(50, 60), run(75, 85)};
  EXPECT_EQ(taken(written), PageRuns({run(10, 31), run(50, 80)}));
}

TEST(Costs, AColdPageHasCostAsMuchInVisitsAsAFaultWould) {
  EXPECT_EQ(cuts_until_cold({.fault_ns = 16'000, .protect_ns = 100, .visit_ns = 400}), 41U);
  EXPECT_EQ(cuts_until_cold({.fault_ns = 500, .protect_ns = 10, .visit_ns = 400}), 2U);
  EXPECT_EQ(cuts_until_cold({.fault_ns = 1'000'000, .protect_ns = 0, .visit_ns = 400}), 64U);
  EXPECT_EQ(cuts_until_cold({.fault_ns = 10, .protect_ns = 0, .visit_ns = 400}), 1U);
  EXPECT_EQ(cuts_until_cold({}), 1U);
}

TEST(Costs, AVisitIsMeasuredInPlausibleTime) {
  const double ns = measure_visit_ns();
  EXPECT_GT(ns, 20);
  EXPECT_LT(ns, 1'000'000);
}

}  // namespace
}  // namespace varve::tracker
