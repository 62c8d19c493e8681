// SPDX-License-Identifier: Apache-2.0
//
// Chunks stored as differences to earlier ones: through writing, reading, verification and garbage collection.
#include <cerrno>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/os_error.h"
#include "storage/collect.h"
#include "storage/frame.h"
#include "storage/segment_load.h"
#include "storage/verify.h"
#include "tests/support/differences.h"
#include "tests/support/hooked_io.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::checkpoint;
using test::collect;
using test::Differences;
using test::kPage;
using test::look_for_differences;
using test::open_chain;
using test::open_store;
using test::random_bytes;
using test::restore;
using test::retire;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::States;

constexpr std::size_t kPages = 64;

/// The smallest result, whatever it takes: nothing depends on what this machine is doing.
StoreOptions small_segments(std::uint64_t pages = 1) {
  StoreOptions options;
  options.segment_bytes = pages * kPage;
  options.preallocate_bytes = 0;
  options.favour_size = true;
  return options;
}

ShadowMemory heap(std::uint64_t seed, std::uint32_t grid_offset = 16) {
  ShadowMemory memory;
  memory["heap"] = {random_bytes(kPages * kPage, seed), grid_offset, 0};
  return memory;
}

/// A few bytes of every page from `first` on, others for each number.
void drift(ShadowMemory& memory, std::uint64_t number, std::size_t first = 0) {
  std::vector<std::byte>& content = memory["heap"].content;
  for (std::size_t at = first * kPage + number * 16; at < content.size(); at += kPage / 2)
    content[at] = static_cast<std::byte>(number * 37 + at / kPage + 1);
}

/// Images first .. last of a chain: each a delta on the one before, but the very first.
void run(Store& store, ChainWriter& writer, const std::string& chain, std::uint64_t first, std::uint64_t last,
         ShadowMemory& memory, States& states) {
  for (std::uint64_t number = first; number <= last; ++number) {
    const auto before = states.find(number - 1);
    if (before != states.end()) drift(memory, number);
    ASSERT_OK(checkpoint(store, writer, chain, number, memory, before == states.end() ? nullptr : &before->second,
                         before == states.end() ? 0 : number - 1));
    states[number] = memory;
  }
}

/// The image once more, full: what was before may go then.
void full(Store& store, ChainWriter& writer, const std::string& chain, std::uint64_t number, const ShadowMemory& memory,
          States& states) {
  ASSERT_OK(checkpoint(store, writer, chain, number, memory, nullptr, number - 1));
  states[number] = memory;
}

void check(Store& store, const std::string& chain, const States& states) {
  for (const auto& [number, memory] : states) {
    auto restored = restore(store, chain, number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, memory) << chain << "/" << number;
  }
}

void check_disk(SimulatedDisk& disk, const std::string& chain, const States& states) {
  const auto io = disk.open();
  for (const bool deep : {false, true}) {
    auto report = verify(*io, {.deep = deep});
    ASSERT_OK(report);
    EXPECT_NE(report->status, VerifyStatus::damage) << (report->findings.empty() ? "" : report->findings.front().what);
    EXPECT_EQ(report->good.size(), open_store(disk)->images().size());
  }
  auto store = open_store(disk);
  EXPECT_TRUE(store->damage().empty()) << store->damage().front();
  check(*store, chain, states);
}

std::string segment_of(Store& store, std::uint64_t number) {
  for (const ImageSummary& image : store.images())
    if (image.number == number) return image.segment;
  return {};
}

TEST(Difference, ImagesComeBackAndTakeLittle) {
  for (const unsigned threads : {1U, 3U}) {
    SimulatedDisk disk;
    States states;
    StoreOptions options = small_segments(1000);
    options.threads = threads;
    ShadowMemory memory = heap(1);
    {
      auto store = open_store(disk, options);
      auto writer = open_chain(*store);
      run(*store, *writer, "main", 1, 8, memory, states);
      check(*store, "main", states);
      ASSERT_OK(writer->close());
    }
    check_disk(disk, "main", states);
    const Differences found = look_for_differences(*disk.open());
    EXPECT_GE(found.chunks, 6 * kPages);
    EXPECT_TRUE(found.deep.empty()) << "a base that is a difference";
    EXPECT_LT(disk.used_bytes(), 3 * kPages * kPage) << "8 images of incompressible pages";
  }
}

