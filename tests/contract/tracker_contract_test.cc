// SPDX-License-Identifier: Apache-2.0
//
// The contract of every tracker: it never misses a write, whoever made it, and forgets a page only when a committed
// image holds it. Too much may be reported; exact back ends report nothing too much here.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/contract/tracker_fixture.h"

namespace varve::tracker {
namespace {

class TrackerContract : public TrackerTest {
 protected:
  std::uint64_t epoch_ = 0;
};

TEST_P(TrackerContract, EverythingIsASuspectUntilTheFirstImageIsCommitted) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), kind());
  EXPECT_EQ(tracked->back_end(), kind());
  EXPECT_EQ(tracked.cut(), memory.all());
  EXPECT_EQ(tracked.cut(), memory.all());
  tracked->committed(tracked.epoch());
  tracked.settle(tracked.cool());
  expect_suspects(tracked.cut(), {});
}

TEST_P(TrackerContract, SeesSingleBytesAtPageEdges) {
  const Memory memory(64);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const std::size_t last = page_bytes() - 1;
  memory.write(0, 0);
  memory.write(7, last);
  memory.write(8, 0);
  memory.write(20, last);
  memory.write(63, last);
  expect_suspects(tracked.cut(), {0, 7, 8, 20, 63});
}

TEST_P(TrackerContract, SeesAValueThatLiesAcrossTwoPages) {
  const Memory memory(8);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const std::uint64_t value = ~std::uint64_t{0};
  std::memcpy(memory.at(4) - 3, &value, sizeof value);
  expect_suspects(tracked.cut(), {3, 4});
}

TEST_P(TrackerContract, SeesMemsetOverTheWholeRange) {
  const Memory memory(3000);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  std::memset(memory.data(), 7, memory.bytes());
  expect_suspects(tracked.cut(), memory.all());
}

TEST_P(TrackerContract, SeesTheFirstTouchOfUnpopulatedPages) {
  const Memory memory(2048, {.populate = false});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(0);
  memory.write(700);
  memory.write(2047);
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, {0, 700, 2047}));
  if (protects_ranges()) {
    EXPECT_EQ(suspects, Pages({0, 700, 2047}));
  }
}

TEST_P(TrackerContract, ReadingIsNotWriting) {
  const Memory memory(64, {.populate = false});
  for (std::size_t page = 0; page < 32; ++page) memory.write(page);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  unsigned sum = 0;
  for (std::size_t page = 0; page < 64; ++page) sum += *static_cast<volatile std::uint8_t*>(memory.at(page));
  EXPECT_EQ(sum, 32U);
  expect_suspects(tracked.cut(), {});
}

TEST_P(TrackerContract, SeesWritesByOtherThreads) {
  const Memory memory(400);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  std::vector<std::thread> threads;
  for (std::size_t start = 0; start < 4; ++start)
    threads.emplace_back([&memory, start] {
      for (std::size_t page = start; page < 400; page += 8) memory.write(page);
    });
  for (std::thread& thread : threads) thread.join();
  Pages written;
  for (std::size_t page = 0; page < 400; ++page)
    if (page % 8 < 4) written.insert(page);
  expect_suspects(tracked.cut(), written);
}

TEST_P(TrackerContract, SeesWritesByTheKernelOrRefusesThemLoudly) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(zero, 0);
  memory.write(9, 100);
  const std::uint8_t before = *memory.at(4, 10);
  const ssize_t got = read(zero, memory.at(4, 10), 2 * page_bytes());
  if (kind() == BackEndKind::mprotect) {
    EXPECT_EQ(got, -1);
    EXPECT_EQ(errno, EFAULT);
    EXPECT_EQ(*memory.at(4, 10), before);
    expect_suspects(tracked.cut(), {9});
    const Status writable = Service::process().writable(memory.range(4, 7));
    ASSERT_TRUE(writable.has_value()) << writable.error().message();
    EXPECT_EQ(pread(zero, memory.at(4, 10), 2 * page_bytes(), 0), static_cast<ssize_t>(2 * page_bytes()));
  } else {
    EXPECT_EQ(got, static_cast<ssize_t>(2 * page_bytes()));
  }
  close(zero);
  expect_suspects(tracked.cut(), {4, 5, 6, 9});
}

