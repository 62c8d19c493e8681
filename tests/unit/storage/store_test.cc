// SPDX-License-Identifier: Apache-2.0
//
// The store over a simulated disk: what is written is read back, one flush an image, chunks are stored once.
#include "storage/store.h"

#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "storage/inventory.h"
#include "storage/segment_load.h"
#include "storage/store_file.h"
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

TEST(Store, RestoresFullAndDeltaImagesAfterReopening) {
  SimulatedDisk disk;
  std::vector<ShadowMemory> states;
  {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    ShadowMemory memory = some_memory(1);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
    states.push_back(memory);
    for (std::uint64_t number = 2; number <= 5; ++number) {
      memory["grid"].content[number * kPage] ^= std::byte{1};
      ASSERT_OK(checkpoint(*store, *writer, "main", number, memory, &states.back(), number - 1));
      states.push_back(memory);
    }
    for (std::uint64_t number = 1; number <= 5; ++number) {
      auto restored = restore(*store, "main", number);
      ASSERT_OK(restored);
      EXPECT_EQ(*restored, states[number - 1]) << number;
    }
    ASSERT_OK(writer->close());
  }
  auto store = open_store(disk);
  EXPECT_TRUE(store->damage().empty());
  EXPECT_EQ(store->images().size(), 5U);
  for (std::uint64_t number = 1; number <= 5; ++number) {
    auto restored = restore(*store, "main", number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, states[number - 1]) << number;
  }
}

