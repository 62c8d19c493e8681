// SPDX-License-Identifier: Apache-2.0
//
// The contract of watch_fork() and changed_since_fork(): what is not named is what the child holds. Each test that
// writes lets another process be forked after the write, so that the page is shared again and only the tracker knows.
#include <fcntl.h>
#include <unistd.h>

#include <list>

#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "tests/contract/tracker_fixture.h"
#include "tests/support/memory_sharer.h"
#include "tests/support/pinned_reader.h"

namespace varve::tracker {
namespace {

using test::MemorySharer;

/// Of pages, whether they are there: bit 63 of their entries in /proc/self/pagemap.
Pages present(const Memory& memory) {
  const UniqueFd file(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  Pages pages;
  for (std::size_t page = 0; page < memory.pages(); ++page) {
    std::uint64_t entry = 0;
    const auto at = static_cast<off_t>(memory.range(page, page + 1).begin / page_bytes() * sizeof entry);
    EXPECT_EQ(pread(file.get(), &entry, sizeof entry, at), static_cast<ssize_t>(sizeof entry));
    if (entry >> 63 != 0) pages.insert(page);
  }
  return pages;
}

class TrackerFork : public TrackerTest {
 protected:
  void cut_and_fork(Tracked& tracked) {
    tracked.cut();
    fork();
    EXPECT_TRUE(watch(tracked));
  }
  static bool watch(Tracked& tracked) { return tracked->watch_fork(tracked.epoch(), tracked->range()); }
  void fork() { sharers_.emplace_back(); }
  static Pages changed(Tracked& tracked, const Memory& memory, std::uint64_t epoch) {
    return changed(tracked, memory, epoch, memory.range());
  }
  static Pages changed(Tracked& tracked, const Memory& memory, std::uint64_t epoch, PageRange range) {
    PageRuns runs;
    tracked->changed_since_fork(epoch, range, runs);
    Pages pages;
    for (const PageRange& run : runs) pages.merge(memory.pages_of({run}));
    return pages;
  }
  static constexpr std::size_t kPages = 64;
  const Memory memory_{kPages};
  std::list<MemorySharer> sharers_;
};

TEST_P(TrackerFork, NamesNothingThatNobodyWrote) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages());
  tracked->committed(tracked.epoch());
  tracked.settle(tracked.cool());
  tracked.cut_and_commit();
  memory_.write(3);
  tracked->touch(memory_.range(9, 11));
  cut_and_fork(tracked);
  unsigned sum = 0;
  for (std::size_t page = 0; page < kPages; ++page) sum += *static_cast<volatile std::uint8_t*>(memory_.at(page));
  EXPECT_EQ(sum, kPages + 1);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages());
}

TEST_P(TrackerFork, CutsAfterTheFirstCoolListWhatWasWritten) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  tracked->committed(tracked.epoch());
  tracked.settle(tracked.cool());
  memory_.write(5);
  EXPECT_EQ(tracked.cut(), Pages{5});
  EXPECT_EQ(tracked->counters().cuts_not_listed, 0U);
}

TEST_P(TrackerFork, NamesStores) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  memory_.write(7);
  cut_and_fork(tracked);
  memory_.write(0);
  memory_.write(7, page_bytes() - 1);
  memory_.write(63);
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({0, 7, 63}));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch(), memory_.range(5, 8)), Pages({7}));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch(), memory_.range(8, 63)), Pages());
}

TEST_P(TrackerFork, MayBeWatchedPartByPart) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  memory_.write(7);
  memory_.write(40);
  tracked.cut();
  fork();
  for (const auto& [begin, end] : {std::pair{0U, 7U}, std::pair{7U, 8U}, std::pair{8U, 64U}})
    EXPECT_TRUE(tracked->watch_fork(tracked.epoch(), memory_.range(begin, end)));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages());
  for (const unsigned page : {6U, 7U, 8U, 63U}) memory_.write(page);
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({6, 7, 8, 63}));
  expect_suspects(tracked.cut(), {6, 7, 8, 40, 63});
}