TEST_P(TrackerContract, AFailedImageKeepsItsSuspects) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  expect_suspects(tracked.cut(), {3});
  memory.write(5);
  expect_suspects(tracked.cut(), {3, 5});
  tracked.cool();
  expect_suspects(tracked.cut(), {3, 5});
}

TEST_P(TrackerContract, APageStaysASuspectUntilAnImageThatHoldsItIsCommitted) {
  if (kind() == BackEndKind::hash) GTEST_SKIP() << "everything is always a suspect of hash";
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  tracked.make_cold();  // pending now (soft-dirty: clean again, since its cuts were committed)
  if (!protects_ranges()) memory.write(3);
  const Pages first = tracked.cut();
  const std::uint64_t first_epoch = tracked.epoch();
  EXPECT_EQ(first, Pages({3}));
  memory.write(8);
  const Pages second = tracked.cut();
  const std::uint64_t second_epoch = tracked.epoch();
  EXPECT_EQ(second, Pages({3, 8}));
  tracked->committed(first_epoch);
  EXPECT_EQ(tracked.cut(), Pages({8}));
  tracked->committed(second_epoch);
  // Where cuts protect nothing, page 8 is still writable and so still written.
  EXPECT_EQ(tracked.cut(), protects_ranges() ? Pages({8}) : Pages());
}

TEST_P(TrackerContract, WhatWasReportedAfterACutIsNotForgottenByItsCommit) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.cut();
  const std::uint64_t early = tracked.epoch();
  const Pages cooled = tracked.cool();  // after the cut: all pages are reported now
  EXPECT_EQ(cooled, memory.all());
  tracked.settle(cooled);  // must not count: the image of the cut is still under way
  tracked->committed(early);
  EXPECT_EQ(tracked.cut(), memory.all());
  tracked->committed(tracked.epoch());
  EXPECT_EQ(tracked.cut(), Pages());
}

TEST_P(TrackerContract, CooledPagesArePendingUntilSettledOrCommitted) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.cut_and_commit();
  EXPECT_EQ(tracked.cool(), memory.all());
  memory.write(2);
  tracked.settle(Memory::some(0, 30));
  EXPECT_EQ(tracked.cut(), Pages({2, 30, 31})) << "2 was written again, 30 and 31 were not settled";
  tracked->committed(tracked.epoch());
  EXPECT_EQ(tracked.cut(), Pages({2}));
}

TEST_P(TrackerContract, WhatWasCooledAheadIsNamedAndSettledWithTheRest) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(500);
  Tracked tracked(memory, memory.range(), kind());
  tracked->cool_ahead(memory.range(0, 100).end);
  tracked->cool_ahead(memory.range(0, 50).end);
  tracked->cool_ahead(memory.range(0, 300).end);
  memory.write(77);
  EXPECT_EQ(tracked.cool(), memory.all());
  memory.write(400);
  tracked.settle(Memory::some(0, 499));
  EXPECT_EQ(tracked.cut(), Pages({77, 400, 499}));
  tracked->cool_ahead(memory.range().end);  // not any more
  memory.write(5);
  EXPECT_TRUE(includes(tracked.cut(), Pages({5, 77, 400, 499})));
}

TEST_P(TrackerContract, WhatWasCooledAheadOfACutIsASuspectUntilItIsCommitted) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(100);
  Tracked tracked(memory, memory.range(), kind());
  tracked->cool_ahead(memory.range(0, 60).end);
  EXPECT_EQ(tracked.cut(), memory.all());
  memory.write(3);
  const Pages cooled = tracked.cool();
  EXPECT_TRUE(includes(cooled, Memory::some(60, 100))) << "what was protected ahead is not named again";
  EXPECT_TRUE(cooled.contains(3));
  tracked.settle(cooled);  // too early: the image is in flight
  EXPECT_EQ(tracked.cut(), memory.all());
  tracked->committed(tracked.epoch());
  memory.write(4);
  EXPECT_EQ(tracked.cut(), Pages({4}));
}