// What stays raw is gathered where it is written from: frames that end early, chunks that come again, images that are
// dropped, and more than a buffer.
TEST(Store, RawFramesOfAnyShapeComeBack) {
  for (const std::uint32_t chunk_bytes : {std::uint32_t{4096}, std::uint32_t{65536}}) {
    SCOPED_TRACE(chunk_bytes);
    SimulatedDisk disk;
    StoreOptions options;
    options.compress = false;
    options.chunk_bytes = chunk_bytes;
    std::vector<ShadowMemory> states(2);
    {
      auto store = open_store(disk, options);
      auto writer = open_chain(*store);
      for (std::size_t i = 0; i < 40; ++i)  // an element size and a short last chunk each
        states[0]["small" + std::to_string(i)] = {random_bytes(100 + i * 997, i + 1), 0, i % 3 == 0 ? 8U : 4U};
      states[0]["large"] = {random_bytes(5'000'000, 99), 0, 8};
      std::copy_n(states[0]["large"].content.begin(), 3 * chunk_bytes, states[0]["large"].content.begin() + 200'704);
      ASSERT_OK(checkpoint(*store, *writer, "main", 1, states[0], nullptr, 0));

      const auto dropped = random_bytes(chunk_bytes, 1000);
      for (const std::size_t chunks : {std::size_t{1}, std::size_t{3}}) {
        ASSERT_OK(writer->begin());
        for (std::size_t i = 0; i < chunks; ++i) {
          const auto part = std::span(dropped).first(chunk_bytes - i);
          ASSERT_OK(writer->add(store->name_of(part), part, 8, {}));
        }
        writer->abandon();
      }
      states[1] = states[0];
      states[1]["large"].content[1'000'000] ^= std::byte{1};
      states[1]["small7"].content[0] ^= std::byte{1};
      ASSERT_OK(checkpoint(*store, *writer, "main", 2, states[1], &states[0], 1));
      ASSERT_OK(writer->close());
    }
    auto store = open_store(disk);
    for (std::uint64_t number = 1; number <= 2; ++number) {
      auto restored = restore(*store, "main", number);
      ASSERT_OK(restored);
      EXPECT_EQ(*restored, states[number - 1]) << "image " << number;
    }
    auto report = verify(store->io(), {true});
    ASSERT_OK(report);
    EXPECT_EQ(report->status, VerifyStatus::good);
  }
}

// Raw frames do not go through the threads that compress: they keep their order behind those that do, and chunks that
// are on their way there are found.
TEST(Store, RawFramesKeepTheirOrderBehindThoseThatThreadsCompress) {
  SimulatedDisk disk;
  StoreOptions options;
  options.threads = 3;
  ShadowMemory memory;
  std::size_t distinct = 0;
  for (std::size_t i = 0; i < 24; ++i) {
    const bool raw = i % 3 == 2;  // two that are compressed, one that is not: of other elements, known apart
    std::vector<std::byte> content = random_bytes(300'000 + i * 4096, i + 1);
    if (!raw)
      for (std::size_t at = 0; at < content.size(); ++at) content[at] &= std::byte{1};
    distinct += (content.size() + kPage - 1) / kPage;
    const std::string name{static_cast<char>('a' + i)};
    if (i != 0) {  // one that is new again, right behind itself
      const auto& before = memory[std::string(1, static_cast<char>('a' + i - 1))].content;
      std::copy_n(before.end() - static_cast<std::ptrdiff_t>(before.size() % kPage + kPage), kPage, content.begin());
      --distinct;
    }
    memory[name] = {std::move(content), 0, raw ? 4U : 8U};
  }
  {
    auto store = open_store(disk, options);
    auto writer = open_chain(*store);
    const auto committed = checkpoint(*store, *writer, "main", 1, memory, nullptr, 0);
    ASSERT_OK(committed);
    EXPECT_EQ(committed->new_chunks, distinct);
    ASSERT_OK(writer->close());
  }
  auto store = open_store(disk);
  auto restored = restore(*store, "main", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
  std::vector<ChunkName> added;
  for (const auto& [name, region] : memory)
    for (std::span<const std::byte> rest = region.content; !rest.empty();) {
      const auto chunk = rest.first(std::min(kPage, rest.size()));
      if (const auto known = store->name_of(chunk); std::ranges::find(added, known) == added.end())
        added.push_back(known);
      rest = rest.subspan(chunk.size());
    }
  const auto identity = read_store_file(store->io()).value();
  const auto segments = load_segments(store->io(), identity, nullptr, list_segments(store->io()).value()).value();
  ASSERT_EQ(segments.size(), 1U);
  EXPECT_EQ(segments.front().content.names, added) << "not in the order in which they came";
  auto report = verify(store->io(), {true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::good);
}

TEST(Store, OneImageIsOneFlush) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory memory = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
  const auto before = disk.operations(SimulatedOperation::sync);
  const auto writes = disk.operations(SimulatedOperation::write);
  ShadowMemory changed = memory;
  const auto fresh = random_bytes(kPage, 5);
  std::copy(fresh.begin(), fresh.end(), changed["grid"].content.begin());
  auto committed = checkpoint(*store, *writer, "main", 2, changed, &memory, 1);
  ASSERT_OK(committed);
  EXPECT_EQ(disk.operations(SimulatedOperation::sync), before + 1);
  EXPECT_EQ(disk.operations(SimulatedOperation::write), writes + 1);
  EXPECT_EQ(committed->written_bytes, 2 * kPage);
  EXPECT_EQ(committed->new_chunks, 1U);
  EXPECT_TRUE(committed->durable);
}

TEST(Store, StoresAChunkOnceWithinAndAcrossImagesAndChains) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory memory;
  memory["a"] = {random_bytes(16 * kPage, 1), 0, 0};
  memory["b"] = memory["a"];
  auto committed = checkpoint(*store, *writer, "main", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 16U);
  EXPECT_EQ(committed->reused_chunks, 16U);
  committed = checkpoint(*store, *writer, "main", 2, memory, nullptr, 1);  // full again
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 0U);
  ASSERT_OK(writer->close());
  auto other = open_chain(*store, "other");
  committed = checkpoint(*store, *other, "other", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 0U);
  auto restored = restore(*store, "other", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
}

TEST(Store, StoresAChunkOnceThatWasLookedUpBeforeItWasStored) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory memory;
  const auto once = random_bytes(ChainWriter::kLookUpMost / 2 * kPage, 1);
  std::vector<std::byte>& twice = memory["twice"].content;  // the second half is looked up with the first
  twice.insert(twice.end(), once.begin(), once.end());
  twice.insert(twice.end(), once.begin(), once.end());
  const auto committed = checkpoint(*store, *writer, "main", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, ChainWriter::kLookUpMost / 2);
  EXPECT_EQ(committed->reused_chunks, ChainWriter::kLookUpMost / 2);
  auto restored = restore(*store, "main", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
}

TEST(Store, TheIndexGrowsAtOnceForWhatIsNewAndNotForWhatIsThere) {
  constexpr std::uint64_t kChunks = 4096;
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const auto add = [&](std::uint64_t number, std::uint64_t seed) {
    const auto content = random_bytes(kChunks * kPage, seed);
    ASSERT_OK(writer->begin());
    writer->expect(kChunks);
    std::uint64_t grown = 0;
    std::uint64_t before = store->statistics().index_bytes;
    for (std::uint64_t i = 0; i < kChunks; ++i) {
      const auto chunk = std::span(content).subspan(i * kPage, kPage);
      ASSERT_OK(writer->add(store->name_of(chunk), chunk, 0, {}));
      const std::uint64_t now = store->statistics().index_bytes;
      if (now != before && i > kChunks / 8) ++grown;  // by then it is known whether they are new
      before = now;
    }
    EXPECT_EQ(grown, 0U) << number;
    Manifest manifest;
    manifest.chain = "main";
    manifest.number = number;
    manifest.architecture = "x86_64";
    manifest.page_bytes = manifest.chunk_bytes = kPage;
    ASSERT_OK(writer->commit(manifest));
  };
  add(1, 1);
  const std::uint64_t filled = store->statistics().index_bytes;
  EXPECT_LE(filled, 40 * kChunks);
  add(2, 1);
  EXPECT_EQ(store->statistics().index_bytes, filled);  // nothing was new
}

TEST(Store, ContentOfAnotherNameIsNeverGivenOut) {
  // As a writer with a bug in its hash would store it: all checksums of the records are right.
  SimulatedDisk elsewhere({.seed = 2});
  auto namer = open_store(elsewhere);  // has another secret
  SimulatedDisk disk;
  StoreOptions options;
  options.verify_on_dedup = true;  // names that come with other content are expected
  auto store = open_store(disk, options);
  auto writer = open_chain(*store);
  ASSERT_OK(checkpoint(*namer, *writer, "main", 1, some_memory(1), nullptr, 0));
  ASSERT_OK(writer->close());
  const auto restored = restore(*store, "main", 1);
  ASSERT_FALSE(restored.has_value());
  EXPECT_EQ(restored.error().code(), ErrorCode::corruption);
  const auto io = disk.open();
  const auto report = verify(*io, {.deep = true});
  ASSERT_OK(report);
  EXPECT_EQ(report->status, VerifyStatus::damage);
}

TEST(Store, ZerosCostNothingButTheManifest) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory memory;
  memory["zeros"] = {std::vector<std::byte>(1000 * kPage), 0, 0};
  auto committed = checkpoint(*store, *writer, "main", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 0U);
  EXPECT_EQ(committed->written_bytes, kPage);
}

TEST(Store, NamesNoChunkThatAnotherProcessHasNotSealed) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const ShadowMemory memory = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
  auto other_store = open_store(disk);  // another process: sees the open segment, and may read it
  auto restored = restore(*other_store, "main", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
  auto other = open_chain(*other_store, "other");
  auto committed = checkpoint(*other_store, *other, "other", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->reused_chunks, 0U);
  ASSERT_OK(writer->close());
  ASSERT_OK(other_store->refresh());
  committed = checkpoint(*other_store, *other, "other", 2, some_memory(1), nullptr, 1);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 0U);
}

