// SPDX-License-Identifier: Apache-2.0
//
// A medium that can't give a block: told apart from damage, named with file and offset, and no more is lost than what
// lies there. Each block of each file of a store with two chains goes bad in turn.
#include <algorithm>
#include <cerrno>
#include <map>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/os_error.h"
#include "storage/verify.h"
#include "tests/support/hooked_io.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::HookedCall;
using test::HookedIo;
using test::kPage;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::some_memory;
using testing::HasSubstr;

struct BadBlock {
  std::string file;
  std::uint64_t offset = 0;
  int os_errno = EIO;
};

std::unique_ptr<Io> with_bad_block(SimulatedDisk& disk, const BadBlock& bad) {
  return std::make_unique<HookedIo>(disk.open(), [bad](const HookedCall& call) -> Status {
    const bool hit = call.kind == HookedCall::Kind::read && call.file == bad.file && call.offset < bad.offset + kPage &&
                     bad.offset < call.offset + call.bytes;
    if (!hit) return {};
    return os_error(fmt::format("read of {} at offset {} failed", call.file, call.offset), bad.os_errno);
  });
}

class StoreReadError : public testing::Test {
 protected:
  /// Two chains of three images each, every image in a segment of its own but for the last two of `main`.
  void SetUp() override {
    auto store = test::open_store(disk_);
    for (const std::string chain : {"main", "other"}) {
      auto writer = test::open_chain(*store, chain);
      ShadowMemory before;
      for (std::uint64_t number = 1; number <= 3; ++number) {
        ShadowMemory memory = some_memory(chain.size() * 100, 40);  // several frames
        for (std::uint64_t page = 0; page < number; ++page) memory["grid"].content[page * kPage] = std::byte(number);
        ASSERT_OK(
            test::checkpoint(*store, *writer, chain, number, memory, number == 2 ? &before : nullptr, number - 1));
        images_[{chain, number}] = memory;
        before = memory;
        if (number == 1 || chain == "other") ASSERT_OK(writer->seal());
      }
      ASSERT_OK(writer->close());
    }
  }

  /// Restores all images; gives those that could be.
  std::set<std::pair<std::string, std::uint64_t>> restore_all(Store& store) {
    std::set<std::pair<std::string, std::uint64_t>> whole;
    for (const auto& [image, memory] : images_) {
      auto restored = test::restore(store, image.first, image.second);
      if (restored) {
        EXPECT_TRUE(*restored == memory) << image.first << "/" << image.second;
        whole.insert(image);
      } else if (restored.error().code() != ErrorCode::not_found) {  // not even its segment could be looked at
        EXPECT_EQ(restored.error().code(), ErrorCode::io) << restored.error().message();
        EXPECT_EQ(restored.error().os_errno(), EIO);
        EXPECT_THAT(restored.error().message(), HasSubstr(".seg"));
      }
    }
    return whole;
  }

  SimulatedDisk disk_;
  std::map<std::pair<std::string, std::uint64_t>, ShadowMemory> images_;
};

TEST_F(StoreReadError, EveryBadBlockIsNamedAndCostsNoMoreThanWhatLiesThere) {
  std::size_t blocks = 0;
  for (const std::string& file : disk_.files()) {
    if (!file.ends_with(".seg")) continue;
    for (std::uint64_t offset = 0; offset < disk_.size_bytes(file); offset += kPage, ++blocks) {
      SCOPED_TRACE(file + " at " + std::to_string(offset));
      auto io = with_bad_block(disk_, {file, offset});
      auto report = verify(*io, {});
      ASSERT_OK(report);
      EXPECT_EQ(report->status, VerifyStatus::damage);
      const bool named = std::ranges::any_of(report->findings, [&](const VerifyFinding& finding) {
        return finding.file == file && finding.offset < offset + kPage && offset <= finding.offset + finding.bytes &&
               finding.what.find("EIO") != std::string::npos;
      });
      EXPECT_TRUE(named);
      EXPECT_LE(report->findings.size(), 40U);
      auto store = Store::open(std::move(io), {});
      ASSERT_OK(store);
      const auto whole = restore_all(**store);
      EXPECT_GE(whole.size(), 3U);
      for (const ImageSummary& image : report->good)
        EXPECT_TRUE(whole.contains({image.chain, image.number})) << image.chain << "/" << image.number;
      EXPECT_EQ(report->good.size(), whole.size()) << "what verify() calls damaged can't be restored";
      for (const std::string chain : {"main", "other"}) {
        const auto newest = (*store)->newest_image(chain);
        if (newest)
          EXPECT_EQ(newest->number, 3U);
        else
          EXPECT_EQ(newest.error().code(), ErrorCode::io) << newest.error().message();
      }
    }
  }
  EXPECT_GT(blocks, 100U);
}

