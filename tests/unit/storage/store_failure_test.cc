// SPDX-License-Identifier: Apache-2.0
//
// The store when things go wrong: failed writes and flushes, full disks, killed writers, damage, misuse.
#include <cerrno>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "storage/format.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::checkpoint;
using test::kPage;
using test::open_chain;
using test::open_store;
using test::random_bytes;
using test::restore;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::SimulatedOperation;
using test::some_memory;

TEST(StoreFailure, AnAbandonedImageLeavesNothing) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory first = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
  const auto chunks = store->statistics().indexed_chunks;
  ASSERT_OK(writer->begin());
  ASSERT_OK(test::add_image(*store, *writer, "main", 2, some_memory(50, 300), nullptr, 1));  // several buffers
  writer->abandon();
  EXPECT_EQ(store->statistics().indexed_chunks, chunks);
  const ShadowMemory second = some_memory(50);
  auto committed = checkpoint(*store, *writer, "main", 2, second, nullptr, 1);
  ASSERT_OK(committed);
  EXPECT_GT(committed->new_chunks, 0U) << "chunks of the abandoned image are gone";
  ASSERT_OK(writer->close());
  auto again = open_store(disk);
  for (std::uint64_t number = 1; number <= 2; ++number) {
    auto restored = restore(*again, "main", number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, number == 1 ? first : second);
  }
  auto report = verify(again->io(), {true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good);
}

TEST(StoreFailure, AKilledWritersWholeImagesAreKeptAndItsSegmentIsSealed) {
  SimulatedDisk disk;
  const ShadowMemory first = some_memory(1);
  {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
    ASSERT_OK(writer->begin());
    ASSERT_OK(test::add_image(*store, *writer, "main", 2, some_memory(9, 300), nullptr, 1));
  }  // neither committed nor closed
  auto io = disk.open();
  auto report = verify(*io, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::unfinished);
  ASSERT_EQ(report->unfinished.size(), 1U);
  EXPECT_GT(report->unfinished[0].bytes, 0U);
  auto store = open_store(disk);
  ASSERT_EQ(store->images().size(), 1U);
  auto writer = open_chain(*store);
  EXPECT_EQ(writer->next_number(), 2U);
  ASSERT_OK(checkpoint(*store, *writer, "main", 2, first, &first, 1));
  ASSERT_OK(writer->close());
  report = verify(*io, {true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good);
  EXPECT_EQ(report->good.size(), 2U);
}

/// Commits image 1, breaks the `nth` operation of image 2, and looks at everything that must still be right.
void check_failure(SimulatedOperation operation, std::uint64_t nth, int os_errno, bool& failed) {
  SCOPED_TRACE(fmt::format("{} {} fails with {}", test::to_string(operation), nth, os_errno));
  SimulatedDisk disk;
  const ShadowMemory first = some_memory(1);
  const ShadowMemory second = some_memory(20, 1600);  // several buffers
  std::uint64_t number = 0;
  {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
    const auto chunks = store->statistics().indexed_chunks;
    disk.add_fault({operation, nth, os_errno, 1, "segments/"});
    auto broken = checkpoint(*store, *writer, "main", 2, second, nullptr, 1);
    failed = !broken.has_value();
    disk.clear_faults();
    if (failed) {
      EXPECT_EQ(broken.error().code(), ErrorCode::io);
      EXPECT_EQ(broken.error().os_errno(), os_errno);
      EXPECT_EQ(store->statistics().indexed_chunks, chunks) << "chunks of a failed image left the index";
      EXPECT_EQ(store->images().size(), 1U);
    }
    auto other = open_store(disk);  // another process lists it only if it succeeded
    EXPECT_EQ(other->images().size(), failed ? 1U : 2U);
    auto restored = restore(*store, "main", 1);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, first);
    number = writer->next_number();
    EXPECT_GE(number, failed ? 2U : 3U);
    ASSERT_OK(checkpoint(*store, *writer, "main", number, second, nullptr, 1));
    ASSERT_OK(writer->close());
  }
  disk.crash(nth);
  auto store = open_store(disk);
  EXPECT_TRUE(store->damage().empty());
  EXPECT_EQ(store->images().size(), failed ? 2U : 3U);
  auto restored = restore(*store, "main", number);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, second);
  auto report = verify(store->io(), {true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good) << (report->findings.empty() ? "" : report->findings[0].what);
}

TEST(StoreFailure, AFailedWriteOrFlushFailsThatImageAndNoOther) {
  for (const auto operation : {SimulatedOperation::write, SimulatedOperation::sync}) {
    for (const int os_errno : {ENOSPC, EIO, EDQUOT}) {
      bool failed = true;
      std::uint64_t nth = 0;
      while (failed && !HasFailure()) check_failure(operation, ++nth, os_errno, failed);
      EXPECT_GE(nth, operation == SimulatedOperation::write ? 4U : 2U);
    }
  }
}

TEST(StoreFailure, AFullDiskFailsTheImageAndLaterOnesAreGood) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const ShadowMemory first = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
  disk.set_capacity(disk.used_bytes() + 100 * kPage);
  const ShadowMemory large = some_memory(2, 3000);
  for (int i = 0; i < 3; ++i) {
    auto broken = checkpoint(*store, *writer, "main", writer->next_number(), large, nullptr, 1);
    ASSERT_FALSE(broken.has_value());
    EXPECT_EQ(broken.error().os_errno(), ENOSPC) << broken.error().message();
  }
  disk.set_capacity(disk.used_bytes() + 8000 * kPage);
  const std::uint64_t number = writer->next_number();
  ASSERT_OK(checkpoint(*store, *writer, "main", number, large, nullptr, 1));
  ASSERT_OK(writer->close());
  auto again = open_store(disk);
  auto restored = restore(*again, "main", number);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, large);
  EXPECT_TRUE(restore(*again, "main", 1).has_value());
}