TEST_P(TrackerContract, WhatARestoreFilledCanBeSettledBeforeTheFirstImage) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(500);
  Tracked tracked(memory, memory.range(), kind());
  EXPECT_EQ(tracked.cool(), memory.all());
  memory.write(77);
  tracked.settle(Memory::some(0, 499));
  EXPECT_EQ(tracked.cut(), Pages({77, 499}));
}

TEST_P(TrackerContract, SettlingForgetsNothingThatWasTouchedSince) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(8);
  Tracked tracked(memory, memory.range(), kind());
  tracked.cut_and_commit();
  tracked.cool();
  tracked->touch(memory.range(5, 6));
  tracked.settle(memory.all());
  EXPECT_EQ(tracked.cut(), Pages({5}));
}

TEST_P(TrackerContract, TouchedPagesAreSuspectsUntilCommitted) {
  const Memory memory(300);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  tracked->touch(memory.range(0, 1));
  tracked->touch(memory.range(60, 200));
  tracked->touch({memory.range().begin - 64 * page_bytes(), memory.range().begin});  // outside: nobody's
  Pages touched = Memory::some(60, 200);
  touched.insert(0);
  expect_suspects(tracked.cut(), touched);
  expect_suspects(tracked.cut(), touched);
  tracked->committed(tracked.epoch());
  expect_suspects(tracked.cut(), {});
}

TEST_P(TrackerContract, OverlappingTrackingsEachSeeEveryWrite) {
  const Memory memory(100);
  Tracked low(memory, memory.range(0, 60), kind());
  Tracked high(memory, memory.range(40, 100), kind());
  low.arm();
  high.arm();
  low.cut_and_commit();  // where arming the second one reported pages to the first
  memory.write(10);
  memory.write(50);
  memory.write(90);
  expect_suspects(low.cut_and_commit(), kind() == BackEndKind::hash ? Memory::some(0, 60) : Pages({10, 50}));
  low.make_cold();  // protects page 50 on behalf of the first; the second has not seen it yet
  const Pages seen = high.cut();
  EXPECT_TRUE(includes(seen, {50, 90}));
  if (exact()) {
    EXPECT_EQ(seen, Pages({50, 90}));
  }
  const Pages again = high.cut();
  EXPECT_TRUE(includes(again, {50, 90})) << "its image was not committed";
}

TEST_P(TrackerContract, EndingATrackingLeavesOthersOfTheSamePages) {
  const Memory memory(100);
  Tracked low(memory, memory.range(0, 60), kind());
  Tracked high(memory, memory.range(40, 100), kind());
  high.arm();
  low.end();
  memory.write(45);
  memory.write(95);
  memory.write(10);  // nobody's
  expect_suspects(high.cut(), kind() == BackEndKind::hash ? Memory::some(40, 100) : Pages({45, 95}));
}

TEST_P(TrackerContract, RangesComeAndGoBetweenCuts) {
  const Memory memory(90);
  Tracked first(memory, memory.range(0, 30), kind());
  first.arm();
  Tracked second(memory, memory.range(30, 60), kind());
  memory.write(3);
  EXPECT_EQ(second.cut_and_commit(), Memory::some(30, 60));
  EXPECT_TRUE(first.cut_and_commit().contains(3));
  second.settle(second.cool());
  {
    Tracked third(memory, memory.range(60, 90), kind());
    third.arm();
    memory.write(61);
    EXPECT_TRUE(third.cut().contains(61));
  }
  memory.write(5);
  memory.write(33);
  memory.write(70);
  EXPECT_TRUE(first.cut().contains(5));
  EXPECT_TRUE(second.cut().contains(33));
  Tracked third_again(memory, memory.range(60, 90), kind());
  EXPECT_EQ(third_again.cut(), Memory::some(60, 90));
}

TEST_P(TrackerContract, MemoryIsAsBeforeWhenTrackingHasEnded) {
  const Memory memory(64);
  {
    Tracked tracked(memory, memory.range(), kind());
    tracked.arm();
  }
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(read(zero, memory.data(), memory.bytes()), static_cast<ssize_t>(memory.bytes()));
  close(zero);
}

