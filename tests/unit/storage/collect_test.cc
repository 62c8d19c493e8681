// SPDX-License-Identifier: Apache-2.0
//
// Garbage collection over a simulated disk: what is needed stays, the rest goes, readers and writers are not disturbed.
#include "storage/collect.h"

#include <cerrno>
#include <functional>
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/forwarding_io.h"
#include "storage/inventory.h"
#include "storage/store_file.h"
#include "storage/verify.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::checkpoint;
using test::collect;
using test::impatient;
using test::kPage;
using test::open_chain;
using test::open_store;
using test::random_bytes;
using test::restore;
using test::retire;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::States;

constexpr std::size_t kPages = 64;

StoreOptions small_segments(std::uint64_t pages = 48) {
  StoreOptions options;
  options.segment_bytes = pages * kPage;
  options.compress = false;
  options.preallocate_bytes = 0;
  return options;
}

/// Image `number` of a chain, full, with some pages that no other image has, and others that all have.
void add_image(Store& store, ChainWriter& writer, const std::string& chain, std::uint64_t number, States& states) {
  ShadowMemory memory;
  memory["grid"] = {random_bytes(kPages * kPage, 77), 0, 8};
  for (std::size_t page = 0; page < 16; ++page) {
    const auto fresh = random_bytes(kPage, number * 1000 + page);
    const std::size_t at = (number * 7 + page * 3) % kPages;
    std::copy(fresh.begin(), fresh.end(), memory["grid"].content.begin() + static_cast<std::ptrdiff_t>(at * kPage));
  }
  memory["step"] = {random_bytes(8, number), 24, 8};
  ASSERT_OK(checkpoint(store, writer, chain, number, memory, nullptr, number - 1));
  states[number] = std::move(memory);
}

void check(Store& store, const std::string& chain, const States& states) {
  std::size_t listed = 0;
  for (const ImageSummary& image : store.images()) listed += image.chain == chain ? 1 : 0;
  EXPECT_EQ(listed, states.size());
  for (const auto& [number, memory] : states) {
    auto restored = restore(store, chain, number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, memory) << chain << "/" << number;
  }
}