TEST(StoreFailure, VerifyOnDedupSeesTwoContentsOfOneName) {
  for (const bool flushed : {false, true}) {
    SimulatedDisk disk;
    StoreOptions options;
    options.verify_on_dedup = true;
    auto store = open_store(disk, options);
    auto writer = open_chain(*store);
    const auto honest = random_bytes(kPage, 1);
    const auto evil = random_bytes(kPage, 2);
    const ChunkName name = store->name_of(honest);
    ASSERT_OK(writer->begin());
    ASSERT_OK(writer->add(name, honest, 0, {}));
    // Enough to push the frame out, so that it is compared with stored bytes.
    if (flushed)
      for (std::uint64_t i = 10; i < 60; ++i) {
        const auto filler = random_bytes(kPage, i);
        ASSERT_OK(writer->add(store->name_of(filler), filler, 0, {}));
      }
    ASSERT_OK(writer->add(name, honest, 0, {}));
    ASSERT_OK(writer->confirm(name, honest));
    auto refused = writer->add(name, evil, 0, {});
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), ErrorCode::corruption);
    EXPECT_FALSE(writer->confirm(name, evil).has_value());
    writer->abandon();
  }
}

TEST(StoreFailure, ReadsAnotherCopyOfAChunkWhenOneIsDamaged) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto other_store = open_store(disk);
  const ShadowMemory memory = some_memory(1, 40);
  auto first = open_chain(*store, "first");
  auto second = open_chain(*other_store, "second");
  ASSERT_OK(checkpoint(*store, *first, "first", 1, memory, nullptr, 0));
  ASSERT_OK(checkpoint(*other_store, *second, "second", 1, memory, nullptr, 0));  // a copy of its own
  ASSERT_OK(first->close());
  ASSERT_OK(second->close());
  auto again = open_store(disk);
  disk.flip_bit(again->images()[0].segment, 2 * kPage, 0);
  for (const char* chain : {"first", "second"}) {
    auto restored = restore(*again, chain, 1);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, memory);
  }
}

TEST(StoreFailure, ReportsAMissingChunkAndAWrongLength) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const ShadowMemory memory = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
  const auto deliver = [](std::uint64_t, std::span<const std::byte>) {};
  const ChunkRequest missing{{1, 2}, 4096, 0};
  auto refused = store->read_chunks(std::span(&missing, 1), kAllProcessors, deliver);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::corruption);
  const auto page = std::span(memory.at("grid").content).first(kPage);
  const ChunkRequest longer{store->name_of(page), 5000, 0};
  EXPECT_FALSE(store->read_chunks(std::span(&longer, 1), kAllProcessors, deliver).has_value());
  EXPECT_TRUE(store->read_chunks({}, kAllProcessors, deliver).has_value());
  EXPECT_EQ(store->read_manifest("main", 9).error().code(), ErrorCode::not_found);
}

TEST(StoreFailure, ARefusedDirectoryIsNotTouched) {
  SimulatedDisk disk;
  disk.put("notes.txt", std::as_bytes(std::span("mine", 4)));
  auto refused = Store::open(disk.open(), {});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  EXPECT_NE(refused.error().cause().find("notes.txt"), std::string::npos);
  SimulatedDisk empty;
  StoreOptions options;
  options.create = false;
  auto missing = Store::open(empty.open(), options);
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_TRUE(empty.files().empty());
  options = {};
  options.chunk_bytes = 5000;
  EXPECT_EQ(Store::open(empty.open(), options).error().code(), ErrorCode::invalid_argument);
}

TEST(StoreFailure, AStoreWithoutItsIdentityIsDamagedAndNotMadeAnew) {
  SimulatedDisk disk;
  {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, some_memory(1), nullptr, 0));
    ASSERT_OK(writer->close());
  }
  disk.remove(kStoreFile);
  for (const bool create : {false, true}) {
    StoreOptions options;
    options.create = create;
    auto refused = Store::open(disk.open(), options);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), ErrorCode::corruption) << refused.error().message();
  }
}

TEST(StoreFailure, NothingIsCalledDurableWhereTheFileSystemPromisesNothing) {
  test::SimulatedOptions disk_options;
  disk_options.durable = false;
  SimulatedDisk disk(disk_options);
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  auto committed = checkpoint(*store, *writer, "main", 1, some_memory(1), nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_FALSE(committed->durable);
}

TEST(StoreFailure, AnOldInventoryPutBackIsNoticed) {
  SimulatedDisk disk;
  std::vector<std::byte> old;
  for (std::uint64_t number = 1; number <= 3; ++number) {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    ASSERT_OK(checkpoint(*store, *writer, "main", number, some_memory(number), nullptr, number - 1));
    ASSERT_OK(writer->close());
    if (number == 1) old = disk.read(kInventoryFile);
  }
  disk.put(kInventoryFile, old);
  auto store = open_store(disk);
  EXPECT_FALSE(store->damage().empty());
  auto report = verify(store->io(), {});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::damage);
}

}  // namespace
}  // namespace varve::storage