TEST_P(TrackerContract, AChildOfTheProgramDisturbsNothingAndTracksNothing) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  const pid_t child = fork();
  if (child == 0) {
    memory.write(3);
    memory.write(10);  // a protected page in the child as well
    PageRuns runs;
    const Status cut = tracked->cut(1000, runs);
    const Status cool = tracked->cool(runs);
    tracked->touch(memory.range());
    tracked->committed(2);
    tracked.end();
    const bool inert = !cut.has_value() && cut.error().code() == ErrorCode::unsupported && !cool.has_value() &&
                       !Service::process().track(memory.range(), {}, nullptr).has_value();
    _exit(inert && *memory.at(10) == 2 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(*memory.at(10), 1);
  memory.write(20);
  expect_suspects(tracked.cut_and_commit(), {3, 20});
  memory.write(21);
  EXPECT_TRUE(tracked.cut().contains(21));
}

TEST_P(TrackerContract, RandomWritesAreReportedAndOverReportingIsCounted) {
  const Memory memory(4000);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const auto seed = std::random_device()();
  std::mt19937 random(seed);
  SCOPED_TRACE("seed " + std::to_string(seed));
  Pages written;
  std::size_t suspects_seen = 0;
  for (int epoch = 0; epoch < 30; ++epoch) {
    if (!protects_ranges()) written.clear();  // else pages stay writable, hence written
    for (int i = 0; i < 40; ++i) {
      const std::size_t page = random() % memory.pages();
      memory.write(page, random() % page_bytes());
      written.insert(page);
    }
    const Pages suspects = tracked.cut_and_commit();
    expect_suspects(suspects, written);
    suspects_seen += suspects.size();
  }
  const TrackingCounters counters = tracked->counters();
  EXPECT_EQ(counters.cuts, 32U);
  EXPECT_EQ(counters.suspect_pages, suspects_seen + 4000 + (exact() ? 0 : 4000));
}

TEST_P(TrackerContract, ARangeThatIsAlwaysWrittenIsNotListedUntilThatChanges) {
  if (!protects_ranges()) GTEST_SKIP() << "nothing is protected between cuts";
  const Memory memory(1500);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const auto epoch = [&](std::size_t first) {
    for (std::size_t page = first; page < memory.pages(); ++page) memory.write(page);
    PageRuns suspects;
    const Status cut = tracked->cut(++epoch_, suspects);
    EXPECT_TRUE(cut.has_value()) << cut.error().message();
    const PageRuns unchanged = {memory.range(0, first)};
    tracked->committed(epoch_);
    tracked->reduced(epoch_, {.suspects = suspects, .unchanged = first == 0 ? PageRuns() : unchanged});
    tracked.settle(tracked.cool());
    return memory.pages_of(suspects);
  };
  epoch_ = tracked.epoch();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(epoch(0), memory.all());
  const std::uint64_t not_listed = tracked->counters().cuts_not_listed;
  EXPECT_GT(not_listed, 0U);
  for (int i = 0; i < 5; ++i) epoch(1490);
  EXPECT_EQ(epoch(1490), Memory::some(1490, 1500)) << "the pattern changed, and was followed";
  EXPECT_LT(tracked->counters().cuts_not_listed, not_listed + 4);
  memory.write(3);
  EXPECT_TRUE(epoch(1490).contains(3));
}

TEST_P(TrackerContract, CutsAreNumberedUpwards) {
  const Memory memory(4);
  Tracked tracked(memory, memory.range(), kind());
  tracked.cut();
  PageRuns suspects;
  const Status again = tracked->cut(1, suspects);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code(), ErrorCode::invalid_argument);
  EXPECT_EQ(tracked.cut(), memory.all());
}

VARVE_FOR_EVERY_BACK_END(TrackerContract);

TEST(TrackerService, RefusesWhatIsNoRunOfMappedWholePages) {
  const Memory memory(8);
  Service& service = Service::process();
  const PageRange whole = memory.range();
  for (const PageRange bad : {PageRange{whole.begin + 1, whole.end}, PageRange{whole.begin, whole.end - 1},
                              PageRange{whole.begin, whole.begin}, PageRange{whole.end, whole.begin}}) {
    const auto refused = service.track(bad, {}, nullptr);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  }
  ASSERT_EQ(munmap(memory.at(3), page_bytes()), 0);
  const auto refused = service.track(whole, {}, nullptr);
  memory.map_anew(3, 4);  // before anything else of the process is mapped there
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
}