void check_disk(SimulatedDisk& disk, const std::string& chain, const States& states) {
  const auto io = disk.open();
  auto report = verify(*io, {.deep = true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good) << (report->findings.empty() ? "" : report->findings.front().what);
  auto store = open_store(disk);
  EXPECT_TRUE(store->damage().empty()) << store->damage().front();
  check(*store, chain, states);
}

TEST(Collect, GivesBackWhatNoImageNeeds) {
  SimulatedDisk disk;
  States states;
  CollectReport report;
  {
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    for (std::uint64_t number = 1; number <= 20; ++number) add_image(*store, *writer, "main", number, states);
    retire(*writer, 1, 18, states);
    ASSERT_OK(writer->seal());
    const std::uint64_t before = disk.used_bytes();
    collect(*store, *writer, report);
    EXPECT_GT(report.segments_dropped, 0U);
    EXPECT_GT(report.segments_rewritten, 0U);
    const double freed = static_cast<double>(before - disk.used_bytes());
    EXPECT_NEAR(freed, static_cast<double>(report.net_freed()), kPage) << "the inventory is shorter, too";
    EXPECT_GT(report.cost(), 0);
    check(*store, "main", states);
    add_image(*store, *writer, "main", 21, states);
    check(*store, "main", states);
    ASSERT_OK(writer->close());
  }
  // 64 pages that all share (one of the images may lack some of them), 3 times 16 of their own, and what goes with it.
  EXPECT_LT(disk.used_bytes(), (64 + 3 * 16) * kPage * 5 / 4);
  check_disk(disk, "main", states);
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  EXPECT_EQ(writer->next_number(), 22U);
  const std::uint64_t settled = disk.used_bytes();
  collect(*store, *writer, report);
  EXPECT_EQ(report.segments_rewritten, 0U) << "nothing is left to gain";
  EXPECT_EQ(disk.used_bytes(), settled);
}

TEST(Collect, KeepsLabelsPinsAndRetirements) {
  SimulatedDisk disk;
  States states;
  CollectReport report;
  for (int round = 0; round < 4; ++round) {
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    const std::uint64_t first = writer->next_number();
    for (std::uint64_t number = first; number < first + 6; ++number) add_image(*store, *writer, "main", number, states);
    if (round == 0) {
      ASSERT_OK(writer->set_label(2, "second"));
      ASSERT_OK(writer->set_label(2, "the-second"));
      ASSERT_OK(writer->pin(2, true));
      ASSERT_OK(writer->pin(3, true));
      ASSERT_OK(writer->pin(3, false));
      retire(*writer, 1, 1, states);
    }
    const std::uint64_t from = round == 0 ? 3 : first - 1;
    retire(*writer, from, first + 4, states);
    collect(*store, *writer, report, impatient(0));
    check(*store, "main", states);
    ASSERT_OK(writer->close());
    auto again = open_store(disk);
    const auto images = again->images();
    ASSERT_EQ(images.size(), 2U);
    EXPECT_EQ(images[0].number, 2U);
    EXPECT_EQ(images[0].label, "the-second");
    EXPECT_TRUE(images[0].pinned);
    check_disk(disk, "main", states);
  }
  // Notes about what is gone went, too.
  auto store = open_store(disk);
  EXPECT_LE(store->statistics().segments, 3U);
}

TEST(Collect, KeepsWhatOtherChainsNeed) {
  SimulatedDisk disk;
  States first_states;
  States second_states;
  CollectReport report;
  auto store = open_store(disk, small_segments());
  auto first = open_chain(*store, "first");
  for (std::uint64_t number = 1; number <= 6; ++number) add_image(*store, *first, "first", number, first_states);
  ASSERT_OK(first->seal());
  auto second = open_chain(*store, "second");
  for (std::uint64_t number = 1; number <= 6; ++number) add_image(*store, *second, "second", number, second_states);
  EXPECT_LT(disk.used_bytes(), (64 + 7 * 17 + 40) * kPage) << "the chains share";
  retire(*first, 1, 6, first_states);
  retire(*second, 1, 4, second_states);
  collect(*store, *first, report);
  EXPECT_GT(report.bytes_freed, 0U);
  check(*store, "second", second_states);
  ASSERT_OK(first->close());
  collect(*store, *second, report);
  check(*store, "second", second_states);
  ASSERT_OK(second->close());
  check_disk(disk, "second", second_states);
}

TEST(Collect, WaitsForReadersAndNeverTakesAFileFromUnderThem) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 10; ++number) add_image(*store, *writer, "main", number, states);
  ASSERT_OK(writer->seal());
  auto reader = open_store(disk);  // another process
  auto held = reader->hold();
  ASSERT_OK(held);
  const ShadowMemory tenth = states[10];
  const ShadowMemory second = states[2];
  retire(*writer, 1, 9, states);
  const auto collector = make_collector(*store, *writer, impatient());
  auto refused = collector->run({});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::busy);
  for (const std::uint64_t number : {2U, 10U}) {
    auto restored = restore(*reader, "main", number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, number == 2 ? second : tenth);
  }
  held = std::shared_ptr<Lock>();
  auto done = collector->run({});
  ASSERT_OK(done);
  EXPECT_TRUE(*done);
  EXPECT_GT(collector->report().bytes_freed, 0U);
  // It finds everything at its new place, and no more what was retired.
  auto restored = restore(*reader, "main", 10);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, tenth);
  EXPECT_EQ(restore(*reader, "main", 2).error().code(), ErrorCode::not_found);
  check(*store, "main", states);
}