TEST(Store, AChunkOfAnUncommittedImageOfThisProcessIsNotNamedByAnotherChain) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto first = open_chain(*store, "first");
  auto second = open_chain(*store, "second");
  ShadowMemory memory;
  memory["a"] = {random_bytes(32 * kPage, 1), 0, 0};
  ASSERT_OK(first->begin());
  auto manifest = test::add_image(*store, *first, "first", 1, memory, nullptr, 0);
  ASSERT_OK(manifest);
  auto committed = checkpoint(*store, *second, "second", 1, memory, nullptr, 0);
  ASSERT_OK(committed);
  EXPECT_EQ(committed->new_chunks, 32U);
  first->abandon();
  auto restored = restore(*store, "second", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
}

TEST(Store, ASecondWriterOfAChainIsToldWhoHasIt) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  auto other_store = open_store(disk);
  for (Store* one : {store.get(), other_store.get()}) {
    auto refused = one->open_chain("main");
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), ErrorCode::busy);
    EXPECT_NE(refused.error().cause().find("being written by pid " + std::to_string(getpid())), std::string::npos);
    EXPECT_NE(refused.error().remedy().find("open another chain"), std::string::npos);
  }
  ASSERT_OK(writer->close());
  EXPECT_TRUE(other_store->open_chain("main").has_value());
}

TEST(Store, SealsFullSegmentsAndRecordsThem) {
  SimulatedDisk disk;
  StoreOptions options;
  options.segment_bytes = 64 * kPage;
  auto store = open_store(disk, options);
  auto writer = open_chain(*store);
  ShadowMemory memory = some_memory(1, 30);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
  for (std::uint64_t number = 2; number <= 10; ++number) {
    memory["grid"] = {random_bytes(30 * kPage, number), 0, 8};
    ASSERT_OK(checkpoint(*store, *writer, "main", number, memory, nullptr, number - 1));
  }
  const auto segments = store->statistics().segments;
  EXPECT_GE(segments, 4U);
  auto identity = read_store_file(store->io());
  ASSERT_OK(identity);
  auto inventory = read_inventory(store->io(), identity->id);
  ASSERT_OK(inventory);
  EXPECT_EQ(inventory->segments.size(), segments - 1) << "all but the open one";
  ASSERT_OK(writer->close());
  auto again = open_store(disk);
  EXPECT_EQ(again->images().size(), 10U);
  auto restored = restore(*again, "main", 10);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, memory);
}

TEST(Store, GivesPreallocatedSpaceBackWhenItIsClosed) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, some_memory(1), nullptr, 0));
  const std::string segment = store->images()[0].segment;
  EXPECT_GE(disk.size_bytes(segment), std::uint64_t{1} << 20);
  ASSERT_OK(writer->close());
  EXPECT_LT(disk.size_bytes(segment), 20 * kPage);
  EXPECT_EQ(disk.size_bytes("lock"), 0U);
}