TEST(Difference, IsToTheSameRootWhoeverWrites) {
  SimulatedDisk disk;
  States states;
  ShadowMemory memory = heap(1);
  for (std::uint64_t number = 1; number <= 6; ++number) {  // each by another process
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    run(*store, *writer, "main", number, number, memory, states);
    ASSERT_OK(writer->close());
  }
  const Differences found = look_for_differences(*disk.open());
  EXPECT_GE(found.chunks, 4 * kPages);
  EXPECT_LE(found.bases.size(), kPages + 1);
  EXPECT_TRUE(found.deep.empty());
  check_disk(disk, "main", states);
}

TEST(Difference, RootsAreRenewedAsTheContentDriftsAway) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments(1000));
  auto writer = open_chain(*store);
  ShadowMemory memory = heap(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
  for (std::uint64_t number = 2; number <= 60; ++number) {
    const ShadowMemory before = memory;
    std::vector<std::byte>& content = memory["heap"].content;
    const auto fresh = random_bytes(content.size(), number);
    for (std::size_t at = number % 16; at < content.size(); at += 16) content[at] = fresh[at];  // all in 16 images
    ASSERT_OK(checkpoint(*store, *writer, "main", number, memory, &before, number - 1));
  }
  states[60] = memory;
  ASSERT_OK(writer->close());
  const Differences found = look_for_differences(*disk.open());
  EXPECT_GT(found.chunks, 10 * kPages);
  EXPECT_GT(found.bases.size(), 2 * kPages) << "the first image's pages are not the only roots";
  EXPECT_GT(found.plain_chunks, 3 * kPages);
  check_disk(disk, "main", states);
}

TEST(Difference, ContentOfAnotherNameIsNoBase) {
  // As a writer with a bug in its hash would store it: all checksums of the records are right.
  SimulatedDisk elsewhere({.seed = 2});
  auto namer = open_store(elsewhere);  // has another secret
  SimulatedDisk disk;
  StoreOptions options = small_segments(1000);
  options.verify_on_dedup = true;  // names that come with other content are expected
  auto store = open_store(disk, options);
  auto writer = open_chain(*store);
  const ShadowMemory before = heap(1);
  ShadowMemory memory = before;
  drift(memory, 2);
  ASSERT_OK(checkpoint(*namer, *writer, "main", 1, before, nullptr, 0));
  ASSERT_OK(checkpoint(*namer, *writer, "main", 2, memory, &before, 1));
  ASSERT_OK(writer->close());
  EXPECT_EQ(look_for_differences(*disk.open()).chunks, 0U);
}

TEST(Difference, ABaseOutlivesItsImages) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  ShadowMemory memory = heap(1);
  run(*store, *writer, "main", 1, 6, memory, states);
  full(*store, *writer, "main", 7, memory, states);
  retire(*writer, 1, 6, states);
  CollectReport report;
  collect(*store, *writer, report, test::impatient(0));
  EXPECT_GT(report.segments_dropped, 0U) << "differences of images in between";
  check(*store, "main", states);
  ASSERT_OK(writer->close());
  EXPECT_GE(look_for_differences(*disk.open()).chunks, kPages);
  check_disk(disk, "main", states);
}

