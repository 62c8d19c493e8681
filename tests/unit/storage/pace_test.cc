// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing at a pace, and verify() at one: the rate is a bound, the findings are the same, and it can be
// stopped.
#include "storage/pace.h"

#include <future>
#include <thread>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "storage/verify.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::checkpoint;
using test::open_chain;
using test::open_store;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::some_memory;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// Three sealed segments with a full image each.
SimulatedDisk make_disk() {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 3; ++number) {
    EXPECT_TRUE(checkpoint(*store, *writer, "main", number, some_memory(number * 10, 60), nullptr, 0).has_value());
    EXPECT_TRUE(writer->seal().has_value());
  }
  EXPECT_TRUE(writer->close().has_value());
  return disk;
}

std::vector<std::string> segments_of(const SimulatedDisk& disk) {
  std::vector<std::string> segments;
  for (const std::string& file : disk.files())
    if (file.ends_with(".seg")) segments.push_back(file);
  return segments;
}

/// Takes pieces at an imagined clock, each as soon as it may go; when the last one went.
std::uint64_t take_all(TokenBucket& bucket, std::uint64_t pieces, std::uint64_t bytes, std::uint64_t now_ns) {
  for (std::uint64_t i = 0; i < pieces; ++i) {
    now_ns += bucket.wait_ns(now_ns);
    EXPECT_EQ(bucket.wait_ns(now_ns), 0U);
    bucket.take(bytes, now_ns);
  }
  return now_ns;
}

constexpr std::uint64_t kSecondNs = 1'000'000'000;

TEST(TokenBucket, GivesTheRateFromTheFirstByteOn) {
  TokenBucket bucket({.bytes_per_second = kMiB});
  EXPECT_EQ(take_all(bucket, 1, kMiB, 5 * kSecondNs), 5 * kSecondNs);
  EXPECT_EQ(take_all(bucket, 3, kMiB / 2, 5 * kSecondNs), 7 * kSecondNs);  // the last one is not paid for yet
  // The same in smaller pieces, and with an hour's pause that is not made up for.
  const std::uint64_t later = 3600 * kSecondNs;
  EXPECT_EQ(take_all(bucket, 129, kMiB / 64, later), later + 2 * kSecondNs);
}

TEST(TokenBucket, LetsABurstGoAfterAPauseAndNoMore) {
  TokenBucket bucket({.bytes_per_second = kMiB, .burst_bytes = kMiB / 4});
  EXPECT_EQ(take_all(bucket, 5, kMiB / 16, kSecondNs), kSecondNs);  // the burst, and one that is not paid for yet
  EXPECT_EQ(bucket.wait_ns(kSecondNs), kSecondNs / 16);
  const std::uint64_t end = take_all(bucket, 16, kMiB / 16, kSecondNs);
  EXPECT_EQ(end, 2 * kSecondNs);
  EXPECT_EQ(bucket.wait_ns(end + kSecondNs / 16), 0U);
  EXPECT_EQ(take_all(bucket, 5, kMiB / 16, 100 * kSecondNs), 100 * kSecondNs) << "the burst is there again";
  EXPECT_GT(bucket.wait_ns(100 * kSecondNs), 0U) << "and only once";
}

TEST(TokenBucket, WithoutARateNothingWaits) {
  TokenBucket bucket({});
  EXPECT_EQ(take_all(bucket, 1000, std::uint64_t{1} << 40, 7), 7U);
}

TEST(Pace, EveryWriteGoesThroughItAndNoRead) {
  SimulatedDisk disk;
  auto pace = std::make_shared<Pace>(PaceOptions{});
  PacedWrites io(disk.open(), pace);
  const auto content = test::random_bytes(8192, 1);
  {
    auto file = io.open("file", OpenMode::create);
    ASSERT_OK(file);
    ASSERT_OK((*file)->submit_write(0, content));
    ASSERT_OK((*file)->submit_write(content.size(), content));
    ASSERT_OK((*file)->sync());
  }
  EXPECT_EQ(pace->bytes(), 2 * content.size());
  auto file = io.open("file", OpenMode::read);
  ASSERT_OK(file);
  std::vector<std::byte> back(content.size());
  ASSERT_OK((*file)->read(content.size(), back));
  EXPECT_EQ(back, content);
  EXPECT_EQ(pace->bytes(), 2 * content.size());

  auto again = io.open("file", OpenMode::write);
  ASSERT_OK(again);
  pace->stop();
  const auto refused = (*again)->submit_write(0, content);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().os_errno(), ECANCELED);
}

