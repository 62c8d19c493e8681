// SPDX-License-Identifier: Apache-2.0
//
// Kinds of memory, and what can happen to it while it is tracked: huge pages, shared and file mappings, read-only
// parts, content that is dropped, mappings that are moved, replaced or cut away, descriptors that are closed.
#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "tests/contract/tracker_fixture.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// A file of this many pages without a name.
UniqueFd unnamed_file(std::size_t pages) {
  const char* directory = std::getenv("TMPDIR");
  std::string path = std::string(directory == nullptr ? "/tmp" : directory) + "/varve-tracker-XXXXXX";
  UniqueFd file(mkostemp(path.data(), O_CLOEXEC));
  EXPECT_TRUE(file.valid()) << path;
  unlink(path.c_str());
  EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(pages * page_bytes())), 0);
  return file;
}

using TrackerMemory = TrackerTest;

TEST_P(TrackerMemory, HugePages) {
  const std::size_t pages = 4 * kHugePageBytes / page_bytes();
  const Memory memory(pages, {.populate = false});
  madvise(memory.data(), memory.bytes(), MADV_HUGEPAGE);
  std::memset(memory.data(), 1, memory.bytes());
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(0);
  memory.write(700, 99);
  memory.write(pages - 1);
  Pages written = {0, 700, pages - 1};
  if (kind() == BackEndKind::soft_dirty) {
    // A huge page has one bit: all of it is reported.
    const Pages suspects = tracked.cut();
    EXPECT_TRUE(includes(suspects, written));
    EXPECT_LE(suspects.size(), 3 * kHugePageBytes / page_bytes());
    return;
  }
  expect_suspects(tracked.cut(), written);
  std::memset(memory.at(512), 3, kHugePageBytes);
  written.merge(Memory::some(512, 1024));
  expect_suspects(tracked.cut(), written);
}

TEST_P(TrackerMemory, SharedAnonymousMemory) {
  const Memory memory(200, {.flags = MAP_SHARED | MAP_ANONYMOUS});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(0);
  memory.write(150);
  expect_suspects(tracked.cut(), {0, 150});
}

TEST_P(TrackerMemory, SharedMemfdThroughThisMapping) {
  const UniqueFd file(memfd_create("varve-test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(100 * page_bytes())), 0);
  const Memory memory(100, {.flags = MAP_SHARED, .fd = file.get()});
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  memory.write(99);
  const char byte = 9;  // through the descriptor: no page of this mapping is written
  EXPECT_EQ(pwrite(file.get(), &byte, 1, static_cast<off_t>(50 * page_bytes())), 1);
  tracked->touch(memory.range(50, 51));
  expect_suspects(tracked.cut(), {3, 50, 99});
}

TEST_P(TrackerMemory, PrivateFileMappings) {
  const UniqueFd file = unnamed_file(60);
  const Memory memory(60, {.populate = false, .flags = MAP_PRIVATE, .fd = file.get()});
  for (std::size_t page = 0; page < 30; ++page) memory.write(page);
  auto tracking = Service::process().track(memory.range(), kind(), nullptr);
  if (!tracking.has_value()) {
    EXPECT_EQ(tracking.error().code(), ErrorCode::unsupported);
    const auto fallen = track_or_fail(memory.range(), {}, nullptr);
    ASSERT_NE(fallen, nullptr);
    EXPECT_EQ(fallen->back_end(), BackEndKind::hash);
    EXPECT_FALSE(fallen->why().empty());
    GTEST_SKIP() << "this kernel refuses: " << tracking.error().message();
  }
  tracking->reset();
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(2);
  memory.write(45);  // the first copy of that page
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, {2, 45}));
  if (protects_ranges()) {
    EXPECT_EQ(suspects, Pages({2, 45}));
  }
}

TEST_P(TrackerMemory, SharedFileMappings) {
  const UniqueFd file = unnamed_file(60);
  const Memory memory(60, {.flags = MAP_SHARED, .fd = file.get()});
  auto tracking = Service::process().track(memory.range(), kind(), nullptr);
  if (!tracking.has_value()) GTEST_SKIP() << "this kernel refuses: " << tracking.error().message();
  tracking->reset();
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(2);
  memory.write(45);
  ASSERT_EQ(msync(memory.data(), memory.bytes(), MS_SYNC), 0);
  EXPECT_TRUE(includes(tracked.cut(), {2, 45}));
}