TEST_P(TrackerFork, WatchesNothingButPartsOfItsRange) {
  Tracked tracked(memory_, memory_.range(4, 40), kind());
  tracked.cut();
  fork();
  EXPECT_FALSE(tracked->watch_fork(tracked.epoch(), memory_.range(3, 8)));
  EXPECT_FALSE(tracked->watch_fork(tracked.epoch(), memory_.range(8, 41)));
}

TEST_P(TrackerFork, NamesStoresBeforeTheFirstImageIsCommitted) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  memory_.write(5);
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({5}));
}

TEST_P(TrackerFork, NamesWhatTheKernelWrote) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(read(zero.get(), memory_.at(4, 10), 2 * page_bytes()), static_cast<ssize_t>(2 * page_bytes()));
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({4, 5, 6}));
}

TEST_P(TrackerFork, NamesWhatWasGivenBack) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  ASSERT_EQ(madvise(memory_.at(4), 2 * page_bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({4, 5}));
}

TEST_P(TrackerFork, NamesWhatWasGivenBackAndProtectedAgain) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  ASSERT_EQ(madvise(memory_.at(4), 2 * page_bytes(), MADV_DONTNEED), 0);
  tracked.cool();
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({4, 5}));
}

TEST_P(TrackerFork, NamesWhatWasDeclaredWritten) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  tracked->touch(memory_.range(8, 10));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({8, 9}));
}

TEST_P(TrackerFork, NamesWhatWasMappedOver) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  memory_.map_anew(20, 30);
  for (std::size_t page = 20; page < 30; ++page) memory_.write(page);
  fork();
  EXPECT_TRUE(includes(changed(tracked, memory_, tracked.epoch()), Memory::some(20, 30)));
}

TEST_P(TrackerFork, NamesWhatWasMappedOverAndFoundByALaterCut) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  const std::uint64_t epoch = tracked.epoch();
  memory_.map_anew(20, 30);
  for (std::size_t page = 20; page < 30; ++page) memory_.write(page);
  cut_and_fork(tracked);
  EXPECT_TRUE(includes(changed(tracked, memory_, epoch), Memory::some(20, 30)));
}

TEST_P(TrackerFork, NamesStoresThatWereCooledSince) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  memory_.write(5);
  tracked.cool();
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({5}));
}

TEST_P(TrackerFork, NamesNothingThatWasCooledBetweenTheCutAndTheFork) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.cut();
  tracked.cool();  // the first one protects all
  fork();
  EXPECT_TRUE(watch(tracked));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages());
  memory_.write(6);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({6}));
  tracked->committed(tracked.epoch());
  EXPECT_TRUE(tracked.cut().contains(6));
}

TEST_P(TrackerFork, NamesStoresThatAnotherTrackingCooledOrCutForAForkOfItsOwn) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  Tracked other(memory_, memory_.range(), kind());
  memory_.write(5);
  other.cool();
  fork();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({5}));
  memory_.write(6);
  cut_and_fork(other);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({5, 6}));
  EXPECT_EQ(changed(other, memory_, other.epoch()), Pages());
}

TEST_P(TrackerFork, NamesStoresThatALaterCutMadeClean) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  const std::uint64_t epoch = tracked.epoch();
  memory_.write(5);
  cut_and_fork(tracked);
  memory_.write(6);
  cut_and_fork(tracked);
  EXPECT_EQ(changed(tracked, memory_, epoch), Pages({5, 6}));
  EXPECT_EQ(changed(tracked, memory_, epoch + 1), Pages({6}));
  EXPECT_EQ(changed(tracked, memory_, epoch + 2), Pages());
}

TEST_P(TrackerFork, NamesStoresThatALaterCutMadeCleanBeforeTheFirstImageIsCommitted) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  memory_.write(5);
  cut_and_fork(tracked);
  EXPECT_TRUE(changed(tracked, memory_, 1).contains(5)) << "the write between the cuts is lost";
  EXPECT_EQ(changed(tracked, memory_, 2), Pages());
}

TEST_P(TrackerFork, NamesEverythingOnceTheChildHasEnded) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages());
  sharers_.clear();
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), memory_.all());
}

TEST_P(TrackerFork, NamesEverythingOfAnUnknownCutAndOfARangeThatIsNotAllItsOwn) {
  Tracked tracked(memory_, memory_.range(8, 16), kind());
  cut_and_fork(tracked);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch(), memory_.range(8, 16)), Pages());
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch() + 1, memory_.range(8, 16)), Memory::some(8, 16));
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch(), memory_.range(7, 10)), Memory::some(7, 10));
}

