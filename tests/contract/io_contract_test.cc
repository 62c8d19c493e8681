// SPDX-License-Identifier: Apache-2.0
//
// What storage/io.h promises, asked of every back end: `uring` and `posix` in a temporary directory, and the simulated
// one of the other tests. What only a real directory can show is in io_on_disk_test.cc.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/aligned_buffer.h"
#include "storage/io.h"
#include "tests/support/simulated_io.h"
#include "tests/support/temporary_directory.h"

namespace varve::storage {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr unsigned kDepth = 4;

std::vector<std::byte> random_bytes(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator() & 0xff);
  return bytes;
}

std::vector<std::byte> read_all(File& file) {
  std::vector<std::byte> content(file.size_bytes().value());
  EXPECT_EQ(file.read(0, content).value(), content.size());
  return content;
}

class IoContract : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() != "uring") return;
    const auto reports = probe_io();
    if (!reports[0].available) GTEST_SKIP() << reports[0].reason;
  }
  /// Another opening of the same store.
  std::unique_ptr<Io> open(unsigned depth = kDepth) {
    if (GetParam() == "simulated") return disk_.open();
    IoOptions options;
    options.kind = parse_io(GetParam());
    options.queue_depth = depth;
    return open_io(directory_.path() + "/store", options).value();
  }

  test::TemporaryDirectory directory_;
  test::SimulatedDisk disk_{{.seed = 7, .direct = true, .queue_depth = kDepth}};
};

TEST_P(IoContract, ReadsBackWhatWasWrittenAtAnyOffsetAndLength) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  EXPECT_FALSE(file->direct());
  EXPECT_EQ(file->name(), "data");
  std::mt19937 generator(1);
  std::vector<std::byte> shadow;
  for (unsigned round = 0; round < 60; ++round) {
    const std::size_t offset = generator() % 60000;
    const auto bytes = random_bytes(1 + generator() % 20000, round);
    if (shadow.size() < offset + bytes.size()) shadow.resize(offset + bytes.size());
    std::copy(bytes.begin(), bytes.end(), shadow.begin() + static_cast<std::ptrdiff_t>(offset));
    ASSERT_TRUE(file->submit_write(offset, bytes));
    ASSERT_TRUE(file->drain());  // writes in flight must not overlap
  }
  EXPECT_EQ(read_all(*file), shadow);
  std::vector<std::byte> part(777);
  EXPECT_EQ(file->read(4095, part).value(), part.size());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), shadow.begin() + 4095));
  EXPECT_EQ(file->read(shadow.size() - 10, part).value(), 10U);
  EXPECT_EQ(file->read(shadow.size() + 10, part).value(), 0U);
}

TEST_P(IoContract, DirectFilesTakeAlignedWritesAndAnyRead) {
  auto io = open();
  auto file = io->open("data", OpenMode::create_direct).value();
  EXPECT_EQ(file->direct(), io->file_system().value().direct);
  const auto content = random_bytes(64 * kIoAlignment, 1);
  AlignedBuffer buffer(content.size());
  std::memcpy(buffer.data(), content.data(), content.size());
  for (std::size_t i = 0; i < 16; ++i)
    ASSERT_TRUE(
        file->submit_write(i * 4 * kIoAlignment, buffer.span().subspan(i * 4 * kIoAlignment, 4 * kIoAlignment)));
  ASSERT_TRUE(file->sync());
  EXPECT_EQ(read_all(*file), content);
  ASSERT_TRUE(file->truncate(content.size() - 1000));
  std::vector<std::byte> part(5001);
  EXPECT_EQ(file->read(13, part).value(), part.size());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), content.begin() + 13));
  EXPECT_EQ(file->read(content.size() - 3000, part).value(), 2000U);
  EXPECT_TRUE(std::equal(part.begin(), part.begin() + 2000, content.end() - 3000));
  file = io->open("data", OpenMode::write_direct).value();
  ASSERT_TRUE(file->submit_write(0, buffer.span().last(kIoAlignment)));
  ASSERT_TRUE(file->drain());
  EXPECT_EQ(file->read(0, std::span(part).first(kIoAlignment)).value(), kIoAlignment);
  EXPECT_TRUE(std::equal(part.begin(), part.begin() + kIoAlignment, content.end() - kIoAlignment));
}

