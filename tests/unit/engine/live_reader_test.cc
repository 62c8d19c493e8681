// SPDX-License-Identifier: Apache-2.0
//
// What is read in place is what a child forked at the cut holds, and the rest is exactly what it has to give.
#include "engine/live_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/memory_sharer.h"
#include "tests/support/pinned_reader.h"
#include "tests/support/random.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

using capture_test::fill;
using capture_test::Mapped;
using test::MemorySharer;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

/// What became of each chunk of a region: 'l' read in place, 'h' left to the holder, '.' not asked for.
using Fates = std::string;

/// Memory, a region in it, and its content at the fork.
struct Protected {
  Mapped memory;
  std::shared_ptr<Region> region;
  std::vector<std::byte> at_fork = {};
  Fates fates = {};
  std::uintptr_t last_end = 0;

  explicit Protected(std::size_t bytes) : memory(bytes) {
    madvise(memory.get(), bytes, MADV_NOHUGEPAGE);
    fill(memory.get(), bytes, bytes);
  }
  void write(std::size_t page) { memory.get()[page * kPage + 7] ^= std::byte{1}; }
};

class LiveReaderTest : public testing::Test {
 protected:
  Protected& add(std::size_t bytes) { return add(bytes, 0, bytes); }
  /// A region of memory that is `room` bytes long.
  Protected& add(std::size_t room, std::size_t begin, std::size_t bytes, std::uint32_t chunk_bytes = kPage) {
    Protected& made = regions_.emplace_back(room);
    const std::string name = "region-" + std::to_string(regions_.size());
    auto region = table_.add({.name = name,
                              .address = made.memory.get() + begin,
                              .bytes = bytes,
                              .element_bytes = 0,
                              .chunk_bytes = chunk_bytes},
                             std::nullopt, this);
    VARVE_CHECK(region.has_value());
    made.region = *region;
    made.fates.assign(made.region->grid.count(), '.');
    chunk_bytes_ = chunk_bytes;
    return made;
  }

  /// Whether the tracker here tells what changed.
  bool tells() {
    for (const Protected& each : regions_) {
      if (each.region->tracking == nullptr) continue;
      const auto kind = each.region->tracking->back_end();
      if (kind != tracker::BackEndKind::uffd && kind != tracker::BackEndKind::soft_dirty) return false;
    }
    return true;
  }

  /// Holds these chunks of a region; without a call for any, all of all.
  void hold(std::uint32_t number, ChunkRange chunks) {
    const Region& region = *at(number).region;
    const auto extent = region.grid.extent(chunks);
    spans_.push_back({number, region.begin + extent.offset, extent.bytes, region.grid_address(), true});
  }

  void cut_and_fork() {
    if (spans_.empty())
      for (std::uint32_t number = 0; number < regions_.size(); ++number)
        hold(number, {0, at(number).region->grid.count()});
    reader_.emplace(touching_, ++epoch_, chunk_bytes_);
    for (Protected& each : regions_) {
      reader_->add(each.region);
      cut(*each.region);
    }
    reader_->expect_fork(spans_);
    fork();
    for (Protected& each : regions_) each.at_fork.assign(each.region->begin, each.region->begin + each.region->bytes());
  }
  /// Another cut that is captured by fork, while the first is read.
  void cut_and_fork_again() {
    ++epoch_;
    for (Protected& each : regions_) {
      cut(*each.region);
      if (each.region->tracking != nullptr) each.region->tracking->expect_fork(epoch_);
    }
    fork();
  }
  void commit() {
    for (Protected& each : regions_)
      if (each.region->tracking != nullptr) each.region->tracking->committed(epoch_);
  }
  void fork() { sharers_.emplace_back(); }