TEST_P(TrackerMemory, ReadOnlyPartsStayReadOnly) {
  const Memory memory(40);
  ASSERT_EQ(mprotect(memory.at(10), 10 * page_bytes(), PROT_READ), 0);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(5);
  memory.write(25);
  EXPECT_TRUE(includes(tracked.cut(), {5, 25}));
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(Service::process().writable(memory.range()).has_value());
  EXPECT_EQ(read(zero, memory.at(12), 1), -1) << "a read-only page was made writable";
  ASSERT_EQ(mprotect(memory.at(10), 10 * page_bytes(), PROT_READ | PROT_WRITE), 0);
  memory.write(15);
  EXPECT_TRUE(tracked.cut().contains(15));
  ASSERT_EQ(mprotect(memory.at(10), 10 * page_bytes(), PROT_READ), 0);
  tracked.end();
  EXPECT_EQ(read(zero, memory.at(12), 1), -1) << "a read-only page was made writable";
  close(zero);
}

TEST_P(TrackerMemory, GuardPagesAndLockedMemory) {
  const Memory memory(40);
  ASSERT_EQ(mprotect(memory.at(20), page_bytes(), PROT_NONE), 0);
  const bool locked = mlock(memory.data(), 4 * page_bytes()) == 0;
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(1);
  memory.write(21);
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, {1, 21}));
  EXPECT_LE(suspects.size(), exact() ? 3U : 40U);
  if (!locked) GTEST_SKIP() << "mlock: " << std::strerror(errno);
}

TEST_P(TrackerMemory, ARefusedMremapChangesNothing) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(1);
  EXPECT_EQ(mremap(memory.data(), memory.bytes(), std::size_t{1} << 60, MREMAP_MAYMOVE), MAP_FAILED);
  memory.write(2);
  expect_suspects(tracked.cut(), {1, 2});
}

TEST_P(TrackerMemory, AHoleIsAnErrorThatNamesTheWayOut) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_EQ(munmap(memory.at(10), page_bytes()), 0);
  PageRuns suspects;
  const Status cut = tracked->cut(100, suspects);
  memory.map_anew(10, 11);  // before anything else of the process is mapped there
  ASSERT_FALSE(cut.has_value());
  EXPECT_EQ(cut.error().code(), ErrorCode::invalid_argument);
  EXPECT_NE(cut.error().remedy().find("unprotect"), std::string::npos);
}

TEST_P(TrackerMemory, MemoryThatWasMappedAnewIsReportedWholeAndTrackedAgain) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.map_anew(10, 15);
  EXPECT_TRUE(includes(tracked.cut_and_commit(), Memory::some(10, 15)));
  memory.write(12);
  memory.write(30);
  tracked.make_cold();
  tracked.cut_and_commit();
  memory.write(13);
  memory.write(31);
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, {13, 31}));
  if (protects_ranges()) {
    EXPECT_EQ(suspects, Pages({13, 31})) << "it is tracked again, not reported whole for ever";
  }
}

TEST_P(TrackerMemory, MemoryThatWasMovedAwayAndReplacedIsReported) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  void* const elsewhere = mmap(nullptr, 5 * page_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(elsewhere, MAP_FAILED);
  ASSERT_EQ(mremap(memory.at(10), 5 * page_bytes(), 5 * page_bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere),
            elsewhere);
  PageRuns suspects;
  const Status hole = tracked->cut(100, suspects);
  memory.map_anew(10, 15);
  EXPECT_FALSE(hole.has_value());
  const Status cut = tracked->cut(101, suspects);
  ASSERT_TRUE(cut.has_value()) << cut.error().message();
  EXPECT_TRUE(includes(memory.pages_of(suspects), Memory::some(10, 15)));
  munmap(elsewhere, 5 * page_bytes());
}

TEST_P(TrackerMemory, DescriptorsThatTheProgramClosedAreReplaced) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  memory.write(3);
  DIR* const listing = opendir("/proc/self/fd");
  ASSERT_NE(listing, nullptr);
  int closed = 0;
  while (const dirent* entry = readdir(listing)) {
    std::array<char, 128> target{};
    if (readlinkat(dirfd(listing), entry->d_name, target.data(), target.size() - 1) < 0) continue;
    const std::string name(target.data());
    if (name != "anon_inode:[userfaultfd]" && !name.ends_with("/pagemap")) continue;
    const int fd = std::atoi(entry->d_name);
    close(fd);
    ++closed;
    // The number now belongs to a file of the program's, which must not be taken for ours, nor closed.
    const int other = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (other != fd) close(other);
  }
  closedir(listing);
  if (closed == 0) GTEST_SKIP() << "this back end keeps no descriptors";
  memory.write(8);
  EXPECT_TRUE(includes(tracked.cut_and_commit(), {3, 8}));
  tracked.make_cold();
  tracked.cut_and_commit();
  memory.write(5);
  EXPECT_TRUE(includes(tracked.cut(), {5}));
  EXPECT_EQ(tracked->back_end(), kind());
}