TEST(Difference, WhatIsAliveOfAFrameMovesToTheSameBases) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments(1000));
  auto writer = open_chain(*store);
  ShadowMemory memory = heap(1, 0);
  run(*store, *writer, "main", 1, 4, memory, states);
  // Every other page has another content from now on: half of each frame is alive.
  const ShadowMemory before = memory;
  for (std::size_t page = 0; page < kPages; page += 2) {
    const auto fresh = random_bytes(kPage, 900 + page);
    std::copy(fresh.begin(), fresh.end(), memory["heap"].content.begin() + static_cast<std::ptrdiff_t>(page * kPage));
  }
  ASSERT_OK(checkpoint(*store, *writer, "main", 5, memory, &before, 4));
  states[5] = memory;
  full(*store, *writer, "main", 6, memory, states);
  retire(*writer, 1, 5, states);
  // Whoever collects: also a store that compresses nothing by itself.
  ASSERT_OK(writer->close());
  writer.reset();
  StoreOptions raw = small_segments(1000);
  raw.compress = false;
  store = open_store(disk, raw);
  writer = open_chain(*store);
  CollectReport report;
  collect(*store, *writer, report, test::impatient(0));
  EXPECT_GT(report.segments_rewritten, 0U);
  check(*store, "main", states);
  ASSERT_OK(writer->close());
  const Differences found = look_for_differences(*disk.open());
  EXPECT_EQ(found.chunks, kPages / 2);
  EXPECT_LT(disk.used_bytes(), (kPages + kPages / 2 + 16) * kPage) << "bases and fresh pages, not blown up";
  check_disk(disk, "main", states);
}

TEST(Difference, WithoutItsBaseIsNotReused) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  const ShadowMemory first = heap(1);
  ShadowMemory second = first;
  drift(second, 2);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
  // In the same segment as the differences: pages that stay alive, so that it is not removed.
  second["other"] = {random_bytes(40 * kPages * kPage, 5), 0, 0};
  ShadowMemory before = first;
  before["other"] = {{}, 0, 0};
  ASSERT_OK(checkpoint(*store, *writer, "main", 2, second, &before, 1));
  ShadowMemory third = second;
  drift(third, 9);
  full(*store, *writer, "main", 3, third, states);
  ASSERT_OK(writer->retire(std::vector<std::uint64_t>{1, 2}));
  CollectReport report;
  collect(*store, *writer, report, test::impatient(0));
  ASSERT_GE(look_for_differences(*disk.open()).chunks, kPages) << "they are garbage, and there";
  ASSERT_FALSE(look_for_differences(*disk.open()).lacking.empty()) << "their bases went";
  check_disk(disk, "main", states);  // nobody needs them: no damage
  const std::uint64_t differences = look_for_differences(*disk.open()).chunks;
  ASSERT_OK(checkpoint(*store, *writer, "main", 4, second, &third, 3));
  states[4] = second;
  check(*store, "main", states);
  EXPECT_EQ(look_for_differences(*disk.open()).chunks, differences) << "what is written now needs nothing";
  ASSERT_OK(writer->close());
  check_disk(disk, "main", states);
}

TEST(Difference, OfAnImageWrittenMeanwhileKeepsItsBaseFromGoing) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  ShadowMemory memory = heap(1, 0);
  run(*store, *writer, "main", 1, 4, memory, states);
  const ShadowMemory fourth = memory;
  full(*store, *writer, "main", 5, heap(7), states);
  retire(*writer, 1, 4, states);
  auto other_store = open_store(disk, small_segments());  // another process
  auto other = open_chain(*other_store, "other");
  bool named = false;
  CollectOptions options;
  options.spare = 0;
  options.patience_ms = 0;
  options.progress = [&](const CollectReport& report) {
    if (report.planned_bytes == 0 || named) return;  // else: marked, and nobody needs the four images
    named = true;
    const auto committed = checkpoint(*other_store, *other, "other", 1, fourth, nullptr, 0);
    ASSERT_OK(committed);
    EXPECT_EQ(committed->new_chunks, 0U) << "it named the garbage of the first chain";
  };
  const auto collector = make_collector(*store, *writer, options);
  ASSERT_OK(collector->run({}));
  ASSERT_TRUE(named);
  EXPECT_FALSE(collector->report().left_alone.empty());
  ASSERT_OK(store->refresh());
  auto restored = restore(*store, "other", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, fourth);
  ASSERT_OK(other->close());
  ASSERT_OK(writer->close());
  check_disk(disk, "main", states);
}

