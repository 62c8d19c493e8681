// SPDX-License-Identifier: Apache-2.0
#include "tracker/hotness.h"

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "tracker/costs.h"

namespace varve::tracker {
namespace {

PageRange run(std::size_t first, std::size_t end) {
  const std::uintptr_t base = std::uintptr_t{1} << 30;
  return {base + first * page_bytes(), base + end * page_bytes()};
}

// Pages by their numbers, cut by cut, as a Tracking tells it: what the program wrote, what hashing found, what was
// protected then.
class HotnessTest : public testing::Test {
 protected:
  static constexpr std::size_t kPages = 1000;
  void SetUp() override {
    ASSERT_TRUE(hotness_.allocate(run(0, kPages)));
    hotness_.set_worth(4);
    hotness_.armed(++cut_);
    writable_.assign(kPages, false);
  }

  /// An epoch in which these pages change and those are written with what was there, its image, and a cool(). The pages
  /// that were suspects.
  std::set<std::size_t> epoch(const std::set<std::size_t>& changed, const std::set<std::size_t>& rewritten = {}) {
    faults_ = 0;
    for (const auto* pages : {&changed, &rewritten})
      for (const std::size_t page : *pages) {
        faults_ += !writable_[page];
        writable_[page] = true;
      }
    ++cut_;
    std::set<std::size_t> suspects;
    for (std::size_t page = 0; page < kPages; ++page)
      if (writable_[page]) suspects.insert(page);
    for (const std::size_t page : suspects) hotness_.found(cut_, run(page, page + 1), changed.contains(page));
    for (const PageRange& range : cold()) {
      for (std::size_t page = number(range.begin); page < number(range.end); ++page) writable_[page] = false;
      hotness_.cooled(cut_, range);
    }
    return suspects;
  }
  PageRuns cold() {
    Hotness::ColdRanges ranges;
    for (std::size_t page = 0; page < kPages; ++page)
      if (writable_[page]) hotness_.look_at(cut_, run(page, page + 1), ranges);
    Hotness::finish(ranges);
    return ranges.ranges;
  }
  static std::size_t number(std::uintptr_t address) { return (address - run(0, 0).begin) / page_bytes(); }

