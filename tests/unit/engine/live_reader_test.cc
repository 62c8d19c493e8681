// SPDX-License-Identifier: Apache-2.0
//
// What is read in place is what a child forked at the cut holds, and the rest is exactly what it has to give.
#include "engine/live_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

#include "tests/support/pinned_reader.h"
#include "tests/support/random.h"
#include "tests/unit/engine/live_reader_test_support.h"

namespace varve {
namespace {

using live_reader_test::Fates;
using live_reader_test::kMiB;
using live_reader_test::kPage;
using live_reader_test::LiveReaderTest;
using live_reader_test::Protected;

TEST_F(LiveReaderTest, ReadsAllInPlaceThatNobodyWrites) {
  add(5 * kMiB);
  add(kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(1280, 'l'));
  EXPECT_EQ(at(1).fates, "l");
}

TEST_F(LiveReaderTest, ReadsTheSpansAndNoMore) {
  add(8 * kPage);
  add(8 * kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  hold(0, {1, 2});
  hold(0, {4, 1});
  hold(1, {7, 1});
  cut_and_fork();
  at(0).write(4);
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, ".ll.h...");
  EXPECT_EQ(at(1).fates, ".......l");
}

TEST_F(LiveReaderTest, LeavesWrittenChunksToTheHolder) {
  add(4 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  at(0).write(5);
  cut_and_fork();
  Fates expected(1024, 'l');
  for (const std::size_t page : {0U, 511U, 512U, 700U, 1023U}) {
    at(0).write(page);
    expected[page] = 'h';
  }
  fork();  // written pages are shared again: only the tracker knows
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, expected);
}

TEST_F(LiveReaderTest, LeavesManyScatteredWrittenPagesToTheHolder) {
  add(6 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  Fates expected(1536, 'l');
  for (std::size_t page = 1; page < expected.size(); page += page % 3 + 1) {
    at(0).write(page);
    expected[page] = 'h';
  }
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, expected);
}

TEST_F(LiveReaderTest, LeavesChunksOfSeveralPagesToTheHolderForOneOfThem) {
  add(1 * kMiB, 0, 1 * kMiB, 64 << 10);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  at(0).write(0);
  at(0).write(47);
  at(0).write(64);
  at(0).write(255);
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, "hlhlhllllllllllh");
}

TEST_F(LiveReaderTest, ReadsAllInPlaceUntilTheStallEnds) {
  add(2 * kMiB);
  add(10 * kPage, 100, 4 * kPage);  // its ends are not tracked
  SKIP_WHERE_NO_TRACKER_TELLS();
  at(0).write(5);
  cut_and_fork_within_stall();
  begin();
  ASSERT_TRUE(read_one());
  const auto read = static_cast<std::size_t>(std::count(at(0).fates.begin(), at(0).fates.end(), 'l'));
  ASSERT_LT(read, 500U);
  reader_->end_stall();
  at(0).write(0);  // was read
  at(0).write(read);
  at(0).write(511);
  fork();
  read_all();
  Fates expected(512, 'l');
  expected[read] = expected[511] = 'h';
  EXPECT_EQ(at(0).fates, expected);
  EXPECT_EQ(at(1).fates, "hlllh");
}

TEST_F(LiveReaderTest, ReadsInPlaceWithinTheStallWhatNoTrackerTells) {
  tracker_ = tracker::BackEndKind::hash;
  add(1 * kMiB);
  cut_and_fork_within_stall();
  begin();
  ASSERT_TRUE(read_one());
  reader_->end_stall();
  const auto read = static_cast<std::size_t>(std::count(at(0).fates.begin(), at(0).fates.end(), 'l'));
  read_all();
  EXPECT_EQ(at(0).fates, Fates(read, 'l') + Fates(256 - read, 'h'));
}

TEST_F(LiveReaderTest, LeavesWhatCanNotBeReadToTheHolderWithinTheStallToo) {
  add(1 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork_within_stall();
  ASSERT_EQ(mprotect(at(0).memory.get() + 64 * kPage, kPage, PROT_NONE), 0);
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(256, 'h'));
}

TEST_F(LiveReaderTest, LeavesUnalignedEndsToTheHolder) {
  add(16 * kPage, 100, 10 * kPage);
  add(64 * kPage, kPage - 1, 40 * kPage);
  add(2 * kPage, 10, 20);                // no whole page
  add(2 * kPage, kPage - 10, 20);        // nor here
  add(4 * kPage, kPage, 2 * kPage + 1);  // one byte of the last
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, "hlllllllllh");
  EXPECT_EQ(at(1).fates, "h" + Fates(39, 'l') + "h");
  EXPECT_EQ(at(2).fates, "h");
  EXPECT_EQ(at(3).fates, "hh");
  EXPECT_EQ(at(4).fates, "llh");
}