TEST(Difference, ADamagedBaseIsDamageOfAllThatNeedItAndOfNoOther) {
  SimulatedDisk disk;
  States states;
  std::string file;
  {
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    ShadowMemory memory = heap(1);
    run(*store, *writer, "main", 1, 3, memory, states);
    full(*store, *writer, "main", 4, heap(7), states);
    file = segment_of(*store, 1);
    ASSERT_OK(writer->close());
  }
  disk.flip_bit(file, 3 * kPage, 3);  // in the first frame
  auto store = open_store(disk);
  for (const std::uint64_t number : {2U, 3U}) {
    auto restored = restore(*store, "main", number);
    ASSERT_FALSE(restored.has_value());
    EXPECT_EQ(restored.error().code(), ErrorCode::corruption);
    EXPECT_NE(restored.error().message().find("difference to another"), std::string::npos)
        << restored.error().message();
    EXPECT_NE(restored.error().message().find(file), std::string::npos) << restored.error().message();
  }
  auto good = restore(*store, "main", 4);
  ASSERT_OK(good);
  EXPECT_EQ(*good, states[4]);
  for (const bool deep : {false, true}) {
    auto report = verify(*disk.open(), {.deep = deep});
    ASSERT_OK(report);
    EXPECT_EQ(report->status, VerifyStatus::damage);
    EXPECT_EQ(report->damaged.size(), 3U);
    ASSERT_EQ(report->good.size(), 1U);
    EXPECT_EQ(report->good.front().number, 4U);
    bool named = false;
    for (const VerifyFinding& one : report->findings)
      named = named || (one.image == "main/3" && one.what.find("difference to chunk") != std::string::npos &&
                        one.what.find(file) != std::string::npos);
    EXPECT_TRUE(named);
  }
}

TEST(Difference, ABaseIsReadFromAnotherPlaceWhereOneIsDamaged) {
  SimulatedDisk disk;
  States states;
  auto first_store = open_store(disk, small_segments());
  auto second_store = open_store(disk, small_segments());  // another process: neither sees what the other writes
  auto first = open_chain(*first_store, "first");
  auto second = open_chain(*second_store, "second");
  ShadowMemory memory = heap(1);
  ASSERT_OK(checkpoint(*second_store, *second, "second", 1, memory, nullptr, 0));
  run(*first_store, *first, "first", 1, 3, memory, states);
  const std::string roots = segment_of(*first_store, 1);
  ASSERT_OK(first->close());
  ASSERT_OK(second->close());
  disk.flip_bit(roots, 3 * kPage, 3);
  auto store = open_store(disk);
  check(*store, "first", states);
  auto report = verify(*disk.open(), {.deep = true});
  ASSERT_OK(report);
  EXPECT_EQ(report->good.size(), 4U);
}

TEST(Difference, ABaseThatIsOnlyInADifferenceIsDamage) {
  SimulatedDisk disk;
  States states;
  auto first_store = open_store(disk, small_segments());
  auto second_store = open_store(disk, small_segments());  // another process, which sees nothing of the first
  auto first = open_chain(*first_store, "first");
  auto second = open_chain(*second_store, "second");
  ShadowMemory memory = heap(1);
  const ShadowMemory root = memory;
  run(*first_store, *first, "first", 1, 3, memory, states);
  // What is the root there is a difference here.
  ShadowMemory before = root;
  drift(before, 99);
  ASSERT_OK(checkpoint(*second_store, *second, "second", 1, before, nullptr, 0));
  ASSERT_OK(checkpoint(*second_store, *second, "second", 2, root, &before, 1));
  const std::string roots = segment_of(*first_store, 1);
  ASSERT_OK(first->close());
  ASSERT_OK(second->close());
  disk.remove(roots);
  auto store = open_store(disk);
  auto restored = restore(*store, "second", 2);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, root);
  auto refused = store->read_manifest("first", 3);
  ASSERT_OK(refused);
  std::vector<ChunkRequest> requests;
  requests.push_back({refused->regions.front().names.at(5), static_cast<std::uint32_t>(kPage), 0});
  auto read = store->read_chunks(requests, 1, [](std::uint64_t, std::span<const std::byte>) {});
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().code(), ErrorCode::corruption);
  EXPECT_NE(read.error().message().find("but in a difference"), std::string::npos) << read.error().message();
}

