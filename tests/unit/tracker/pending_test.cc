// SPDX-License-Identifier: Apache-2.0
#include "tracker/pending.h"

#include <gtest/gtest.h>

namespace varve::tracker {
namespace {

using Reporter = Pending::Reporter;

class PendingTest : public testing::Test {
 protected:
  static constexpr std::size_t kPages = 10'000;
  static PageRange run(std::size_t first, std::size_t end) {
    const std::uintptr_t base = std::uintptr_t{1} << 30;
    return {base + first * page_bytes(), base + end * page_bytes()};
  }
  void SetUp() override {
    ASSERT_TRUE(pending_.allocate(run(0, kPages)));
    pending_.begin_cut(1);
    commit(1);
  }
  void commit(std::uint64_t epoch) {
    pending_.committed(epoch);
    for (std::optional<std::size_t> from = 0; from.has_value();) from = pending_.drop_committed(*from, 700);
  }
  PageRuns merged(const PageRuns& written = {}) {
    PageRuns suspects;
    pending_.merge(written, suspects);
    return suspects;
  }
  Pending pending_;
};

TEST_F(PendingTest, EverythingIsPendingUntilACutThatCameAfterIsCommitted) {
  Pending fresh;
  ASSERT_TRUE(fresh.allocate(run(0, 10)));
  EXPECT_TRUE(fresh.whole());
  fresh.begin_cut(5);
  PageRuns suspects;
  fresh.merge({}, suspects);
  EXPECT_EQ(suspects, PageRuns({run(0, 10)}));
  fresh.report_whole();  // after the cut
  fresh.committed(5);
  EXPECT_TRUE(fresh.whole());
  fresh.begin_cut(6);
  fresh.committed(6);
  EXPECT_TRUE(fresh.empty());
}

TEST_F(PendingTest, ACommitDropsWhatWasReportedBeforeItsCutOnly) {
  pending_.report(run(3, 5), Reporter::other);
  pending_.begin_cut(2);
  pending_.report(run(4, 6), Reporter::other);
  pending_.begin_cut(3);
  pending_.report(run(9000, 9001), Reporter::other);
  EXPECT_EQ(merged(), PageRuns({run(3, 6), run(9000, 9001)}));
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(4, 6), run(9000, 9001)}));
  commit(3);
  EXPECT_EQ(merged(), PageRuns({run(9000, 9001)}));
}

TEST_F(PendingTest, CommitsOutOfOrderOrOfUnknownCutsDropNothing) {
  pending_.begin_cut(2);
  pending_.report(run(1, 2), Reporter::other);
  pending_.begin_cut(3);
  commit(3);
  EXPECT_TRUE(pending_.empty());
  pending_.report(run(1, 2), Reporter::other);
  commit(2);
  commit(99);
  EXPECT_EQ(merged(), PageRuns({run(1, 2)}));
}

TEST_F(PendingTest, ACommitThatCameVeryLateDropsNothing) {
  pending_.report(run(1, 2), Reporter::other);
  for (std::uint64_t epoch = 2; epoch < 100; ++epoch) pending_.begin_cut(epoch);
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(1, 2)}));
  commit(99);
  EXPECT_TRUE(pending_.empty());
}

TEST_F(PendingTest, OnlyPagesOfTheLastCoolAreSettled) {
  pending_.begin_cool();
  pending_.report(run(1, 3), Reporter::own_cool);
  pending_.begin_cool();
  pending_.report(run(2, 5), Reporter::own_cool);
  pending_.report(run(4, 5), Reporter::other);
  pending_.settled(run(0, 10));
  EXPECT_EQ(merged(), PageRuns({run(1, 2), run(4, 5)}));
}

TEST_F(PendingTest, NothingIsSettledThatWasCooledWhileAnOlderImageWasUnderWay) {
  pending_.begin_cut(2);
  pending_.begin_cool();
  pending_.report(run(1, 3), Reporter::own_cool);
  commit(2);
  pending_.report(run(5, 6), Reporter::own_cool);  // from here on the committed content is that of the last cut
  pending_.settled(run(0, 10));
  EXPECT_EQ(merged(), PageRuns({run(1, 3)}));
}