  void begin() { reader_->begin(spans_); }
  /// Reads one piece and checks it; false at the end.
  bool read_one() {
    const auto piece = reader_->next();
    if (!piece) return false;
    Protected& from = at(piece->region);
    EXPECT_GE(piece->begin, from.last_end) << "not ascending";
    from.last_end = piece->begin + piece->content.size();
    take('l', from, piece->begin, piece->content.size());
    const std::size_t offset = piece->begin - from.region->address();
    EXPECT_EQ(std::memcmp(piece->content.data(), from.at_fork.data() + offset, piece->content.size()), 0)
        << "content differs from that at the fork";
    return true;
  }
  /// Reads to the end, and checks that every chunk that was asked for came once.
  void read_all() {
    while (!testing::Test::HasFailure() && read_one()) {
    }
    const MemorySpan* last = nullptr;
    const auto rest = reader_->take_rest();
    for (const MemorySpan& span : rest) {
      Protected& from = at(span.region);
      EXPECT_EQ(span.grid, from.region->grid_address());
      EXPECT_TRUE(span.fork_holds_it);
      if (last != nullptr && last->region == span.region) {
        EXPECT_GT(span.begin, last->begin + last->bytes);
      }
      take('h', from, reinterpret_cast<std::uintptr_t>(span.begin), span.bytes);
      last = &span;
    }
    for (const MemorySpan& span : spans_) {
      const Protected& from = at(span.region);
      const auto chunks = chunks_of(from, reinterpret_cast<std::uintptr_t>(span.begin), span.bytes);
      EXPECT_EQ(from.fates.substr(chunks.first, chunks.count).find('.'), Fates::npos) << "not all of it came";
    }
  }
  Protected& at(std::uint32_t number) { return *std::next(regions_.begin(), number); }

  void end_region(Protected& ended) {
    MutexLock lock(touching_);
    ended.region->ended = true;
    ended.region->tracking.reset();
    // Unmapped, and nobody else gets the addresses.
    void* const place = ended.memory.get();
    ASSERT_EQ(mmap(place, ended.memory.bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), place);
  }

  Mutex touching_;
  RegionTable table_;
  std::list<Protected> regions_;
  std::vector<MemorySpan> spans_;
  std::uint32_t chunk_bytes_ = kPage;
  std::uint64_t epoch_ = 0;
  std::optional<LiveReader> reader_;
  std::list<MemorySharer> sharers_;

 private:
  void cut(Region& region) {
    if (region.tracking == nullptr) return;
    tracker::PageRuns suspects;
    const Status status = region.tracking->cut(epoch_, suspects);
    EXPECT_TRUE(status) << status.error().message();
  }
  static ChunkRange chunks_of(const Protected& from, std::uintptr_t begin, std::size_t bytes) {
    return from.region->grid.touching({begin - from.region->address(), bytes});
  }
  /// Whole chunks, each once.
  static void take(char fate, Protected& from, std::uintptr_t begin, std::size_t bytes) {
    const std::uint64_t offset = begin - from.region->address();
    ASSERT_LE(offset + bytes, from.region->bytes());
    const ChunkRange chunks = chunks_of(from, begin, bytes);
    const auto extent = from.region->grid.extent(chunks);
    EXPECT_TRUE(extent.offset == offset && extent.bytes == bytes) << "not whole chunks";
    for (std::uint64_t chunk = chunks.first; chunk < chunks.end(); ++chunk) {
      EXPECT_EQ(from.fates[chunk], '.') << "chunk " << chunk << " came twice";
      from.fates[chunk] = fate;
    }
  }
};

#define SKIP_WHERE_NO_TRACKER_TELLS() \
  if (!tells()) GTEST_SKIP() << "no tracker here tells what changed since a fork"

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
  std::atomic<bool> stop = false;
  std::thread writer([this, &stop] {
    test::Random random(1);
    volatile std::byte* const memory = at(0).memory.get();
    while (!stop) {
      const std::size_t place = random.below(16 * kMiB);
      memory[place] = static_cast<std::byte>(random.next());
    }
  });
  read_all();
  stop = true;
  writer.join();
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
