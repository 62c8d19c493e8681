// SPDX-License-Identifier: Apache-2.0
//
// Parts shared by the io back ends. The back ends themselves: tests/contract/io_*_test.cc.
#include "storage/io.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/os_error.h"
#include "storage/directory.h"
#include "storage/fork_guard.h"
#include "storage/io_threads.h"
#include "storage/open_file.h"
#include "storage/write_prefix.h"
#include "tests/support/child_process.h"
#include "tests/support/temporary_directory.h"

namespace varve::storage {
namespace {

using testing::HasSubstr;

TEST(IoKind, NamesGoBothWays) {
  for (const IoKind kind : {IoKind::uring, IoKind::posix}) EXPECT_EQ(parse_io(to_string(kind)), kind);
  EXPECT_FALSE(parse_io("Uring"));
  EXPECT_FALSE(parse_io(""));
}

TEST(WritePrefix, CountsOnlyWhatHasNoGapBefore) {
  WritePrefix prefix(3);
  EXPECT_TRUE(prefix.idle());
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_EQ(prefix.submit(), i);
  EXPECT_TRUE(prefix.full());
  prefix.end(2);
  prefix.end(1);
  EXPECT_EQ(prefix.prefix(), 0U);
  EXPECT_TRUE(prefix.full()) << "the oldest has not ended";
  prefix.end(0);
  EXPECT_EQ(prefix.prefix(), 3U);
  EXPECT_TRUE(prefix.idle());
  EXPECT_EQ(prefix.submit(), 3U);
  EXPECT_EQ(prefix.prefix(), 3U) << "a slot is used again";
}

TEST(WritePrefix, KeepsTheErrorOfTheEarliestWrite) {
  WritePrefix prefix(4);
  for (int i = 0; i < 4; ++i) prefix.submit();
  prefix.fail(2, os_error("write 2", EIO));
  prefix.fail(1, os_error("write 1", ENOSPC));
  prefix.fail(3, os_error("write 3", EIO));
  EXPECT_EQ(prefix.error().error().what(), "write 1");
  EXPECT_EQ(prefix.take_error().error().what(), "write 1");
  EXPECT_TRUE(prefix.take_error());
  prefix.fail(3, os_error("write 3", EIO));
  EXPECT_FALSE(prefix.take_error()) << "a new error counts again";
}

TEST(Retry, GivesUpInTheEnd) {
  Retry retry;
  EXPECT_FALSE(retry.again(ENOSPC));
  int tries = 0;
  while (retry.again(EINTR)) ASSERT_LT(++tries, 100000);
  EXPECT_GT(tries, 10);
}

TEST(Names, HaveOneFolderAtMost) {
  EXPECT_EQ(folder_of("segments/a-1.seg"), "segments");
  EXPECT_EQ(leaf_of("segments/a-1.seg"), "a-1.seg");
  EXPECT_EQ(folder_of("lock"), "");
  EXPECT_EQ(leaf_of("lock"), "lock");
  EXPECT_TRUE(check_name("open of", "s", "lock"));
  EXPECT_TRUE(check_name("open of", "s", "segments/.hidden"));
  EXPECT_TRUE(check_name("open of", "s", std::string(255, 'x')));
  EXPECT_FALSE(check_name("open of", "s", std::string(256, 'x')));
  const Status bad = check_name("open of", "s", "../x");
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message(), HasSubstr("'../x'"));
}

TEST(GuardedFd, ForkedChildrenCloseIt) {
  GuardedFd guarded(UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)));
  const int fd = guarded.get();
  ASSERT_GE(fd, 0);
  EXPECT_EQ(test::run_child([&] {
              if (guarded.get() != -1 || fcntl(fd, F_GETFD) != -1) return 1;
              const int reused = open("/dev/null", O_RDONLY);
              guarded = GuardedFd();
              return reused == fd && fcntl(reused, F_GETFD) == 0 ? 0 : 2;  // not closed a second time
            }),
            0);
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(guarded.release(), fd);
  guarded = GuardedFd();
  EXPECT_EQ(close(fd), 0) << "what was released is not closed";
}

TEST(GuardedFd, AnyNumberInAnyOrder) {
  std::vector<GuardedFd> all;
  for (int i = 0; i < 50; ++i) all.emplace_back(UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)));
  std::vector<int> numbers;
  for (const GuardedFd& one : all) numbers.push_back(one.get());
  for (std::size_t i = 0; i < all.size(); i += 3) all[i] = GuardedFd();
  EXPECT_EQ(test::run_child([&] {
              for (const int number : numbers)
                if (fcntl(number, F_GETFD) != -1) return 1;
              return 0;
            }),
            0);
  all.clear();
  for (const int number : numbers) EXPECT_EQ(fcntl(number, F_GETFD), -1);
}

TEST(IoThreads, RunEveryJobBeforeTheyEnd) {
  std::atomic<std::uint64_t> sum{0};
  {
    const auto threads = IoThreads::share(3);
    for (std::uint64_t i = 1; i <= 1000; ++i)
      ASSERT_TRUE(threads->submit(
          {[](void* to, std::uint64_t add) { *static_cast<std::atomic<std::uint64_t>*>(to) += add; }, &sum, i}));
  }
  EXPECT_EQ(sum.load(), 500500U);
}

TEST(OpenFile, SettlesWholeBlocksOnlyByDirectIo) {
  test::TemporaryDirectory directory;
  const auto make = [&](bool direct) {
    return OpenFile(UniqueFd(open((directory / "data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)), "data", "data",
                    direct);
  };
  EXPECT_EQ(make(false).settled(5000), 5000U);
  EXPECT_EQ(make(true).settled(5000), 4096U);
  alignas(kIoAlignment) std::byte block[kIoAlignment * 2];
  const std::span<const std::byte> all(block);
  EXPECT_TRUE(make(true).aligned(8192, all));
  EXPECT_FALSE(make(true).aligned(8191, all));
  EXPECT_FALSE(make(true).aligned(8192, all.first(100)));
  EXPECT_FALSE(make(true).aligned(8192, all.subspan(8, kIoAlignment)));
  EXPECT_TRUE(make(false).aligned(1, all.subspan(8, 1)));
}

TEST(OpenFile, ErrorsNameFileAndOffset) {
  const OpenFile file(UniqueFd(), "segments/a", "ckpt/segments/a", false);
  const Error error = file.write_error(4096, ENOSPC);
  EXPECT_EQ(error.code(), ErrorCode::io);
  EXPECT_EQ(error.os_errno(), ENOSPC);
  EXPECT_EQ(error.what(), "write of ckpt/segments/a at offset 4096 failed");
  EXPECT_THAT(error.message(), HasSubstr("free space"));
  EXPECT_FALSE(file.flush());
  EXPECT_FALSE(file.read(0, {}).value());
}

}  // namespace
}  // namespace varve::storage