TEST_F(PendingTest, ARangeThatWasCooledWholeIsSettledPageByPage) {
  pending_.report_whole();
  pending_.begin_cool();
  pending_.report(run(0, 6000), Reporter::own_cool);  // the rest was protected by somebody else before
  for (std::optional<std::size_t> from = 0; from.has_value();) from = pending_.spread_whole(*from, 700);
  EXPECT_EQ(merged(), PageRuns({run(0, kPages)}));
  pending_.settled(run(0, kPages));
  EXPECT_EQ(merged(), PageRuns({run(6000, kPages)}));
  pending_.begin_cut(2);
  commit(2);
  EXPECT_TRUE(pending_.empty());
}

TEST_F(PendingTest, ARangeThatWasLostDuringTheCoolStaysPendingWhole) {
  pending_.begin_cool();
  pending_.report(run(0, kPages), Reporter::own_cool);
  pending_.report_whole();
  for (std::optional<std::size_t> from = 0; from.has_value();) from = pending_.spread_whole(*from, 700);
  pending_.settled(run(0, kPages));
  EXPECT_TRUE(pending_.whole());
}

TEST_F(PendingTest, SettlingWorksAcrossACutThatCameAfterTheCool) {
  pending_.begin_cool();
  pending_.report(run(1, 3), Reporter::own_cool);
  pending_.begin_cut(2);
  pending_.settled(run(1, 2));
  EXPECT_EQ(merged(), PageRuns({run(2, 3)}));
}

TEST_F(PendingTest, SuspectsOfACutAreDroppedByItsCommitAndNotByAnOlderCuts) {
  pending_.begin_cut(2);
  pending_.begin_cut(3);
  pending_.report_suspects(run(3, 5), 3);
  EXPECT_EQ(merged(), PageRuns({run(3, 5)}));
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(3, 5)}));
  commit(3);
  EXPECT_TRUE(pending_.empty());
}

TEST_F(PendingTest, SuspectsAreNotTakenForOlderThanTheirLastReport) {
  pending_.begin_cut(2);
  pending_.report(run(3, 4), Reporter::other);
  pending_.report_suspects(run(2, 5), 2);
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(3, 4)}));
}

TEST_F(PendingTest, SuspectsAreTakenForNewerThanAnOlderReport) {
  pending_.report(run(3, 4), Reporter::other);
  pending_.begin_cut(2);
  pending_.begin_cut(3);
  pending_.report_suspects(run(2, 5), 3);
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(2, 5)}));
}

TEST_F(PendingTest, SuspectsOfAnUnknownCutWaitForTheNextOne) {
  pending_.begin_cut(2);
  pending_.report_suspects(run(3, 5), 77);
  commit(2);
  EXPECT_EQ(merged(), PageRuns({run(3, 5)}));
  pending_.begin_cut(3);
  commit(3);
  EXPECT_TRUE(pending_.empty());
}

TEST_F(PendingTest, SuspectsOfARangeThatIsPendingWholeGoWithIt) {
  pending_.report_whole();
  pending_.begin_cut(2);
  pending_.report_suspects(run(3, 5), 2);
  EXPECT_EQ(merged(), PageRuns({run(0, kPages)}));
  commit(2);
  EXPECT_TRUE(pending_.empty());
}

TEST_F(PendingTest, ASuspectThatWasCooledBeforeItsCutIsNotSettled) {
  pending_.begin_cool();
  pending_.report(run(1, 3), Reporter::own_cool);
  pending_.begin_cut(2);
  pending_.report_suspects(run(1, 2), 2);  // written after the cool: what was compared is not what is there
  pending_.settled(run(0, 10));
  EXPECT_EQ(merged(), PageRuns({run(1, 2)}));
}