TEST_P(TrackerMemory, ProtectionThatTheProgramChangesAndChangesBack) {
  const Memory memory(32);
  Tracked tracked(memory, memory.range(), kind());
  tracked.arm();
  ASSERT_EQ(mprotect(memory.at(10), 5 * page_bytes(), PROT_READ), 0);
  ASSERT_EQ(mprotect(memory.at(10), 5 * page_bytes(), PROT_READ | PROT_WRITE), 0);
  memory.write(12);
  memory.write(20);
  const Pages suspects = tracked.cut();
  EXPECT_TRUE(includes(suspects, {12, 20}));
  // mprotect reports all, since its protection is gone; soft-dirty too, since mappings that were cut count as new.
  if (kind() == BackEndKind::uffd) {
    EXPECT_EQ(suspects, Pages({12, 20}));
  }
}

VARVE_FOR_EVERY_BACK_END(TrackerMemory);

class UffdMemory : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = reason_not_to_run(BackEndKind::uffd); !reason.empty()) GTEST_SKIP() << reason;
  }
};

TEST_F(UffdMemory, DroppedContentIsSeen) {
  const Memory memory(64);
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  ASSERT_EQ(madvise(memory.at(10), 3 * page_bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(*static_cast<volatile std::uint8_t*>(memory.at(11)), 0) << "read back before the cut";
  EXPECT_EQ(tracked.cut(), Pages({10, 11, 12}));
}

TEST_F(UffdMemory, DroppedHugePagesAreSeen) {
  const Memory memory(4 * kHugePageBytes / page_bytes(), {.populate = false});
  madvise(memory.data(), memory.bytes(), MADV_HUGEPAGE);
  std::memset(memory.data(), 1, memory.bytes());
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  const std::size_t to_huge = (kHugePageBytes - memory.range().begin % kHugePageBytes) / page_bytes() % 512;
  ASSERT_EQ(madvise(memory.at(to_huge), kHugePageBytes, MADV_DONTNEED), 0);
  EXPECT_EQ(tracked.cut_and_commit(), Memory::some(to_huge, to_huge + 512));
  tracked.settle(tracked.make_cold());
  tracked.cut_and_commit();
  EXPECT_EQ(tracked.cut(), Pages());
}

// Kibibytes of the memory that are mapped by huge pages.
std::size_t huge_kib(const Memory& memory) {
  std::ifstream smaps("/proc/self/smaps");
  std::size_t sum = 0;
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  for (std::string line; std::getline(smaps, line);) {
    std::size_t kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) continue;
    if (begin < memory.range().end && memory.range().begin < end &&
        std::sscanf(line.c_str(), "AnonHugePages: %zu kB", &kib) == 1)
      sum += kib;
  }
  return sum;
}

TEST_F(UffdMemory, MemoryThatIsMostlyHotIsPutBackIntoHugePages) {
  const Memory memory(6 * kHugePageBytes / page_bytes(), {.populate = false});
  madvise(memory.data(), memory.bytes(), MADV_HUGEPAGE);
  std::memset(memory.data(), 1, memory.bytes());
  const std::size_t before = huge_kib(memory);
  if (before == 0) GTEST_SKIP() << "no transparent huge pages here";
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  EXPECT_EQ(huge_kib(memory), before) << "protecting splits nothing";
  const auto epoch = [&](std::uint8_t value, std::size_t leave_out) {
    std::memset(memory.at(leave_out), value, memory.bytes() - leave_out * page_bytes());
    PageRuns suspects;
    ASSERT_TRUE(tracked->cut(100U + value, suspects).has_value());
    PageRuns unchanged;
    if (leave_out != 0 && suspects.front().begin == memory.range().begin)
      unchanged.push_back(memory.range(0, leave_out));
    tracked->committed(100U + value);
    tracked->reduced(100U + value, {.suspects = suspects, .unchanged = unchanged});
    tracked.cool();
  };
  epoch(2, 0);
  EXPECT_LT(huge_kib(memory), before) << "the first writes split";
  // Some in each epoch, as many as there is time for.
  for (std::uint8_t value = 3; value < 100 && (value < 9 || huge_kib(memory) != before); ++value) epoch(value, 0);
  if (tracked->counters().gathered_huge_pages == 0) GTEST_SKIP() << "MADV_COLLAPSE refused";
  EXPECT_EQ(huge_kib(memory), before);
  // Ten pages that go cold are no reason to split the block that holds them.
  for (std::uint8_t value = 100; value < 120; ++value) epoch(value, 10);
  EXPECT_EQ(huge_kib(memory), before);
}

TEST_F(UffdMemory, ProtectingARangeThatBeginsAnywhereSplitsNoHugePageWithinIt) {
  constexpr std::size_t kBlocks = 12;
  constexpr std::size_t kBlockPages = kHugePageBytes / 4096;
  if (page_bytes() != 4096) GTEST_SKIP() << "huge pages are of another size here";
  const Memory memory(kBlocks * kBlockPages, {.populate = false});
  madvise(memory.data(), memory.bytes(), MADV_HUGEPAGE);
  std::memset(memory.data(), 1, memory.bytes());
  const std::size_t before = huge_kib(memory);
  if (before == 0) GTEST_SKIP() << "no transparent huge pages here";
  Tracked tracked(memory, memory.range(100, kBlocks * kBlockPages), BackEndKind::uffd);
  tracked.arm();
  EXPECT_GE(huge_kib(memory) + kHugePageBytes / 1024, before) << "but the one in which it begins";
}

TEST_F(UffdMemory, FreedContentIsSeenOnceTheKernelTakesIt) {
  const Memory memory(64);
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  ASSERT_EQ(madvise(memory.at(10), 3 * page_bytes(), MADV_FREE), 0);
  if (madvise(memory.at(10), 3 * page_bytes(), MADV_PAGEOUT) != 0) GTEST_SKIP() << "MADV_PAGEOUT is not available";
  Pages gone;
  for (const std::size_t page : {10U, 11U, 12U})
    if (*static_cast<volatile std::uint8_t*>(memory.at(page)) == 0) gone.insert(page);
  EXPECT_EQ(tracked.cut(), gone);
  if (gone.empty()) GTEST_SKIP() << "the kernel took none of the pages";
}

TEST_F(UffdMemory, ARangeOfTheProgramsOwnUserfaultfdFallsToHash) {
  const Memory memory(64);
  const UniqueFd own(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  ASSERT_TRUE(own.valid());
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(ioctl(own.get(), UFFDIO_API, &api), 0);
  uffdio_register request{};
  request.range = {.start = memory.range(20, 30).begin, .len = 10 * page_bytes()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(own.get(), UFFDIO_REGISTER, &request), 0);
  Tracked tracked(memory, memory.range(0, 20), BackEndKind::uffd);
  const auto fallen = track_or_fail(memory.range(), {}, nullptr);
  ASSERT_NE(fallen, nullptr);
  EXPECT_EQ(fallen->back_end(), BackEndKind::hash);
  EXPECT_NE(fallen->why().find("userfaultfd of its own"), std::string::npos) << fallen->why();
  const auto refused = Service::process().track(memory.range(), BackEndKind::uffd, nullptr);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::unsupported);
  tracked.arm();  // what overlapped the refused range is still tracked
  memory.write(7);
  EXPECT_EQ(tracked.cut(), Pages({7}));
}

TEST_F(UffdMemory, ARangeTakenOverByTheProgramFallsToHashLater) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  memory.map_anew(0, memory.pages());
  const UniqueFd own(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(ioctl(own.get(), UFFDIO_API, &api), 0);
  uffdio_register request{};
  request.range = {.start = memory.range().begin, .len = memory.bytes()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(ioctl(own.get(), UFFDIO_REGISTER, &request), 0);
  EXPECT_EQ(tracked.cut_and_commit(), memory.all());
  EXPECT_EQ(tracked->back_end(), BackEndKind::hash);
  EXPECT_FALSE(tracked->why().empty());
  EXPECT_EQ(tracked.cut(), memory.all());
  tracked.end();  // must leave the program's registration alone
  ASSERT_EQ(ioctl(own.get(), UFFDIO_UNREGISTER, &request.range), 0);
}

TEST_F(UffdMemory, MemoryMovedThereAndBackIsReportedAndTrackedAnew) {
  const Memory memory(16);
  Tracked tracked(memory, memory.range(), BackEndKind::uffd);
  tracked.arm();
  const Memory elsewhere(16);
  ASSERT_EQ(mremap(memory.data(), memory.bytes(), memory.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.data()),
            elsewhere.data());
  elsewhere.write(5);
  ASSERT_EQ(mremap(elsewhere.data(), memory.bytes(), memory.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED, memory.data()),
            memory.data());
  memory.write(6);
  EXPECT_EQ(tracked.cut_and_commit(), memory.all());
  memory.write(7);  // whatever marks the pages brought along must not hide this
  EXPECT_TRUE(tracked.cut().contains(7));
  EXPECT_TRUE(tracked.cut().contains(5));
}

}  // namespace
}  // namespace varve::tracker