TEST(Pace, IsABoundHoweverLongNothingWasRead) {
  Pace pace({.bytes_per_second = 8 * kMiB});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // not to be made up for
  const std::uint64_t begin = monotonic_ns();
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(pace.take(kMiB / 4));
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  EXPECT_GE(seconds, 11 * 0.25 / 8);  // the last one is not paid for yet
  EXPECT_LT(seconds, 10);
  EXPECT_EQ(pace.bytes(), 3 * kMiB);
}

TEST(Pace, StoppingWakesWhoWaits) {
  Pace pace({.bytes_per_second = 1});
  ASSERT_TRUE(pace.take(kMiB));  // twelve days
  auto waiting = std::async(std::launch::async, [&] { return pace.take(1); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pace.stop();
  EXPECT_FALSE(waiting.get());
  EXPECT_FALSE(pace.take(1));
}

TEST(Pace, VerifyFindsTheSameAtAPace) {
  SimulatedDisk disk = make_disk();
  for (const bool damage : {false, true}) {
    if (damage) disk.flip_bit(segments_of(disk)[1], 3 * test::kPage, 3);
    auto io = disk.open();
    auto fast = verify(*io, {.deep = true});
    Pace pace({.bytes_per_second = 4 * kMiB});
    const std::uint64_t begin = monotonic_ns();
    auto slow = verify(*io, {.deep = true, .pace = &pace});
    const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
    ASSERT_OK(fast);
    ASSERT_OK(slow);
    EXPECT_EQ(slow->status, damage ? VerifyStatus::damage : VerifyStatus::good);
    EXPECT_EQ(slow->status, fast->status);
    EXPECT_EQ(slow->findings.size(), fast->findings.size());
    EXPECT_EQ(slow->good.size(), fast->good.size());
    EXPECT_FALSE(slow->interrupted);
    EXPECT_GE(pace.bytes(), pace.expected_bytes());
    EXPECT_GE(pace.expected_bytes(), 3 * 60 * test::kPage);
    EXPECT_GE(seconds, (static_cast<double>(pace.bytes()) - kMiB) / (4 * kMiB));
  }
}

/// What a verification says that is stopped after some bytes.
VerifyReport stopped_after(SimulatedDisk& disk, std::uint64_t bytes) {
  auto io = disk.open();
  Pace pace({.bytes_per_second = 2 * kMiB});
  auto running = std::async(std::launch::async, [&] { return verify(*io, {.deep = true, .pace = &pace}); });
  while (pace.bytes() < bytes) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pace.stop();
  auto report = running.get();
  EXPECT_TRUE(report.has_value());
  return report ? *report : VerifyReport{};
}

TEST(Pace, AStoppedVerifySaysSoAndWhatItFoundBefore) {
  SimulatedDisk disk = make_disk();
  const VerifyReport early = stopped_after(disk, 1);
  EXPECT_TRUE(early.interrupted);
  EXPECT_EQ(early.status, VerifyStatus::interrupted);
  EXPECT_TRUE(early.findings.empty());
  EXPECT_TRUE(early.damaged.empty());

  disk.flip_bit(segments_of(disk).back(), 3 * test::kPage, 3);  // the one that is read first
  const VerifyReport later = stopped_after(disk, disk.size_bytes(segments_of(disk).back()) + test::kPage * 80);
  EXPECT_TRUE(later.interrupted);
  EXPECT_EQ(later.status, VerifyStatus::damage);
  EXPECT_FALSE(later.findings.empty());
}

}  // namespace
}  // namespace varve::storage