TEST_F(PendingTest, TellsWhatWasReportedAfterACut) {
  pending_.report(run(1, 3), Reporter::other);
  pending_.begin_cut(2);
  pending_.report_suspects(run(5, 7), 2);
  pending_.report(run(2, 3), Reporter::other);
  pending_.begin_cool();
  pending_.report(run(9, 10), Reporter::own_cool);
  PageRuns pages;
  EXPECT_TRUE(pending_.since(2, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns({run(2, 3), run(9, 10)}));
  pages.clear();
  EXPECT_TRUE(pending_.since(2, run(3, 10), pages));
  EXPECT_EQ(pages, PageRuns({run(9, 10)}));
  pages.clear();
  EXPECT_TRUE(pending_.since(2, run(3, 9), pages));
  EXPECT_EQ(pages, PageRuns());
}

TEST_F(PendingTest, TellsWhatWasReportedAfterTheForkThatFollowedACut) {
  pending_.begin_cut(2);
  pending_.begin_cool();
  pending_.report(run(1, 3), Reporter::own_cool);
  pending_.begin_fork(2);
  PageRuns pages;
  EXPECT_TRUE(pending_.since(2, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns());
  pending_.report(run(2, 3), Reporter::own_cool);
  pending_.begin_cut(3);
  pending_.report_suspects(run(5, 7), 3);
  pending_.begin_fork(3);
  EXPECT_TRUE(pending_.since(2, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns({run(2, 3), run(5, 6), run(6, 7)}));
  pages.clear();
  EXPECT_TRUE(pending_.since(3, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns());
  pending_.committed(2);
  for (std::optional<std::size_t> from = 0; from.has_value();) from = pending_.drop_committed(*from, kPages);
  PageRuns suspects;
  pending_.merge({}, suspects);
  EXPECT_EQ(suspects, PageRuns({run(1, 3), run(5, 7)})) << "a report within a cut's stall is of the next one";
}

TEST_F(PendingTest, TellsSuspectsOfALaterCutFromTheOlderOneOn) {
  pending_.begin_cut(2);
  pending_.begin_cut(3);
  pending_.report_suspects(run(5, 6), 3);
  PageRuns pages;
  EXPECT_TRUE(pending_.since(2, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns({run(5, 6)}));
  pages.clear();
  EXPECT_TRUE(pending_.since(3, run(0, kPages), pages));
  EXPECT_EQ(pages, PageRuns());
}

TEST_F(PendingTest, TellsSuspectsOfALaterCutAlsoWhileTheWholeRangeIsPending) {
  pending_.report_whole();
  pending_.begin_cut(2);
  pending_.begin_cut(3);
  pending_.report_suspects(run(5, 6), 3);
  PageRuns pages;
  const bool told = pending_.since(2, run(0, kPages), pages);
  EXPECT_TRUE(!told || pages == PageRuns({run(5, 6)})) << "the write between the cuts is lost";
}

TEST_F(PendingTest, CannotTellSinceAnUnknownCutOrOnceTheWholeRangeIsPendingSince) {
  PageRuns pages;
  EXPECT_FALSE(pending_.since(77, run(0, 10), pages));
  pending_.report_whole();
  pending_.begin_cut(2);
  EXPECT_TRUE(pending_.since(2, run(0, 10), pages)) << "it was pending before";
  pending_.report_whole();
  EXPECT_FALSE(pending_.since(2, run(0, 10), pages));
  pending_.begin_cut(3);
  EXPECT_TRUE(pending_.since(3, run(0, 10), pages));
  EXPECT_EQ(pages, PageRuns());
}

TEST_F(PendingTest, MergingJoinsWrittenAndPendingPages) {
  pending_.report(run(2, 4), Reporter::other);
  pending_.report(run(6, 7), Reporter::other);
  pending_.report(run(20, 30), Reporter::other);
  pending_.report(run(5000, 5001), Reporter::other);
  EXPECT_EQ(merged({run(0, 1), run(4, 6), run(10, 11), run(22, 24), run(29, 35), run(9999, 10'000)}),
            PageRuns({run(0, 1), run(2, 7), run(10, 11), run(20, 35), run(5000, 5001), run(9999, 10'000)}));
  EXPECT_EQ(merged(), PageRuns({run(2, 4), run(6, 7), run(20, 30), run(5000, 5001)}));
}

TEST_F(PendingTest, KnowsTheNumberOfRecentCuts) {
  pending_.begin_cut(17);
  EXPECT_EQ(pending_.cut_number(1), 1U);
  EXPECT_EQ(pending_.cut_number(17), 2U);
  EXPECT_FALSE(pending_.cut_number(16).has_value());
}

}  // namespace
}  // namespace varve::tracker