TEST(Collect, LeavesWhatAnImageWrittenMeanwhileNeeds) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 10; ++number) add_image(*store, *writer, "main", number, states);
  const ShadowMemory third = states[3];
  retire(*writer, 1, 9, states);
  auto other_store = open_store(disk, small_segments());  // another process
  auto other = open_chain(*other_store, "other");
  const auto collector = make_collector(*store, *writer, impatient());
  // Marked and copied, and then another chain takes over what was garbage.
  int steps = 0;
  bool paused = false;
  while (!paused) {
    auto done = collector->run([&] { return ++steps % 4 == 0; });
    ASSERT_OK(done);
    ASSERT_FALSE(*done);
    paused = steps >= 8;
  }
  ASSERT_OK(other_store->refresh());
  auto committed = checkpoint(*other_store, *other, "other", 1, third, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 0U) << "it named the garbage of the first chain";
  auto done = collector->run({});
  ASSERT_OK(done);
  EXPECT_FALSE(collector->report().left_alone.empty());
  for (Store* one : {store.get(), other_store.get()}) {
    ASSERT_OK(one->refresh());
    auto restored = restore(*one, "other", 1);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, third);
  }
  check(*store, "main", states);
}

TEST(Collect, AnImageOfAnotherChainInTheMakingKeepsItsChunks) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 10; ++number) add_image(*store, *writer, "main", number, states);
  const ShadowMemory third = states[3];
  ASSERT_OK(writer->seal());
  retire(*writer, 1, 9, states);
  auto other_store = open_store(disk, small_segments());
  auto other = open_chain(*other_store, "other");
  ASSERT_OK(other->begin());
  auto manifest = test::add_image(*other_store, *other, "other", 1, third, nullptr, 0);
  ASSERT_OK(manifest);
  const auto collector = make_collector(*store, *writer, impatient());
  EXPECT_EQ(collector->run({}).error().code(), ErrorCode::busy);
  ASSERT_OK(other->commit(*manifest));
  ASSERT_OK(collector->run({}));
  ASSERT_OK(store->refresh());
  auto restored = restore(*store, "other", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, third);
  check(*store, "main", states);
}

TEST(Collect, DoesNotRelyOnWhatAnotherWriterCouldNotFlush) {
  bool seen = false;
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    SimulatedDisk disk(test::SimulatedOptions{.seed = seed});
    States states;
    auto store = open_store(disk, small_segments(1024));
    auto writer = open_chain(*store);
    auto other_store = open_store(disk, small_segments());
    auto other = open_chain(*other_store, "other");
    for (std::uint64_t number = 1; number <= 8; ++number) add_image(*store, *writer, "main", number, states);
    // Another process writes the same chunks. Its flush fails, its disk, too: the bytes are in the page cache only.
    const ShadowMemory eighth = states[8];
    disk.add_fault({test::SimulatedOperation::sync, 2, EIO, 1, "segments/"});  // the first one makes the segment
    disk.add_fault({test::SimulatedOperation::truncate, 1, EIO, 1, "segments/"});
    EXPECT_FALSE(checkpoint(*other_store, *other, "other", 1, eighth, nullptr, 0).has_value());
    disk.clear_faults();
    retire(*writer, 1, 7, states);
    CollectReport report;
    collect(*store, *writer, report, impatient(0));
    for (const ImageSummary& image : store->images()) seen = seen || image.chain == "other";
    EXPECT_GT(report.segments_rewritten, 0U);
    disk.crash(seed);
    auto after = open_store(disk);
    check(*after, "main", states);
  }
  EXPECT_TRUE(seen) << "no seed lets others see what was not flushed";
}

TEST(Collect, RefusesAStoreInWhichSomethingIsMissing) {
  SimulatedDisk disk;
  States states;
  {
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    for (std::uint64_t number = 1; number <= 10; ++number) add_image(*store, *writer, "main", number, states);
    retire(*writer, 1, 8, states);
    ASSERT_OK(writer->close());
  }
  const auto lines = open_store(disk)->images();
  disk.remove(lines.front().segment);
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  const auto files = disk.files();
  const auto refused = make_collector(*store, *writer, impatient())->run({});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::corruption);
  EXPECT_EQ(disk.files(), files) << "nothing was removed";
}