TEST_P(IoContract, BuffersOfCompletedWritesMayBeReused) {
  constexpr std::size_t kPiece = 20000;
  constexpr std::size_t kWrites = 100;
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  const auto content = random_bytes(kPiece * kWrites, 3);
  std::vector<std::vector<std::byte>> buffers(kDepth + 2, std::vector<std::byte>(kPiece));
  std::uint64_t completed = 0;
  for (std::size_t i = 0; i < kWrites; ++i) {
    if (i >= buffers.size()) {
      const std::uint64_t needed = i - buffers.size() + 1;
      if (file->completed_writes() < needed) {
        ASSERT_TRUE(file->wait_writes(needed));
      }
      const std::uint64_t now = file->completed_writes();
      ASSERT_GE(now, std::max(needed, completed));
      ASSERT_LE(now, i);
      completed = now;
    }
    std::memcpy(buffers[i % buffers.size()].data(), content.data() + i * kPiece, kPiece);
    ASSERT_TRUE(file->submit_write(i * kPiece, buffers[i % buffers.size()]));
  }
  ASSERT_TRUE(file->drain());
  EXPECT_EQ(file->completed_writes(), kWrites);
  EXPECT_EQ(read_all(*file), content);
}

TEST_P(IoContract, CompletedWritesAreAPrefixThatOthersCanRead) {
  constexpr std::size_t kPiece = 300;
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  auto reader = open()->open("data", OpenMode::read).value();
  const auto content = random_bytes(kPiece * 64, 4);
  for (std::size_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(file->submit_write(i * kPiece, std::span(content).subspan(i * kPiece, kPiece)));
    std::vector<std::byte> seen(file->completed_writes() * kPiece);
    ASSERT_EQ(reader->read(0, seen).value(), seen.size());
    ASSERT_TRUE(std::equal(seen.begin(), seen.end(), content.begin()));
  }
  ASSERT_TRUE(file->drain());
}

TEST_P(IoContract, FilesWaitForTheirWritesWhenTheyAreClosed) {
  auto io = open();
  const auto content = random_bytes(std::size_t{1} << 20, 5);
  {
    auto file = io->open("data", OpenMode::create).value();
    for (std::size_t at = 0; at < content.size(); at += 65536)
      ASSERT_TRUE(file->submit_write(at, std::span(content).subspan(at, 65536)));
  }
  EXPECT_EQ(read_all(*io->open("data", OpenMode::read).value()), content);
}

TEST_P(IoContract, FilesOutliveTheirIo) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  io.reset();
  const auto content = random_bytes(50000, 6);
  ASSERT_TRUE(file->submit_write(0, content));
  ASSERT_TRUE(file->submit_write(content.size(), content));
  ASSERT_TRUE(file->sync());
  EXPECT_EQ(file->size_bytes().value(), 2 * content.size());
}

TEST_P(IoContract, ManyThreadsReadOneFileAtAnyPlace) {
  auto io = open();
  const auto content = random_bytes(200001, 7);
  {
    auto file = io->open("data", OpenMode::create).value();
    ASSERT_TRUE(file->submit_write(0, content));
    ASSERT_TRUE(file->drain());
  }
  for (const OpenMode mode : {OpenMode::read, OpenMode::write_direct, OpenMode::read_direct}) {
    auto file = io->open("data", mode).value();
    const auto read_some = [&](unsigned seed) {
      std::mt19937 generator(seed);
      AlignedBuffer memory(8192);
      for (unsigned i = 0; i < 50; ++i) {
        const bool aligned = i % 2 == 0;
        const std::size_t offset = aligned ? (generator() % 49) * kIoAlignment : generator() % 210000;
        const auto into = memory.span().first(aligned ? 8192 : generator() % 8192);
        const auto bytes = file->read(offset, into);
        ASSERT_TRUE(bytes);
        const std::size_t rest = offset < content.size() ? content.size() - offset : 0;
        ASSERT_EQ(*bytes, std::min(rest, into.size())) << "at " << offset;
        EXPECT_TRUE(*bytes == 0 || std::memcmp(into.data(), content.data() + offset, *bytes) == 0);
      }
    };
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 4; ++seed) threads.emplace_back(read_some, seed);
  }
}

TEST_P(IoContract, AReadThatFailsSaysSoOnce) {
  auto io = open();
  const auto content = random_bytes(100000, 1);
  auto file = io->open("data", OpenMode::create).value();
  ASSERT_TRUE(file->submit_write(0, content));
  ASSERT_TRUE(file->drain());
  // Memory that the kernel may not write: EFAULT.
  constexpr std::size_t kBytes = 4096;
  void* closed = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(closed, MAP_FAILED);
  std::vector<std::byte> memory(kBytes);
  std::span<std::byte> into(static_cast<std::byte*>(closed), kBytes);
  if (GetParam() == "simulated") {
    disk_.add_fault({.operation = test::SimulatedOperation::read, .nth = 1, .os_errno = EFAULT});
    into = memory;
  }
  const auto refused = file->read(kBytes, into);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().os_errno(), EFAULT);
  EXPECT_THAT(refused.error().what(), HasSubstr("/data"));
  EXPECT_EQ(file->read(kBytes, memory).value(), kBytes);
  EXPECT_TRUE(std::equal(memory.begin(), memory.end(), content.begin() + kBytes));
  munmap(closed, kBytes);
}