TEST(Difference, ABaseThatWasMovedMeanwhileIsLookedForAgain) {
  SimulatedDisk disk;
  States states;
  auto first_store = open_store(disk, small_segments());
  auto second_store = open_store(disk, small_segments());  // another process, which sees nothing of the first
  auto first = open_chain(*first_store, "first");
  auto second = open_chain(*second_store, "second");
  ShadowMemory memory = heap(1, 0);
  const ShadowMemory root = memory;
  run(*first_store, *first, "first", 1, 3, memory, states);
  ASSERT_OK(first->close());
  auto reader = open_store(disk);
  ASSERT_OK(checkpoint(*second_store, *second, "second", 1, root, nullptr, 0));
  ASSERT_OK(second->close());
  disk.remove(segment_of(*first_store, 1));
  auto third = reader->read_manifest("first", 3);
  ASSERT_OK(third);
  std::vector<ChunkRequest> requests;
  const std::vector<ChunkName>& names = third->regions.front().names;
  ASSERT_EQ(names.size(), kPages);
  for (std::size_t i = 0; i < names.size(); ++i) requests.push_back({names[i], static_cast<std::uint32_t>(kPage), i});
  ShadowMemory restored = root;
  ASSERT_OK(reader->read_chunks(requests, 1, [&](std::uint64_t tag, std::span<const std::byte> content) {
    std::ranges::copy(content, restored["heap"].content.begin() + static_cast<std::ptrdiff_t>(tag * kPage));
  }));
  EXPECT_EQ(restored, states[3]);
}

TEST(Difference, WhatCanNotBeReadIsNoBaseAndTheImageIsAsGood) {
  SimulatedDisk disk;
  States states;
  ShadowMemory memory = heap(1);
  {
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    run(*store, *writer, "main", 1, 2, memory, states);
    ASSERT_OK(writer->close());
  }
  const std::uint64_t before = look_for_differences(*disk.open()).chunks;
  {
    bool fails = false;
    auto store =
        Store::open(std::make_unique<test::HookedIo>(
                        disk.open(),
                        [&](const test::HookedCall& call) -> Status {
                          if (!fails || call.kind != test::HookedCall::Kind::read || !call.file.ends_with(".seg"))
                            return {};
                          return os_error(std::string("read of ").append(call.file) + " failed", EIO);
                        }),
                    small_segments());
    ASSERT_OK(store);
    auto writer = open_chain(**store);
    fails = true;
    drift(memory, 3);
    ASSERT_OK(checkpoint(**store, *writer, "main", 3, memory, &states[2], 2));
    states[3] = memory;
    fails = false;
    ASSERT_OK(writer->close());
  }
  EXPECT_EQ(look_for_differences(*disk.open()).chunks, before);
  check_disk(disk, "main", states);
}

TEST(Difference, DroppedAndLostImagesLeaveNothingBehind) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SimulatedDisk disk(test::SimulatedOptions{.seed = seed});
    States states;
    ShadowMemory memory = heap(seed);
    {
      auto store = open_store(disk, small_segments(100));
      auto writer = open_chain(*store);
      run(*store, *writer, "main", 1, 3, memory, states);
      drift(memory, 50);
      ASSERT_OK(writer->begin());
      ASSERT_OK(test::add_image(*store, *writer, "main", 4, memory, &states[3], 3));
      writer->abandon();
      run(*store, *writer, "main", 5, 5, memory, states);  // full, and partly what was dropped
      disk.add_fault({test::SimulatedOperation::sync, 1, ENOSPC, 1, "segments/"});
      drift(memory, 60);
      EXPECT_FALSE(checkpoint(*store, *writer, "main", 6, memory, &states[5], 5).has_value());
      disk.clear_faults();
      ASSERT_OK(checkpoint(*store, *writer, "main", 7, memory, &states[5], 5));
      states[7] = memory;
      drift(memory, 70);
      ASSERT_OK(writer->begin());
      ASSERT_OK(test::add_image(*store, *writer, "main", 8, memory, &states[7], 7));
      disk.crash(seed);  // power fails
      writer->abandon();
    }
    check_disk(disk, "main", states);
    auto store = open_store(disk, small_segments(100));
    auto writer = open_chain(*store);
    const std::uint64_t next = writer->next_number();
    ASSERT_OK(checkpoint(*store, *writer, "main", next, memory, &states[7], 7));
    states[next] = memory;
    check(*store, "main", states);
  }
}

}  // namespace
}  // namespace varve::storage