TEST_P(TrackerFork, NamesPagesThatWereNeverThereAndLeavesThemSo) {
  const Memory memory(kPages, {.populate = false});
  for (std::size_t page = 10; page < 20; ++page) memory.write(page);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(30);
  cut_and_fork(tracked);
  Pages there = Memory::some(10, 20);
  there.insert(30);
  EXPECT_EQ(present(memory), there);
  Pages missing = memory.all();
  for (const std::size_t page : there) missing.erase(page);
  EXPECT_EQ(changed(tracked, memory, tracked.epoch()), missing);
  memory.write(40);
  fork();
  EXPECT_EQ(changed(tracked, memory, tracked.epoch()), missing);
}

TEST_P(TrackerFork, NamesPagesThatWerePinnedBefore) {
  test::PinnedReader reader({memory_.at(9), page_bytes()});
  if (!reader.ready()) GTEST_SKIP() << "io_uring with registered buffers is not available";
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  cut_and_fork(tracked);
  ASSERT_TRUE(reader.read(zero.get(), memory_.at(9), page_bytes()));
  EXPECT_EQ(*memory_.at(9), 0);
  EXPECT_EQ(changed(tracked, memory_, tracked.epoch()), Pages({9}));
}

TEST_P(TrackerFork, SuspectsStaySuspectsUntilTheImageIsCommitted) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.arm();
  memory_.write(5);
  cut_and_fork(tracked);
  memory_.write(6);
  expect_suspects(tracked.cut(), {5, 6});
  EXPECT_TRUE(watch(tracked));
  tracked->committed(tracked.epoch() - 1);
  expect_suspects(tracked.cut(), {6});
  tracked->committed(tracked.epoch());
  expect_suspects(tracked.cut(), {});
}

TEST_P(TrackerFork, EverySuspectOfTheFirstImageStaysOneUntilItIsCommitted) {
  Tracked tracked(memory_, memory_.range(), kind());
  cut_and_fork(tracked);
  EXPECT_EQ(tracked.cut(), memory_.all());
  EXPECT_TRUE(watch(tracked));
  tracked->committed(tracked.epoch());
  memory_.write(6);
  expect_suspects(tracked.cut(), {6});
}

TEST_P(TrackerFork, SuspectsOfAnotherTrackingStaySuspects) {
  Tracked tracked(memory_, memory_.range(), kind());
  Tracked other(memory_, memory_.range(3, 40), kind());
  tracked.arm();
  other.cut_and_commit();
  other.cut_and_commit();
  memory_.write(5);
  cut_and_fork(tracked);
  tracked->committed(tracked.epoch());
  EXPECT_TRUE(includes(other.cut(), {5}));
  if (kind() == BackEndKind::soft_dirty) return;  // cuts of one owner come in rounds, and these do not
  expect_suspects(tracked.cut(), {});
}

TEST_P(TrackerFork, AWriteBetweenTheCoolAndTheCutIsNotSettled) {
  Tracked tracked(memory_, memory_.range(), kind());
  tracked.cut_and_commit();
  const Pages cooled = tracked.cool();
  memory_.write(5);
  cut_and_fork(tracked);  // its image fails
  tracked.settle(cooled);
  EXPECT_TRUE(tracked.cut().contains(5)) << "the write is lost";
}

INSTANTIATE_TEST_SUITE_P(BackEnds, TrackerFork, testing::Values(BackEndKind::uffd, BackEndKind::soft_dirty),
                         name_of_back_end);

class TrackerNoFork : public TrackerTest {};

TEST_P(TrackerNoFork, SaysSoAndKeepsItsSuspects) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  EXPECT_TRUE(tracked.cut().contains(3));
  const MemorySharer sharer;
  EXPECT_FALSE(tracked->watch_fork(tracked.epoch(), tracked->range()));
  expect_suspects(tracked.cut(), {3});
}

INSTANTIATE_TEST_SUITE_P(BackEnds, TrackerNoFork, testing::Values(BackEndKind::mprotect, BackEndKind::hash),
                         name_of_back_end);

}  // namespace
}  // namespace varve::tracker