TEST(Collect, LeavesADamagedSegmentAloneAndCollectsTheOthers) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 10; ++number) add_image(*store, *writer, "main", number, states);
  retire(*writer, 1, 9, states);
  ASSERT_OK(writer->seal());
  const auto names = list_segments(store->io());
  ASSERT_OK(names);
  // The first segment has the pages that all images share: it is alive in part. Its frames are found wrong when read.
  std::string victim = to_string(names->front());
  disk.flip_bit(victim, 2 * kPage + 100, 3);
  CollectReport report;
  collect(*store, *writer, report, impatient(0));
  ASSERT_EQ(report.left_alone.size(), 1U);
  EXPECT_NE(report.left_alone[0].find(victim), std::string::npos) << report.left_alone[0];
  EXPECT_TRUE(disk.exists(victim)) << "what is damaged is evidence";
  EXPECT_GT(report.segments_rewritten + report.segments_dropped, 0U);
}

TEST(Collect, StopsAndGoesOnWhereItWas) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 20; ++number) add_image(*store, *writer, "main", number, states);
  retire(*writer, 1, 17, states);
  const auto collector = make_collector(*store, *writer, impatient());
  int pauses = 0;
  for (bool done = false; !done;) {
    int steps = 0;
    auto gone_on = collector->run([&] { return ++steps > 2; });
    ASSERT_OK(gone_on);
    done = *gone_on;
    if (done) break;
    ++pauses;
    if (pauses <= 4) add_image(*store, *writer, "main", 20 + static_cast<std::uint64_t>(pauses), states);
    check(*store, "main", states);
  }
  EXPECT_GT(pauses, 4);
  EXPECT_GT(collector->report().bytes_freed, 0U);
  ASSERT_OK(writer->close());
  check_disk(disk, "main", states);
}

TEST(Collect, WhatOneThatWasGivenUpHadCopiedIsTakenByTheNext) {
  for (int steps = 1; steps <= 12; ++steps) {
    SimulatedDisk disk;
    States states;
    StoreOptions options = small_segments();
    options.preallocate_bytes = 256 * kPage;
    auto store = open_store(disk, options);
    auto writer = open_chain(*store);
    for (std::uint64_t number = 1; number <= 12; ++number) add_image(*store, *writer, "main", number, states);
    retire(*writer, 1, 10, states);
    {
      const auto collector = make_collector(*store, *writer, impatient());
      int step = 0;
      ASSERT_OK(collector->run([&] { return ++step > steps; }));
    }
    CollectReport report;
    collect(*store, *writer, report);
    check(*store, "main", states);
    EXPECT_LT(disk.used_bytes(), (64 + 2 * 16) * kPage * 4 / 3) << "given up after " << steps << " steps";
    ASSERT_OK(writer->close());
    check_disk(disk, "main", states);
  }
}

TEST(Collect, AFullDiskEndsItWithoutHarm) {
  for (std::uint64_t room : {0U, 1U, 3U, 8U, 20U}) {
    SimulatedDisk disk;
    States states;
    auto store = open_store(disk, small_segments());
    auto writer = open_chain(*store);
    for (std::uint64_t number = 1; number <= 12; ++number) add_image(*store, *writer, "main", number, states);
    retire(*writer, 1, 10, states);
    ASSERT_OK(writer->seal());
    disk.set_capacity(disk.used_bytes() + room * kPage);
    static_cast<void>(make_collector(*store, *writer, impatient())->run({}).has_value());
    check(*store, "main", states);
    disk.set_capacity(std::numeric_limits<std::uint64_t>::max());
    CollectReport report;
    collect(*store, *writer, report);
    check(*store, "main", states);
    ASSERT_OK(writer->close());
    check_disk(disk, "main", states);
    EXPECT_LT(disk.used_bytes(), (64 + 2 * 16) * kPage * 4 / 3) << room;
  }
}