TEST_P(IoContract, ReadsWhileWritesAreInFlight) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  const auto content = random_bytes(40000, 9);
  ASSERT_TRUE(file->submit_write(0, content));
  ASSERT_TRUE(file->drain());
  for (std::size_t i = 0; i < 3; ++i) ASSERT_TRUE(file->submit_write(content.size() * (1 + i), content));
  std::vector<std::byte> first(100);
  std::vector<std::byte> second(100);
  EXPECT_EQ(file->read(1, first).value(), 100U);
  EXPECT_EQ(file->read(39900, second).value(), 100U);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), content.begin() + 1));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), content.end() - 100));
  ASSERT_TRUE(file->drain());
  EXPECT_EQ(file->completed_writes(), 4U);
}

TEST_P(IoContract, FailedWritesAreToldOnceByDrain) {
  auto io = open();
  ASSERT_TRUE(io->open("data", OpenMode::create));
  auto file = io->open("data", OpenMode::read).value();  // the system refuses to write here: EBADF
  const auto bytes = random_bytes(100, 1);
  ASSERT_TRUE(file->submit_write(8192, bytes));
  const Status status = file->drain();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ErrorCode::io);
  EXPECT_EQ(status.error().os_errno(), EBADF);
  EXPECT_THAT(status.error().what(), HasSubstr("write of"));
  EXPECT_THAT(status.error().what(), HasSubstr("/data at offset 8192 failed"));
  EXPECT_TRUE(file->drain());
  EXPECT_EQ(file->completed_writes(), 1U);
  ASSERT_TRUE(file->submit_write(4096, bytes));
  EXPECT_FALSE(file->sync());
  EXPECT_TRUE(file->sync());
  ASSERT_TRUE(file->submit_write(4096, bytes));
  EXPECT_FALSE(file->wait_writes(3));
  EXPECT_FALSE(file->submit_write(0, bytes)) << "not while an error waits to be fetched";
  EXPECT_FALSE(file->drain());
}

TEST_P(IoContract, EmptyWritesEndLikeOthers) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  ASSERT_TRUE(file->submit_write(0, {}));
  ASSERT_TRUE(file->wait_writes(1));
  EXPECT_EQ(file->completed_writes(), 1U);
  EXPECT_EQ(file->size_bytes().value(), 0U);
}

TEST_P(IoContract, AllocateAddsZerosAndTruncateCuts) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  const auto content = random_bytes(5000, 2);
  ASSERT_TRUE(file->submit_write(0, content));
  if (const Status allocated = file->allocate(0, 100000); !allocated) {
    ASSERT_EQ(allocated.error().code(), ErrorCode::unsupported) << allocated.error().message();
    GTEST_SKIP() << allocated.error().message();
  }
  EXPECT_EQ(file->size_bytes().value(), 100000U);
  auto expected = content;
  expected.resize(100000);
  EXPECT_EQ(read_all(*file), expected);
  ASSERT_TRUE(file->allocate(0, 50)) << "never makes a file shorter";
  EXPECT_EQ(file->size_bytes().value(), 100000U);
  ASSERT_TRUE(file->truncate(4000));
  ASSERT_TRUE(file->truncate(6000));
  expected.resize(4000);
  expected.resize(6000);
  EXPECT_EQ(read_all(*file), expected);
}

TEST_P(IoContract, ModesSayWhatMustExist) {
  auto io = open();
  for (const OpenMode mode : {OpenMode::read, OpenMode::write, OpenMode::write_direct, OpenMode::read_direct}) {
    const auto missing = io->open("data", mode);
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
    EXPECT_THAT(missing.error().message(), HasSubstr("/data"));
  }
  const auto content = random_bytes(10, 1);
  {
    auto file = io->open("data", OpenMode::create).value();
    ASSERT_TRUE(file->submit_write(0, content));
  }
  for (const OpenMode mode : {OpenMode::create, OpenMode::create_direct}) {
    const auto taken = io->open("data", mode);
    ASSERT_FALSE(taken);
    EXPECT_EQ(taken.error().os_errno(), EEXIST);
  }
  EXPECT_EQ(read_all(*io->open("data", OpenMode::write).value()), content) << "opening must not cut it";
  EXPECT_FALSE(io->open("folder/data", OpenMode::create));
}

TEST_P(IoContract, NamesThatLeaveTheStoreAreRefused) {
  auto io = open();
  ASSERT_TRUE(io->make_directory("segments"));
  const std::string_view bad[] = {"",
                                  ".",
                                  "..",
                                  "../x",
                                  "/x",
                                  "a/b/c",
                                  "segments/",
                                  "segments/..",
                                  "./x",
                                  "segments//x",
                                  std::string_view("a\0b", 3)};
  for (const std::string_view name : bad) {
    const auto opened = io->open(name, OpenMode::create);
    ASSERT_FALSE(opened) << name;
    EXPECT_EQ(opened.error().code(), ErrorCode::invalid_argument) << name;
    EXPECT_FALSE(io->remove(name)) << name;
    EXPECT_FALSE(io->rename("segments", name)) << name;
    EXPECT_FALSE(io->make_directory(name)) << name;
  }
  EXPECT_FALSE(io->list(".."));
  EXPECT_FALSE(io->sync_directory("../"));
}