  Hotness hotness_;
  std::uint64_t cut_ = 0;
  std::vector<bool> writable_;
  int faults_ = 0;
};

TEST_F(HotnessTest, APageThatChangesInEveryEpochIsLeftAloneAfterItsFirstFault) {
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(epoch({7}), std::set<std::size_t>{7});
    EXPECT_EQ(faults_, i == 0 ? 1 : 0) << "epoch " << i;
  }
}

TEST_F(HotnessTest, APageThatBecomesHotLateCostsTwoFaults) {
  for (int i = 0; i < 10; ++i) epoch({});
  int all = 0;
  for (int i = 0; i < 100; ++i) {
    epoch({7});
    all += faults_;
  }
  EXPECT_EQ(all, 2);
}

TEST_F(HotnessTest, PagesThatAreWrittenOnceAreSuspectsOnce) {
  for (int i = 0; i < 10; ++i) epoch({});
  for (std::size_t page = 0; page < 600; ++page) EXPECT_EQ(epoch({page}), std::set<std::size_t>{page});
}

TEST_F(HotnessTest, WhatWasHotIsProtectedAfterOneUnchangedCut) {
  for (int i = 0; i < 20; ++i) epoch({7, 8, 9});
  EXPECT_EQ(epoch({500}), (std::set<std::size_t>{7, 8, 9, 500}));
  EXPECT_EQ(epoch({500}), std::set<std::size_t>{500});
}

TEST_F(HotnessTest, ABurstIsForgottenAtOnceAndTheHotPagesStayWritable) {
  for (int i = 0; i < 20; ++i) epoch({7});
  std::set<std::size_t> burst;
  for (std::size_t page = 0; page < kPages; page += 2) burst.insert(page);
  burst.insert(7);
  EXPECT_EQ(epoch(burst), burst);
  EXPECT_EQ(epoch({7}), std::set<std::size_t>{7});
  EXPECT_EQ(faults_, 0);
}

TEST_F(HotnessTest, APageThatIsWrittenWithTheSameIsTriedAtEverLongerIntervals) {
  int all = 0;
  int late = 0;
  for (int i = 0; i < 2000; ++i) {
    epoch({}, {7});
    all += faults_;
    if (i >= 1000) late += faults_;
  }
  // Patience goes up to 31 cuts (the first step at or above 4 * 4): a fault in 32 epochs.
  EXPECT_LE(late, 1000 / 31 + 1);
  EXPECT_GE(late, 1000 / 33 - 1);
  EXPECT_LE(all, 2000 / 31 + 6);
}

TEST_F(HotnessTest, PatienceShrinksOnceProtectingPays) {
  for (int i = 0; i < 1000; ++i) epoch({}, {7});
  const auto until_protected = [this] {
    for (int cuts = 0;; ++cuts)
      if (epoch({}).empty()) return cuts;
  };
  EXPECT_GE(until_protected(), 1);
  int before = 1000;
  for (int i = 0; i < 6; ++i) {  // written once in a while: each time it is found cold sooner
    for (int quiet = 0; quiet < 10; ++quiet) epoch({});
    epoch({7});
    const int now = until_protected();
    EXPECT_LE(now, before);
    before = now;
  }
  EXPECT_EQ(before, 0);
}

TEST_F(HotnessTest, APageThatNoCutHasSeenIsLeftToTheNext) {
  epoch({});
  writable_[7] = true;  // written after the cut
  EXPECT_EQ(cold(), PageRuns());
  EXPECT_EQ(hotness_.mistakes(), 1U) << "it came back within the worth";
}

TEST_F(HotnessTest, RangesSpanProtectedPagesButNoHotOnes) {
  for (int i = 0; i < 3; ++i) epoch({40});
  for (int i = 0; i < 10; ++i) epoch({40});
  // 20 to 30 and 60 to 70 are protected all the time; 40 is hot.
  std::set<std::size_t> changed = {40};
  for (const auto& [first, end] : {std::pair{10U, 20U}, {30U, 31U}, {50U, 60U}, {70U, 80U}})
    for (std::size_t page = first; page < end; ++page) changed.insert(page);
  ++cut_;
  for (const std::size_t page : changed) {
    writable_[page] = true;
    hotness_.found(cut_, run(page, page + 1), true);
  }
  EXPECT_EQ(cold(), PageRuns({run(10, 31), run(50, 80)}));
}

TEST(Costs, ProtectingPaysOnceItHasSparedAsManyVisits) {
  EXPECT_EQ(cuts_worth_protecting({.fault_ns = 16'000, .protect_ns = 100, .visit_ns = 400}), 41U);
  EXPECT_EQ(cuts_worth_protecting({.fault_ns = 500, .protect_ns = 10, .visit_ns = 400}), 2U);
  EXPECT_EQ(cuts_worth_protecting({.fault_ns = 1'000'000, .protect_ns = 0, .visit_ns = 400}), 64U);
  EXPECT_EQ(cuts_worth_protecting({.fault_ns = 10, .protect_ns = 0, .visit_ns = 400}), 1U);
  EXPECT_EQ(cuts_worth_protecting({}), 1U);
}

TEST(Costs, AVisitIsMeasuredInPlausibleTime) {
  const double ns = measure_visit_ns();
  EXPECT_GT(ns, 20);
  EXPECT_LT(ns, 1'000'000);
}

TEST(Costs, AreFollowed) {
  double average = 0;
  follow(average, 100);
  EXPECT_EQ(average, 100);
  follow(average, 0);  // not measured
  EXPECT_EQ(average, 100);
  for (int i = 0; i < 60; ++i) follow(average, 300);
  EXPECT_NEAR(average, 300, 1);
}

TEST(Costs, OfTheBackEndsAreMeasured) {
  for (const BackEndReport& report : Service::process().probe()) {
    const Costs costs = Service::process().costs(report.kind);
    EXPECT_GT(costs.visit_ns, 0) << to_string(report.kind);
    const bool has_policy = report.kind == BackEndKind::uffd || report.kind == BackEndKind::mprotect;
    if (!report.available || !has_policy) continue;
    EXPECT_GT(costs.fault_ns, 50) << to_string(report.kind);
    EXPECT_GT(costs.protect_ns, 1) << to_string(report.kind);
    EXPECT_GT(costs.list_ns, 0) << to_string(report.kind);
  }
}

}  // namespace
}  // namespace varve::tracker