TEST_F(LiveReaderTest, LeavesChunksOfSeveralPagesAtUnalignedEndsToTheHolder) {
  add(64 * kPage, kPage + 1, 40 * kPage, 64 << 10);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, "hlh");
}

TEST_F(LiveReaderTest, DropsWhatWasWrittenAfterItWasFoundUnchanged) {
  add(2 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  ASSERT_TRUE(read_one());
  const auto read = static_cast<std::size_t>(std::count(at(0).fates.begin(), at(0).fates.end(), 'l'));
  ASSERT_LT(read, 500U);
  Fates expected(512, 'l');
  for (const std::size_t page : {read, read + 3, std::size_t{511}}) {
    at(0).write(page);
    expected[page] = 'h';
  }
  at(0).write(0);  // was read
  fork();
  read_all();
  EXPECT_EQ(at(0).fates, expected);
}

TEST_F(LiveReaderTest, DropsWhatALaterCutMadeClean) {
  add(2 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork_again();
  commit();
  cut_and_fork();
  begin();
  ASSERT_TRUE(read_one());
  at(0).write(500);
  cut_and_fork_again();
  read_all();
  Fates expected(512, 'l');
  expected[500] = 'h';
  EXPECT_EQ(at(0).fates, expected);
}

TEST_F(LiveReaderTest, LeavesTheRestOfARegionThatEndedToTheHolderAndTouchesNothing) {
  add(4 * kMiB);
  add(1 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  ASSERT_TRUE(read_one());
  const Fates read = at(0).fates;
  const auto first = read.find('.');
  ASSERT_LT(first, 512U) << "within what was found unchanged together";
  end_region(at(0));
  read_all();
  EXPECT_EQ(at(0).fates, read.substr(0, first) + Fates(1024 - first, 'h'));
  EXPECT_EQ(at(1).fates, Fates(256, 'l'));
}

TEST_F(LiveReaderTest, LeavesARegionThatEndedBeforeItWasReadToTheHolder) {
  add(1 * kMiB);
  add(1 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  end_region(at(1));
  read_all();
  EXPECT_EQ(at(0).fates, Fates(256, 'l'));
  EXPECT_EQ(at(1).fates, Fates(256, 'h'));
}

TEST_F(LiveReaderTest, LeavesARegionThatCannotBeReadToTheHolder) {
  add(64 * kPage);
  add(64 * kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  ASSERT_EQ(mprotect(at(0).memory.get() + 40 * kPage, kPage, PROT_NONE), 0);
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(64, 'h'));
  EXPECT_EQ(at(1).fates, Fates(64, 'l'));
}

TEST_F(LiveReaderTest, LeavesPagesThatWereGivenBackToTheHolder) {
  add(64 * kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  ASSERT_EQ(madvise(at(0).memory.get() + 9 * kPage, 2 * kPage, MADV_DONTNEED), 0);
  tracker::PageRuns cooled;
  ASSERT_TRUE(at(0).region->tracking->cool(cooled));  // which protects what is not there, too
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(9, 'l') + "hh" + Fates(53, 'l'));
}

TEST_F(LiveReaderTest, LeavesPagesThatWerePinnedBeforeTheForkToTheHolder) {
  add(64 * kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  auto* const pinned = reinterpret_cast<std::uint8_t*>(at(0).memory.get() + 20 * kPage);
  test::PinnedReader device({pinned, 2 * kPage});
  if (!device.ready()) GTEST_SKIP() << "io_uring with registered buffers is not available";
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  cut_and_fork();
  ASSERT_TRUE(device.read(zero.get(), pinned, kPage));
  ASSERT_EQ(*pinned, 0);
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(20, 'l') + "hh" + Fates(42, 'l'));
}

TEST_F(LiveReaderTest, LeavesAllToTheHolderOnceItHasEnded) {
  add(64 * kPage);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  sharers_.clear();
  begin();
  read_all();
  EXPECT_EQ(at(0).fates, Fates(64, 'h'));
}

TEST_F(LiveReaderTest, DropsWhatAnotherThreadWritesMeanwhile) {
  add(16 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin();
  read_all_while_another_thread_writes(at(0));
}

/// Random regions, spans and writes, on a fixture of its own per seed.
class RandomCut : public LiveReaderTest, public testing::WithParamInterface<std::uint64_t> {
 protected:
  void make_regions() {
    const auto chunk_bytes = static_cast<std::uint32_t>(random_.coin() ? kPage : 64 << 10);
    for (std::uint64_t count = 1 + random_.below(4); count > 0; --count) {
      const std::size_t room = (2 + random_.below(random_.coin() ? 20 : 800)) * kPage;
      const std::size_t begin = random_.below(room);
      const std::size_t bytes = 1 + random_.below(room - begin);
      const bool aligned = random_.one_in(3);
      Protected& made = aligned ? add(room, 0, room, chunk_bytes) : add(room, begin, bytes, chunk_bytes);
      made.fates.assign(made.region->grid.count(), '.');
      if (!random_.one_in(4)) continue;
      madvise(made.memory.get(), room / kPage / 2 * kPage, MADV_DONTNEED);
      all_there_ = false;
    }
  }
  void choose_spans() {
    for (std::uint32_t number = 0; number < regions_.size(); ++number) {
      const std::uint64_t count = at(number).region->grid.count();
      if (random_.one_in(3)) {
        hold(number, {0, count});
        continue;
      }
      for (std::uint64_t first = random_.below(8); first < count;) {
        const std::uint64_t length = 1 + random_.below(std::min<std::uint64_t>(count - first, 100));
        hold(number, {first, length});
        first += length + 1 + random_.below(20);
      }
    }
  }
  /// Of the memory, not of the region only: neighbours write, too.
  void write_some() {
    for (Protected& each : regions_) {
      if (each.region->ended) continue;
      for (std::uint64_t writes = random_.below(6); writes > 0; --writes) {
        const std::size_t offset = random_.below(each.memory.bytes());
        const std::size_t bytes = 1 + random_.below(std::min<std::size_t>(each.memory.bytes() - offset, 3 * kPage));
        std::memset(each.memory.get() + offset, static_cast<int>(random_.next()), bytes);
        note_written(each, reinterpret_cast<std::uintptr_t>(each.memory.get()) + offset, bytes);
      }
      if (random_.one_in(20) && each.region->tracking != nullptr) {
        const auto tracked = each.region->tracking->range();
        madvise(reinterpret_cast<void*>(tracked.begin), kPage, MADV_DONTNEED);
        note_written(each, tracked.begin, kPage);
      }
    }
  }
  /// Chunks that share a page with what was written.
  void note_written(const Protected& each, std::uintptr_t begin, std::size_t bytes) {
    const Region& region = *each.region;
    auto& written = written_[&each];
    written.resize(region.grid.count());
    const std::uintptr_t from = std::max(begin / kPage * kPage, region.address());
    const std::uintptr_t to = std::min((begin + bytes + kPage - 1) / kPage * kPage, region.address() + region.bytes());
    if (from >= to) return;
    const ChunkRange chunks = region.grid.touching({from - region.address(), to - from});
    for (std::uint64_t chunk = chunks.first; chunk < chunks.end(); ++chunk) written[chunk] = true;
  }
  void disturb() {
    switch (random_.below(8)) {
      case 0: fork(); break;
      case 1: cut_and_fork_again(); break;
      case 2:
        for (Protected& each : regions_) {
          tracker::PageRuns cooled;
          if (each.region->tracking == nullptr) continue;
          EXPECT_TRUE(each.region->tracking->cool(cooled));
        }
        break;
      case 3:
        if (random_.one_in(6)) {
          Protected& ended = at(static_cast<std::uint32_t>(random_.below(regions_.size())));
          if (!ended.region->ended) end_region(ended);
        }
        break;
      default: break;
    }
  }
  void expect_all_else_in_place() {
    for (const Protected& each : regions_) {
      const Region& region = *each.region;
      auto& written = written_[&each];
      written.resize(region.grid.count());
      if (region.address() % kPage != 0) written.front() = true;  // pages that are not all the region's
      if ((region.address() + region.bytes()) % kPage != 0) written.back() = true;
      for (std::uint64_t chunk = 0; chunk < written.size(); ++chunk) {
        EXPECT_TRUE(written[chunk] || each.fates[chunk] != 'h') << "chunk " << chunk << " could be read in place";
      }
    }
  }
  test::Random random_{GetParam()};
  bool all_there_ = true;
  std::map<const Protected*, std::vector<bool>> written_;
};

TEST_P(RandomCut, GivesTheContentAtTheForkAndLeavesNoMoreThanItMustToTheHolder) {
  make_regions();
  SKIP_WHERE_NO_TRACKER_TELLS();
  choose_spans();
  if (random_.coin()) {
    cut_and_fork_again();
    commit();
  }
  write_some();
  written_.clear();
  cut_and_fork();
  const bool undisturbed = random_.one_in(3);
  write_some();
  const auto before = written_;
  begin();
  while (!HasFailure() && read_one()) {
    if (undisturbed) continue;
    write_some();
    disturb();
  }
  read_all();
  for (const auto& [each, written] : before)
    for (std::uint64_t chunk = 0; chunk < written.size(); ++chunk) {
      EXPECT_FALSE(written[chunk] && each->fates[chunk] == 'l') << "chunk " << chunk << " was written before";
    }
  if (undisturbed && all_there_) expect_all_else_in_place();
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomCut, testing::Range<std::uint64_t>(1, 61),
                         [](const auto& tested) { return std::to_string(tested.param); });

}  // namespace
}  // namespace varve