TEST(Collect, EstimatesWithoutWriting) {
  SimulatedDisk disk;
  States states;
  auto store = open_store(disk, small_segments());
  auto writer = open_chain(*store);
  for (std::uint64_t number = 1; number <= 20; ++number) add_image(*store, *writer, "main", number, states);
  Assumption assumption{.chain = "main"};
  for (std::uint64_t number = 1; number <= 17; ++number) assumption.retired.insert(number);
  const auto before = disk.operations(test::SimulatedOperation::write);
  auto estimate = estimate_collection(*store, "main", impatient(), assumption);
  ASSERT_OK(estimate);
  EXPECT_EQ(disk.operations(test::SimulatedOperation::write), before);
  retire(*writer, 1, 17, states);
  CollectReport report;
  collect(*store, *writer, report);
  const double ratio = static_cast<double>(estimate->planned_bytes) / static_cast<double>(report.net_freed());
  EXPECT_GT(ratio, 0.8);
  EXPECT_LT(ratio, 1.25);
}

TEST(Collect, AReaderThatComesAndGoesDoesNotKeepItOut) {
  SimulatedDisk disk;
  const auto io = disk.open();
  const auto reader = disk.open();
  auto shared = lock_store_shared(*reader);
  ASSERT_OK(shared);
  auto refused = lock_store_exclusive(*io, 1);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::busy);
  // While a collector waits the gate is closed, so that the next reader comes after it.
  auto gate = io->lock(kLockGate, true);
  ASSERT_OK(gate);
  EXPECT_EQ(reader->lock(kLockGate, false).error().code(), ErrorCode::busy);
  gate->reset();
  shared->reset();
  EXPECT_TRUE(lock_store_exclusive(*io, 1).has_value());
}

/// Calls back when a segment has just got its name.
class AnnouncingIo final : public ForwardingIo {
 public:
  AnnouncingIo(std::unique_ptr<Io> inner, std::function<void()> named)
      : ForwardingIo(*inner), inner_(std::move(inner)), named_(std::move(named)) {}
  Status rename(std::string_view from, std::string_view to) override {
    VARVE_TRY(ForwardingIo::rename(from, to));
    if (to.ends_with(".seg")) named_();
    return {};
  }

 private:
  const std::unique_ptr<Io> inner_;
  const std::function<void()> named_;
};

// Another thread may list images at the very moment in which a segment of ours appears.
TEST(Collect, ASegmentThatARefreshSawBeforeItsWriterKnewItIsRemovedOnce) {
  SimulatedDisk disk;
  std::unique_ptr<Store> store;
  std::size_t refreshed = 0;
  auto opened = Store::open(std::make_unique<AnnouncingIo>(disk.open(),
                                                           [&] {
                                                             ASSERT_OK(store->refresh());
                                                             ++refreshed;
                                                           }),
                            small_segments());
  ASSERT_OK(opened);
  store = std::move(*opened);
  auto writer = open_chain(*store);
  States states;
  for (std::uint64_t number = 1; number <= 6; ++number) add_image(*store, *writer, "main", number, states);
  ASSERT_OK(store->refresh());
  EXPECT_GE(refreshed, 3U);
  EXPECT_EQ(store->statistics().indexed_chunks, open_store(disk)->statistics().indexed_chunks) << "known twice";
  retire(*writer, 1, 5, states);
  CollectReport report;
  collect(*store, *writer, report);
  EXPECT_GE(report.segments_dropped + report.segments_rewritten, 2U);
  check(*store, "main", states);
  ASSERT_OK(writer->close());
}

}  // namespace
}  // namespace varve::storage
