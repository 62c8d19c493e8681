// SPDX-License-Identifier: Apache-2.0
//
// Random lazy restores against a plain memory shadow: while an image streams in, several threads read, write and drop
// random pages; then, or before the end, comes a checkpoint, another restore, or the end of the engine. At every moment
// memory is what the shadow says, and every image restores to what memory was at its cut.
//
//     lazy_restore_property_test [--seed=FIRST] [--seeds=COUNT]
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/integration/lazy_fixture.h"
#include "tests/support/random.h"
#include "tests/support/seeds.h"
#include "tests/support/simulated_io.h"

namespace varve::test {
namespace {

/// What the seeds came to: a test that does nothing passes, too.
struct Tally {
  std::uint64_t lazy_restores = 0;
  std::uint64_t lazy_bytes = 0;
  std::uint64_t faults = 0;
  std::uint64_t still_streaming = 0;  // when the threads had ended
  std::uint64_t images = 0;
  std::atomic<std::uint64_t> reads{0};
};
Tally tally;

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// One block of memory with up to three regions in it, and what it should hold.
class Program {
 public:
  Program(SimulatedDisk& disk, Random& random)
      : disk_(disk), random_(random), memory_(150 + random.below(1200)), shadow_(memory_.bytes()) {
    options_ = small_options("simulated");
    options_.chunk_bytes = random_.one_in(3) ? 16384 : 4096;
    options_.threads = static_cast<std::uint32_t>(random_.below(3));
    std::size_t at = random_.below(3 * page_);
    for (const char* name : {"a", "b", "c"}) {
      const std::size_t room = memory_.bytes() - at;
      if (room < 2 * page_) break;
      const std::size_t bytes = 1 + random_.below(room - 1);
      regions_[name] = {at, at + bytes};
      if (random_.one_in(3)) {
        const std::size_t begin = random_.below(bytes);
        const std::size_t length = 1 + random_.below(std::min<std::size_t>(bytes - begin, 5 * page_));
        excluded_.push_back({at + begin, at + begin + length});
        exclusions_[name] = {begin, length};
      }
      at += bytes + (random_.one_in(2) ? 0 : random_.below(2 * page_));
      if (at >= memory_.bytes()) break;
    }
  }

  void run() {
    open();
    scribble();
    checkpoint();
    for (int i = 0; i < 3 && !::testing::Test::HasFailure(); ++i) {
      switch (random_.below(4)) {
        case 0:
          if (!engine_->lazy_status().streaming) scribble();
          checkpoint();
          break;
        case 1: reopen(); break;
        default: break;
      }
      restore_and_run();
    }
    check("at the end");
    ASSERT_OK(engine_->close());
    check("after the end");
  }

 private:
  void open() {
    auto engine = EngineImplementation::open(options_, std::make_unique<StreamGateIo>(disk_.open(), gate_));
    ASSERT_OK(engine);
    engine_ = std::move(*engine);
    for (const auto& [name, range] : regions_)
      ASSERT_OK(engine_->protect(name, memory_.begin() + range.begin, range.end - range.begin, {}));
    for (const auto& [name, range] : exclusions_) ASSERT_OK(engine_->exclude(name, range.begin, range.end));
  }

  void reopen() {
    if (random_.one_in(2)) {
      ASSERT_OK(engine_->close());
    }
    engine_.reset();
    check("after the engine's end");
    open();
  }