TEST_P(IoContract, FoldersAreMadeOnceAndListedSorted) {
  auto io = open();
  EXPECT_THAT(io->list("").value(), ElementsAre());
  ASSERT_TRUE(io->make_directory("segments"));
  ASSERT_TRUE(io->make_directory("segments"));
  for (const char* name : {"segments/b", "segments/a", "z", "segments/c"})
    ASSERT_TRUE(io->open(name, OpenMode::create));
  EXPECT_THAT(io->list("segments").value(), ElementsAre("a", "b", "c"));
  EXPECT_THAT(io->list("").value(), ElementsAre("segments", "z"));
  const auto missing = io->list("none");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_FALSE(io->make_directory("z")) << "there is a file of that name";
  EXPECT_FALSE(io->open("segments", OpenMode::read));
}

TEST_P(IoContract, RenameReplacesAndRemoveTakesAway) {
  auto io = open();
  ASSERT_TRUE(io->make_directory("segments"));
  const auto content = random_bytes(1000, 1);
  {
    auto file = io->open("new", OpenMode::create).value();
    ASSERT_TRUE(file->submit_write(0, content));
    ASSERT_TRUE(file->sync());
  }
  ASSERT_TRUE(io->open("segments/old", OpenMode::create));
  auto reader = io->open("segments/old", OpenMode::read).value();
  ASSERT_TRUE(io->rename("new", "segments/old"));
  EXPECT_EQ(reader->size_bytes().value(), 0U) << "open files stay what they were";
  EXPECT_EQ(read_all(*io->open("segments/old", OpenMode::read).value()), content);
  EXPECT_THAT(io->list("").value(), ElementsAre("segments"));
  const Status missing = io->rename("new", "other");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  auto file = io->open("segments/old", OpenMode::read).value();
  ASSERT_TRUE(io->remove("segments/old"));
  EXPECT_EQ(read_all(*file), content);
  const Status gone = io->remove("segments/old");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code(), ErrorCode::not_found);
  EXPECT_TRUE(io->sync_directory("segments"));
  EXPECT_TRUE(io->sync_directory(""));
}

TEST_P(IoContract, LocksConflictBetweenOpenings) {
  auto one = open();
  auto other = open();
  auto held = one->lock(3, true);
  ASSERT_TRUE(held) << held.error().message();
  for (Io* io : {one.get(), other.get()}) {
    for (const bool exclusive : {true, false}) {
      const auto refused = io->lock(3, exclusive);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code(), ErrorCode::busy);
      EXPECT_THAT(refused.error().message(), HasSubstr("byte 3"));
    }
  }
  EXPECT_TRUE(other->lock(4, true)) << "each byte is a lock of its own";
  held.value().reset();
  auto shared = one->lock(3, false);
  ASSERT_TRUE(shared);
  auto shared_too = other->lock(3, false);
  ASSERT_TRUE(shared_too);
  EXPECT_FALSE(other->lock(3, true));
  shared.value().reset();
  EXPECT_FALSE(one->lock(3, true));
  shared_too.value().reset();
  EXPECT_TRUE(one->lock(3, true));
}

TEST_P(IoContract, OthersSeeWhatWasSynced) {
  auto io = open();
  auto file = io->open("data", OpenMode::create).value();
  const auto content = random_bytes(100000, 1);
  ASSERT_TRUE(file->submit_write(0, content));
  ASSERT_TRUE(file->sync());
  EXPECT_EQ(read_all(*open()->open("data", OpenMode::read).value()), content);
}

TEST_P(IoContract, DepthOneIsEnough) {
  auto io = open(1);
  auto file = io->open("data", OpenMode::create).value();
  const auto content = random_bytes(100000, 1);
  for (std::size_t at = 0; at < content.size(); at += 10000)
    ASSERT_TRUE(file->submit_write(at, std::span(content).subspan(at, 10000)));
  ASSERT_TRUE(file->drain());
  EXPECT_EQ(read_all(*file), content);
}

TEST_P(IoContract, FileSystemIsDescribed) {
  auto io = open();
  const FileSystemTraits traits = io->file_system().value();
  EXPECT_FALSE(traits.type.empty());
  EXPECT_GT(traits.free_bytes, 0U);
  EXPECT_FALSE(io->directory().empty());
}

INSTANTIATE_TEST_SUITE_P(BackEnds, IoContract, testing::Values("uring", "posix", "simulated"),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace varve::storage