TEST(TrackerService, ChoosesTheBestThatWorksAndSaysWhy) {
  const Memory memory(8);
  auto best = BackEndKind::hash;
  for (const BackEndReport& report : Service::process().probe()) {
    const bool candidate = report.kind == BackEndKind::uffd || report.kind == BackEndKind::soft_dirty;
    if (best == BackEndKind::hash && candidate && report.available) best = report.kind;
    if (!report.available) {
      EXPECT_FALSE(report.reason.empty());
    }
  }
  const auto tracking = track_or_fail(memory.range(), {}, nullptr);
  ASSERT_NE(tracking, nullptr);
  EXPECT_EQ(tracking->back_end(), best);
  EXPECT_FALSE(tracking->why().empty());
}

TEST(TrackerService, RefusesABackEndThatDoesNotWorkHere) {
  const Memory memory(8);
  bool all_work = true;
  for (const BackEndReport& report : Service::process().probe()) {
    if (report.available) continue;
    all_work = false;
    const auto refused = Service::process().track(memory.range(), report.kind, nullptr);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), ErrorCode::unsupported);
    EXPECT_FALSE(refused.error().cause().empty());
    EXPECT_FALSE(refused.error().remedy().empty());
  }
  if (all_work) GTEST_SKIP() << "every back end works here";
}

TEST(TrackerService, SoftDirtyServesOneOwnerAtATime) {
  if (const std::string reason = reason_not_to_run(BackEndKind::soft_dirty); !reason.empty()) GTEST_SKIP() << reason;
  const Memory memory(30);
  const int first_owner = 0;
  const int second_owner = 0;
  Tracked first(memory, memory.range(0, 10), BackEndKind::soft_dirty, &first_owner);
  Tracked friend_of_first(memory, memory.range(10, 20), BackEndKind::soft_dirty, &first_owner);
  {
    Tracked other(memory, memory.range(20, 30), BackEndKind::soft_dirty, &second_owner);
    EXPECT_EQ(other->back_end(), BackEndKind::hash);
    EXPECT_NE(other->why().find("another"), std::string::npos) << other->why();
    EXPECT_EQ(other.cut(), Memory::some(20, 30));
  }
  EXPECT_EQ(friend_of_first->back_end(), BackEndKind::soft_dirty);
  first.end();
  friend_of_first.end();
  Tracked other(memory, memory.range(20, 30), BackEndKind::soft_dirty, &second_owner);
  EXPECT_EQ(other->back_end(), BackEndKind::soft_dirty);
}

TEST(TrackerService, OneClearingServesAllRangesOfTheOwner) {
  if (const std::string reason = reason_not_to_run(BackEndKind::soft_dirty); !reason.empty()) GTEST_SKIP() << reason;
  const Memory memory(30);
  Tracked a(memory, memory.range(0, 10), BackEndKind::soft_dirty);
  Tracked b(memory, memory.range(10, 20), BackEndKind::soft_dirty);
  Tracked c(memory, memory.range(20, 30), BackEndKind::soft_dirty);
  for (Tracked* tracked : {&a, &b, &c}) tracked->cut_and_commit();
  memory.write(1);
  memory.write(11);
  memory.write(21);
  EXPECT_EQ(a.cut_and_commit(), Pages({1}));  // clears everything,
  EXPECT_EQ(b.cut(), Pages({11}));            // which must not be lost to the others,
  EXPECT_EQ(c.cut_and_commit(), Pages({21}));
  memory.write(12);
  EXPECT_EQ(c.cut_and_commit(), Pages());          // whoever begins the next round
  EXPECT_EQ(b.cut_and_commit(), Pages({11, 12}));  // nor what a failed image held
  EXPECT_EQ(a.cut_and_commit(), Pages());
  EXPECT_EQ(b.cut_and_commit(), Pages());
}

}  // namespace
}  // namespace varve::tracker