TEST(Store, RetiredImagesAndTheirNumbersNeverComeBack) {
  SimulatedDisk disk;
  const std::uint64_t gone = 2;
  {
    auto store = open_store(disk);
    auto writer = open_chain(*store);
    const ShadowMemory memory = some_memory(1);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, memory, nullptr, 0));
    ASSERT_OK(checkpoint(*store, *writer, "main", gone, memory, &memory, 1));
    ASSERT_OK(writer->retire(std::span(&gone, 1)));
    EXPECT_EQ(writer->retire(std::span(&gone, 1)).error().code(), ErrorCode::not_found);
    EXPECT_EQ(store->images().size(), 1U);
    ASSERT_OK(writer->set_label(1, "first"));
    ASSERT_OK(writer->pin(1, true));
    ASSERT_OK(writer->close());
  }
  auto store = open_store(disk);
  ASSERT_EQ(store->images().size(), 1U);
  EXPECT_EQ(store->images()[0].label, "first");
  EXPECT_TRUE(store->images()[0].pinned);
  ASSERT_OK(store->newest_image("main"));
  EXPECT_EQ(store->newest_image("main")->number, 1U);
  auto writer = open_chain(*store);
  EXPECT_EQ(writer->next_number(), 3U);
}

TEST(Store, RefusesNumbersThatWereUsedAndChainsOfOthers) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const ShadowMemory memory = some_memory(1);
  ASSERT_OK(checkpoint(*store, *writer, "main", 5, memory, nullptr, 0));
  for (const auto& [chain, number] : {std::pair("main", 5), std::pair("main", 3), std::pair("other", 7)}) {
    auto refused = checkpoint(*store, *writer, chain, static_cast<std::uint64_t>(number), memory, nullptr, 0);
    ASSERT_FALSE(refused.has_value()) << chain << number;
    EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  }
  ASSERT_OK(checkpoint(*store, *writer, "main", 6, memory, &memory, 5));
}

TEST(Store, AHigherRevisionReplacesAnImage) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto writer = open_chain(*store);
  const ShadowMemory first = some_memory(1);
  const ShadowMemory second = some_memory(2);
  ASSERT_OK(checkpoint(*store, *writer, "main", 1, first, nullptr, 0));
  ASSERT_OK(checkpoint(*store, *writer, "main", 2, second, &first, 1));
  ASSERT_OK(writer->begin());
  auto manifest = test::add_image(*store, *writer, "main", 2, second, nullptr, 1);
  ASSERT_OK(manifest);
  manifest->revision = 1;
  ASSERT_OK(writer->commit(*manifest));
  ASSERT_EQ(store->images().size(), 2U);
  EXPECT_EQ(store->images()[1].kind, ImageKind::full);
  ASSERT_OK(writer->close());
  auto again = open_store(disk);
  EXPECT_EQ(again->images()[1].revision, 1U);
  EXPECT_EQ(writer->next_number(), 3U);
}

TEST(Store, SeesWhatOtherWritersCommitted) {
  SimulatedDisk disk;
  auto store = open_store(disk);
  auto reader = open_store(disk);
  auto writer = open_chain(*store);
  ShadowMemory memory = some_memory(1);
  for (std::uint64_t number = 1; number <= 4; ++number) {
    const ShadowMemory before = memory;
    memory["step"].content[0] = static_cast<std::byte>(number);
    ASSERT_OK(checkpoint(*store, *writer, "main", number, memory, number == 1 ? nullptr : &before, number - 1));
    if (number == 4) ASSERT_OK(writer->close());
    ASSERT_OK(reader->refresh());
    EXPECT_EQ(reader->images().size(), number);
    auto restored = restore(*reader, "main", number);
    ASSERT_OK(restored);
    EXPECT_EQ(*restored, memory);
    EXPECT_TRUE(reader->damage().empty());
  }
}

TEST(Store, KeepsItsChunkSize) {
  SimulatedDisk disk;
  StoreOptions options;
  options.chunk_bytes = 65536;
  {
    auto store = open_store(disk, options);
    auto writer = open_chain(*store);
    ASSERT_OK(checkpoint(*store, *writer, "main", 1, some_memory(1, 100), nullptr, 0));
    ASSERT_OK(writer->close());
  }
  options.chunk_bytes = 4096;
  auto store = open_store(disk, options);
  EXPECT_EQ(store->chunk_bytes(), 65536U);
  auto restored = restore(*store, "main", 1);
  ASSERT_OK(restored);
  EXPECT_EQ(*restored, some_memory(1, 100));
}

}  // namespace
}  // namespace varve::storage
