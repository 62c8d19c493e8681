// SPDX-License-Identifier: Apache-2.0
//
// Reading at a pace, and verify() at one: the rate is a bound, the findings are the same, and it can be stopped.
#include "storage/read_pace.h"

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

TEST(ReadPace, IsABoundHoweverLongNothingWasRead) {
  ReadPace pace(8 * kMiB);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // not to be made up for
  const std::uint64_t begin = monotonic_ns();
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(pace.take(kMiB / 4));
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  EXPECT_GE(seconds, 11 * 0.25 / 8);  // the last one is not paid for yet
  EXPECT_LT(seconds, 10);
  EXPECT_EQ(pace.bytes(), 3 * kMiB);
}

TEST(ReadPace, StoppingWakesWhoWaits) {
  ReadPace pace(1);
  ASSERT_TRUE(pace.take(kMiB));  // twelve days
  auto waiting = std::async(std::launch::async, [&] { return pace.take(1); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  pace.stop();
  EXPECT_FALSE(waiting.get());
  EXPECT_FALSE(pace.take(1));
}

TEST(ReadPace, VerifyFindsTheSameAtAPace) {
  SimulatedDisk disk = make_disk();
  for (const bool damage : {false, true}) {
    if (damage) disk.flip_bit(segments_of(disk)[1], 3 * test::kPage, 3);
    auto io = disk.open();
    auto fast = verify(*io, {.deep = true});
    ReadPace pace(4 * kMiB);
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
  ReadPace pace(2 * kMiB);
  auto running = std::async(std::launch::async, [&] { return verify(*io, {.deep = true, .pace = &pace}); });
  while (pace.bytes() < bytes) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  pace.stop();
  auto report = running.get();
  EXPECT_TRUE(report.has_value());
  return report ? *report : VerifyReport{};
}

TEST(ReadPace, AStoppedVerifySaysSoAndWhatItFoundBefore) {
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
