// SPDX-License-Identifier: Apache-2.0
//
// Content that changes without a write that a tracker could see (docs/tracking.md has the table): pinned pages, dropped
// content, the same memory written elsewhere. touch() declares it, for every back end. What a back end promises to see
// by itself is asserted; what it happens to see besides is recorded as a property of the test.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "tests/contract/tracker_fixture.h"
#include "tests/support/pinned_reader.h"

namespace varve::tracker {
namespace {

using test::PinnedReader;

UniqueFd memory_file(std::size_t pages) {
  UniqueFd file(memfd_create("varve-test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(pages * page_bytes())), 0);
  return file;
}

class TrackerUnseen : public TrackerTest {
 protected:
  /// Cuts; records whether these pages were seen. Then declares them, and expects them.
  void expect_declared(Tracked& tracked, const Memory& memory, std::size_t first, std::size_t end) {
    const Pages changed = Memory::some(first, end);
    seen_ = includes(tracked.cut(), changed);
    RecordProperty("seen_without_touch", seen_ ? "yes" : "no");
    tracked->touch(memory.range(first, end));
    EXPECT_TRUE(includes(tracked.cut(), changed));
  }
  bool seen_ = false;
};

TEST_P(TrackerUnseen, ReadsIntoPinnedPages) {
  const Memory memory(32);
  const UniqueFd file = memory_file(32);
  const std::uint8_t content = 77;
  ASSERT_EQ(pwrite(file.get(), &content, 1, 0), 1);
  PinnedReader reader({memory.at(0), memory.bytes()});
  if (!reader.ready()) GTEST_SKIP() << "io_uring with registered buffers is not available";
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_TRUE(reader.read(file.get(), memory.at(9), page_bytes()));
  EXPECT_EQ(*memory.at(9), 77);
  expect_declared(tracked, memory, 9, 10);
}

TEST_P(TrackerUnseen, DroppedContent) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_EQ(madvise(memory.at(4), 2 * page_bytes(), MADV_DONTNEED), 0);
  expect_declared(tracked, memory, 4, 6);
  if (kind() == BackEndKind::uffd) {
    EXPECT_TRUE(seen_) << "an entry without a page has no mark";
  }
}

TEST_P(TrackerUnseen, FreedContentThatTheKernelMayTakeLater) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_EQ(madvise(memory.at(4), 2 * page_bytes(), MADV_FREE), 0);
  expect_declared(tracked, memory, 4, 6);
}

TEST_P(TrackerUnseen, WritesThroughAnotherMappingAndThroughTheDescriptor) {
  const UniqueFd file = memory_file(32);
  const Memory memory(32, {.flags = MAP_SHARED, .fd = file.get()});
  const Memory other(32, {.populate = false, .flags = MAP_SHARED, .fd = file.get()});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  other.write(3);
  const char byte = 9;
  ASSERT_EQ(pwrite(file.get(), &byte, 1, static_cast<off_t>(4 * page_bytes())), 1);
  expect_declared(tracked, memory, 3, 5);
}

TEST_P(TrackerUnseen, AHolePunchedIntoASharedFile) {
  const UniqueFd file = memory_file(32);
  const Memory memory(32, {.flags = MAP_SHARED, .fd = file.get()});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_EQ(madvise(memory.at(6), 2 * page_bytes(), MADV_REMOVE), 0);
  EXPECT_EQ(*memory.at(6), 0);
  expect_declared(tracked, memory, 6, 8);
}

TEST_P(TrackerUnseen, APrivateMappingWhoseFileChangesBelowIt) {
  const UniqueFd file = memory_file(32);
  const Memory memory(32, {.populate = false, .flags = MAP_PRIVATE, .fd = file.get()});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  const char byte = 9;
  ASSERT_EQ(pwrite(file.get(), &byte, 1, static_cast<off_t>(12 * page_bytes())), 1);
  EXPECT_EQ(*memory.at(12), 9);
  expect_declared(tracked, memory, 12, 13);
}

VARVE_FOR_EVERY_BACK_END(TrackerUnseen);

}  // namespace
}  // namespace varve::tracker
