// SPDX-License-Identifier: Apache-2.0
//
// With a thread and without, the same comes: what the child holds, in order, and once.
#include "engine/live_read_ahead.h"

#include <sched.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "base/processors.h"
#include "engine/capture.h"
#include "tests/unit/engine/live_reader_test_support.h"

namespace varve {
namespace {

using live_reader_test::Fates;
using live_reader_test::kMiB;
using live_reader_test::kPage;
using live_reader_test::LiveReaderTest;

using Ahead = LiveReadAhead::Ahead;

class LiveReadAheadTest : public LiveReaderTest, public testing::WithParamInterface<Ahead> {};

TEST_P(LiveReadAheadTest, ReadsMoreThanItsMemoryHolds) {
  static_assert(LiveReadAhead::kMemoryBytes < 9 * kMiB);
  add(9 * kMiB);
  add(kPage);
  add(3 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin_ahead(GetParam());
  read_all();
  EXPECT_EQ(at(0).fates, Fates(9 * 256, 'l'));
  EXPECT_EQ(at(1).fates, "l");
  EXPECT_EQ(at(2).fates, Fates(3 * 256, 'l'));
  EXPECT_FALSE(read_one()) << "after the end";
}

TEST_P(LiveReadAheadTest, LeavesWrittenChunksToTheHolder) {
  add(4 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  Fates expected(1024, 'l');
  for (const std::size_t page : {0U, 63U, 64U, 700U, 1023U}) {
    at(0).write(page);
    expected[page] = 'h';
  }
  begin_ahead(GetParam());
  read_all();
  EXPECT_EQ(at(0).fates, expected);
}

TEST_P(LiveReadAheadTest, LeavesAllToTheHolderWhereAllWasWritten) {
  add(4 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  for (std::size_t page = 0; page < 1024; ++page) at(0).write(page);
  begin_ahead(GetParam());
  read_all();
  EXPECT_EQ(at(0).fates, Fates(1024, 'h'));
}

TEST_P(LiveReadAheadTest, DropsWhatAnotherThreadWritesMeanwhile) {
  add(16 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin_ahead(GetParam());
  read_all_while_another_thread_writes(at(0));
}

TEST_P(LiveReadAheadTest, DropsWhatIsWrittenAsSoonAsTheStallHasEnded) {
  add(16 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  beside_ = LiveReader::Beside::reader;
  cut_and_fork_within_stall();
  begin_ahead(GetParam());
  read_all_while_another_thread_writes(at(0), [this] { reader_->end_stall(); });
}

TEST_P(LiveReadAheadTest, TouchesNothingOfARegionThatEnded) {
  add(16 * kMiB);
  add(1 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  begin_ahead(GetParam());
  ASSERT_TRUE(read_one());
  end_region(at(0));  // as a whole, so that touching it would end the test
  read_all();
  const Fates& fates = at(0).fates;
  const auto first_left = fates.find('h');
  EXPECT_EQ(fates, Fates(first_left, 'l') + Fates(fates.size() - first_left, 'h'));
  EXPECT_LE(first_left, (LiveReadAhead::kMemoryBytes + 2 * LiveReader::kBlockBytes) / kPage) << "read too far ahead";
  EXPECT_EQ(at(1).fates, Fates(256, 'l'));
}

TEST_P(LiveReadAheadTest, EndsInTheMiddle) {
  add(16 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  for (const int pieces : {0, 1, 20}) {
    cut_and_fork();
    begin_ahead(GetParam());
    at(0).fates.assign(at(0).fates.size(), '.');
    at(0).last_end = 0;
    for (int i = 0; i < pieces; ++i) ASSERT_TRUE(read_one());
    ahead_.reset();
  }
}

TEST_P(LiveReadAheadTest, ReadsIntoMemoryThatItIsGiven) {
  add(4 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_and_fork();
  std::vector<std::byte> memory(LiveReadAhead::kMemoryBytes);
  LiveReadAhead ahead(std::move(reader_), spans_, memory.data(), GetParam());
  const auto piece = ahead.next();
  ASSERT_TRUE(piece.has_value());
  EXPECT_EQ(piece->content.data(), memory.data());
}

/// How many threads of this process have that name.
std::size_t threads_named(const std::string& name) {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string comm;
    std::ifstream(task.path() / "comm") >> comm;
    count += comm == name ? 1U : 0U;
  }
  return count;
}

TEST_F(LiveReaderTest, AThreadReadsAheadWhereThereIsMuchAndASecondProcessor) {
  add(16 * kMiB);
  add(4 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  const auto threads = [this](std::uint32_t region) {
    spans_.clear();
    hold(region, {0, at(region).region->grid.count()});
    cut_and_fork();
    begin_ahead(Ahead::automatic);
    at(region).fates.assign(at(region).fates.size(), '.');
    at(region).last_end = 0;
    EXPECT_TRUE(read_one());
    const std::size_t named = threads_named("varve-reader");
    ahead_.reset();
    while (threads_named("varve-reader") != 0) std::this_thread::yield();  // one that was joined is listed a while yet
    return named;
  };
  EXPECT_EQ(threads(0), usable_processors() > 1 ? 1U : 0U);
  EXPECT_EQ(threads(1), 0U) << "too little";
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(threads(0), 0U) << "one processor";
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

// The thread is not there in a child that the program forks, and a mutex may be held for ever.
TEST_F(LiveReaderTest, AStreamThatReadsAheadCanBeDestroyedInAChild) {
  add(16 * kMiB);
  SKIP_WHERE_NO_TRACKER_TELLS();
  cut_all();
  CapturerOptions options;
  options.wanted = Capture::fork;
  auto capturer = Capturer::create(options);
  ASSERT_TRUE(capturer) << capturer.error().message();
  auto stream = (*capturer)->make_stream();
  ASSERT_TRUE((*capturer)->capture(spans_, *stream, std::move(reader_)));
  auto piece = stream->next();
  for (int child = 0; child < 4; ++child)
    EXPECT_EQ(capture_test::in_a_child([&]() -> std::string {
                alarm(60);
                stream.reset();
                return "";
              }),
              "");
  std::size_t bytes = 0;
  for (; piece && piece->has_value(); piece = stream->next()) bytes += piece->value().content.size();
  ASSERT_TRUE(piece) << piece.error().message();
  EXPECT_EQ(bytes, 16 * kMiB);
  EXPECT_EQ(stream->live_bytes(), 16 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(Threads, LiveReadAheadTest, testing::Values(Ahead::never, Ahead::always),
                         [](const auto& tested) { return tested.param == Ahead::never ? "none" : "one"; });

}  // namespace
}  // namespace varve