TEST_F(StoreReadError, AnUnreadableInventoryStopsNoReader) {
  auto io = with_bad_block(disk_, {"inventory", 0});
  auto report = verify(*io, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::damage);
  ASSERT_EQ(report->findings.size(), 1U);
  EXPECT_EQ(report->findings[0].file, "inventory");
  EXPECT_THAT(report->findings[0].what, HasSubstr("EIO"));
  EXPECT_EQ(report->good.size(), images_.size());
  auto store = Store::open(std::move(io), {});
  ASSERT_OK(store);
  EXPECT_EQ(restore_all(**store).size(), images_.size());
  const auto writer = (*store)->open_chain("main");  // it would recover what the inventory lists
  ASSERT_FALSE(writer.has_value());
  EXPECT_EQ(writer.error().code(), ErrorCode::io) << writer.error().message();
  EXPECT_TRUE(test::open_store(disk_)->damage().empty());
}

TEST_F(StoreReadError, AnInventoryThatIsReadableAgainIsBelieved) {
  bool bad = true;
  auto opened = Store::open(std::make_unique<HookedIo>(disk_.open(),
                                                       [&](const HookedCall& call) -> Status {
                                                         if (!bad || call.file != "inventory") return {};
                                                         return os_error("read of the inventory failed", EIO);
                                                       }),
                            {});
  ASSERT_OK(opened);
  bad = false;
  auto writer = test::open_chain(**opened, "main");
  ASSERT_OK(test::checkpoint(**opened, *writer, "main", 4, images_[{"main", 3}], nullptr, 3));
  ASSERT_OK(writer->close());
  auto io = disk_.open();
  auto report = verify(*io, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good) << "what was sealed and listed was sealed anew";
}

TEST_F(StoreReadError, AnUnreadablePlaceIsNoTornEnd) {
  {
    auto store = test::open_store(disk_);
    auto writer = test::open_chain(*store, "late");
    for (std::uint64_t number = 1; number <= 3; ++number)
      ASSERT_OK(test::checkpoint(*store, *writer, "late", number, some_memory(900 + number), nullptr, 0));
  }  // killed: its segment stays open
  std::string open;
  for (const std::string& file : disk_.files())
    if (file.ends_with(".seg") && disk_.size_bytes(file) > (1U << 20)) open = file;
  ASSERT_FALSE(open.empty());
  const BadBlock bad{open, 30 * kPage};  // in the last image
  auto io = with_bad_block(disk_, bad);
  auto report = verify(*io, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::damage);
  auto store = Store::open(std::move(io), {});
  ASSERT_OK(store);
  const auto newest = (*store)->newest_image("late");
  ASSERT_FALSE(newest.has_value());
  EXPECT_EQ(newest.error().code(), ErrorCode::io) << newest.error().message();
  EXPECT_EQ(newest.error().os_errno(), EIO);
  EXPECT_TRUE(test::restore(**store, "late", 1).has_value());
  EXPECT_TRUE((*store)->newest_image("main").has_value());
}

TEST_F(StoreReadError, WhatFileSystemsSayOfTheirOwnChecksumsIsTheSame) {
  std::string file;
  for (const std::string& one : disk_.files())
    if (one.ends_with(".seg")) file = one;
  for (const int os_errno : {EBADMSG, EUCLEAN, ENODATA}) {
    auto io = with_bad_block(disk_, {file, 2 * kPage, os_errno});
    auto report = verify(*io, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->status, VerifyStatus::damage);
    EXPECT_FALSE(report->good.empty());
    EXPECT_TRUE(Store::open(std::move(io), {}).has_value());
  }
  auto io = with_bad_block(disk_, {file, 2 * kPage, ENOMEM});
  const auto report = verify(*io, {});
  ASSERT_FALSE(report.has_value()) << "our own trouble is no damage";
  EXPECT_EQ(report.error().os_errno(), ENOMEM);
}

}  // namespace
}  // namespace varve::storage