  void scribble() {
    for (std::uint64_t i = random_.below(40) + 1; i > 0; --i) {
      const std::size_t at = random_.below(memory_.bytes());
      const std::size_t bytes = std::min<std::size_t>(memory_.bytes() - at, 1 + random_.below(30 * page_));
      if (random_.one_in(3))
        std::fill_n(memory_.begin() + at, bytes, std::byte{0});
      else
        fill({memory_.begin() + at, bytes}, random_.next());
      std::copy_n(memory_.begin() + at, bytes, shadow_.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }

  void checkpoint() {
    const auto ticket = engine_->checkpoint({});
    ASSERT_OK(ticket);
    ASSERT_OK(ticket->wait());
    images_[ticket->image()] = shadow_;
    ++tally.images;
  }

  void restore_and_run() {
    const auto image = std::next(images_.begin(), static_cast<std::ptrdiff_t>(random_.below(images_.size())));
    if (random_.one_in(2)) scribble_unseen();
    const auto before = copy_of(memory_.span());
    for (const auto& [name, range] : regions_) copy(image->second, range);
    for (const auto& range : excluded_) copy(before, range);
    // Held up, or else a race. Not while one streams that the new restore has to end first.
    if (random_.one_in(2) && !engine_->lazy_status().streaming) gate_.shut();
    ASSERT_OK(engine_->restore(std::to_string(image->first), lazily()));
    ++tally.lazy_restores;
    run_threads();
    const auto status = engine_->lazy_status();
    tally.lazy_bytes += status.lazy_bytes;
    tally.faults += status.faults;
    tally.still_streaming += status.streaming ? 1 : 0;
    gate_.open();
    switch (random_.below(4)) {
      case 0: checkpoint(); break;  // while it streams, maybe
      case 1: break;                // another restore, or the end
      default: ASSERT_OK(engine_->wait_restored()); break;
    }
    if (random_.one_in(3)) check("after a restore");
  }

  /// Content that the restore must replace: memory that was never touched is not the only kind.
  void scribble_unseen() {
    if (engine_->lazy_status().streaming) return;
    scribble();
  }

  void run_threads() {
    const std::size_t count = 1 + random_.below(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i)
      threads.emplace_back([this, i, count, seed = random_.next()] { touch(Random(seed), i, count); });
    for (auto& thread : threads) thread.join();
  }

  /// Reads and writes pages `mine`, `mine` + `step`, ...; drops some.
  void touch(Random random, std::size_t mine, std::size_t step) {
    const std::size_t pages = memory_.bytes() / page_;
    for (std::uint64_t i = random.below(300); i > 0; --i) {
      const std::size_t page = random.below(pages) / step * step + mine;
      if (page >= pages) continue;
      std::byte* const begin = memory_.page(page);
      std::byte* const expected = shadow_.data() + page * page_;
      const std::size_t at = random.below(page_);
      const std::size_t bytes = 1 + random.below(page_ - at);
      switch (random.below(8)) {
        case 0:
          if (madvise(begin, page_, MADV_DONTNEED) == 0) std::fill_n(expected, page_, std::byte{0});
          break;
        case 1:
        case 2:
          fill({begin + at, bytes}, random.next());
          std::copy_n(begin + at, bytes, expected + at);
          break;
        default:
          tally.reads.fetch_add(1);
          if (std::memcmp(begin + at, expected + at, bytes) != 0)
            ADD_FAILURE() << "page " << page << " is wrong while it streams";
      }
    }
  }

  void copy(const std::vector<std::byte>& from, const Range& range) {
    std::memcpy(shadow_.data() + range.begin, from.data() + range.begin, range.end - range.begin);
  }

  void check(const std::string& when) {
    for (std::size_t page = 0; page < memory_.bytes() / page_; ++page)
      if (std::memcmp(memory_.page(page), shadow_.data() + page * page_, page_) != 0) {
        ADD_FAILURE() << "page " << page << " is wrong " << when;
        return;
      }
  }

  SimulatedDisk& disk_;
  Random& random_;
  Gate gate_;
  const std::size_t page_ = Pages::page_bytes();
  const Pages memory_;
  std::vector<std::byte> shadow_;
  Options options_;
  std::map<std::string, Range> regions_;
  std::map<std::string, Range> exclusions_;  // offset and length within the region
  std::vector<Range> excluded_;              // of the memory
  std::map<std::uint64_t, std::vector<std::byte>> images_;
  EnginePointer engine_;
};

TEST(LazyRestoreProperty, memory_is_always_what_the_image_and_the_program_made_it) {
  SKIP_WITHOUT_LAZY();
  const Seeds seeds = wanted_seeds(60);
  for_each_seed(seeds, [](std::uint64_t seed) {
    Random random(seed);
    SimulatedDisk disk(SimulatedOptions{.seed = seed, .direct = random.one_in(2)});
    Program(disk, random).run();
  });
  std::printf("%s\n", fmt::format("{} seeds from {}: {} images, {} lazy restores of {} bytes, {} pages waited for, {} "
                                  "still streaming when the threads ended, {} reads compared",
                                  seeds.count, seeds.first, tally.images, tally.lazy_restores, tally.lazy_bytes,
                                  tally.faults, tally.still_streaming, tally.reads.load())
                          .c_str());
  EXPECT_GE(tally.faults, seeds.count / 2);
}

}  // namespace
}  // namespace varve::test
