// SPDX-License-Identifier: Apache-2.0
//
// verify() beside writers, at every moment: before each of its operations in turn the writers do something, and nothing
// that they do may look like damage. What is damaged in earnest is found all the same.
#include <algorithm>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "storage/inventory.h"
#include "storage/verify.h"
#include "tests/support/hooked_io.h"
#include "tests/unit/storage/store_fixture.h"

namespace varve::storage {
namespace {

using test::checkpoint;
using test::HookedCall;
using test::HookedIo;
using test::kPage;
using test::random_bytes;
using test::ShadowMemory;
using test::SimulatedDisk;

/// A process that writes one chain. Destroying it without close() is its death.
struct Process {
  Process(SimulatedDisk& disk, const std::string& name) : chain(name) {
    StoreOptions options;
    options.preallocate_bytes = 64 << 10;
    auto opened = Store::open(disk.open(), options);
    EXPECT_TRUE(opened.has_value()) << opened.error().message();
    store = std::move(*opened);
    auto made = store->open_chain(chain);
    EXPECT_TRUE(made.has_value()) << made.error().message();
    writer = std::move(*made);
  }
  /// A full image of pages whose content the seeds say: the same in all chains.
  void write(std::uint64_t first_seed, std::size_t pages) {
    std::vector<std::byte> content;
    for (std::size_t i = 0; i < pages; ++i) {
      const auto page = random_bytes(kPage, first_seed + i);
      content.insert(content.end(), page.begin(), page.end());
    }
    const ShadowMemory memory = {{"grid", {content, 0, 8}}};
    const auto done = checkpoint(*store, *writer, chain, writer->next_number(), memory, nullptr, 0);
    EXPECT_TRUE(done.has_value()) << done.error().message();
  }
  void seal() { EXPECT_TRUE(writer->seal().has_value()); }
  void close() { EXPECT_TRUE(writer->close().has_value()); }

  std::string chain;
  std::unique_ptr<Store> store;
  std::unique_ptr<ChainWriter> writer;
};

/// Two chains: `a` has an open segment, `b` too; a third one was left by a killed process.
struct Scene {
  Scene() {
    {
      Process killed(disk, "c");
      killed.write(300, 3);
    }
    processes["a"] = std::make_unique<Process>(disk, "a");
    processes["a"]->write(100, 4);
    processes["b"] = std::make_unique<Process>(disk, "b");
    processes["b"]->write(200, 4);
  }
  Process& at(const std::string& chain) { return *processes.at(chain); }
  void restart(const std::string& chain) {
    processes[chain].reset();
    processes[chain] = std::make_unique<Process>(disk, chain);
  }
  SimulatedDisk disk;
  std::map<std::string, std::unique_ptr<Process>> processes;
  std::uint64_t round = 0;  ///< of the steps; content of each is new
};

using Step = std::function<void(Scene&)>;

constexpr std::size_t kRounds = 60;

/// Lets the steps happen, again and again, before the operations `first`, `first` + `stride`, ... of one verification.
/// False when it had fewer operations than that.
bool verify_with(const std::vector<Step>& steps, std::size_t first, std::size_t stride, bool deep) {
  Scene scene;
  std::size_t operation = 0;
  std::size_t next = 0;
  bool within = false;
  HookedIo io(scene.disk.open(), [&](const HookedCall&) -> Status {
    if (within) return {};
    within = true;
    for (; next < kRounds * steps.size() && operation >= first + next * stride; ++next) {
      scene.round = next / steps.size();
      steps[next % steps.size()](scene);
    }
    within = false;
    ++operation;
    return {};
  });
  const auto report = verify(io, {.deep = deep});
  EXPECT_TRUE(report.has_value()) << report.error().message();
  if (!report) return false;
  EXPECT_NE(report->status, VerifyStatus::damage);
  for (const VerifyFinding& finding : report->findings)
    ADD_FAILURE() << finding.file << " at " << finding.offset << " " << finding.image << ": " << finding.what;
  EXPECT_TRUE(report->damaged.empty());
  return operation > first;
}

void verify_at_every_moment(const std::vector<Step>& steps) {
  for (const std::size_t stride : {1U, 2U, 3U, 7U})
    for (std::size_t first = 0; first < std::max<std::size_t>(stride * steps.size(), 12); ++first) {
      SCOPED_TRACE("first step before operation " + std::to_string(first) + ", then every " + std::to_string(stride));
      if (!verify_with(steps, first, stride, first % 2 == 0)) break;
      if (testing::Test::HasFailure()) return;
    }
}

TEST(VerifyRace, SegmentsThatGrowAndAreSealed) {
  verify_at_every_moment({[](Scene& scene) { scene.at("a").write(1000 + scene.round * 10, 3); },
                          [](Scene& scene) { scene.at("a").write(2000 + scene.round * 30, 30); },
                          [](Scene& scene) { scene.at("a").seal(); }});
}

TEST(VerifyRace, ImagesThatNameChunksSealedMeanwhile) {
  verify_at_every_moment({[](Scene& scene) { scene.at("a").write(1000 + scene.round * 10, 6); },
                          [](Scene& scene) { scene.at("a").seal(); },
                          [](Scene& scene) { ASSERT_TRUE(scene.at("b").store->refresh().has_value()); },
                          [](Scene& scene) { scene.at("b").write(1003 + scene.round * 10, 4); }});
}

TEST(VerifyRace, ImagesOfOneProcessThatNameChunksOfItsOtherChain) {
  verify_at_every_moment(
      {[](Scene& scene) {
         scene.at("a").write(1000 + scene.round * 10, 6);
         auto& store = *scene.at("a").store;
         auto writer = store.open_chain("d");
         ASSERT_TRUE(writer.has_value());
         const ShadowMemory memory = {{"grid", {random_bytes(kPage, 1000 + scene.round * 10), 0, 8}}};
         const auto number = (*writer)->next_number();
         ASSERT_TRUE(checkpoint(store, **writer, "d", number, memory, nullptr, 0).has_value());
         ASSERT_TRUE((*writer)->close().has_value());
       },
       [](Scene& scene) { scene.at("a").write(5000 + scene.round, 3); }});
}

TEST(VerifyRace, WritersThatAreKilledAndRecovered) {
  std::vector<Step> steps;
  for (const std::string chain : {"c", "a", "b"}) {
    steps.push_back([chain](Scene& scene) { scene.restart(chain); });
    steps.push_back([chain](Scene& scene) { scene.at(chain).write(400 + 2 * scene.round, 4); });
  }
  verify_at_every_moment(steps);
}

TEST(VerifyRace, WhatIsDamagedInEarnestIsFoundBesideWriters) {
  for (std::size_t first = 0; first < 40; ++first) {
    SCOPED_TRACE(first);
    Scene scene;
    scene.at("a").seal();
    for (const std::string& file : scene.disk.files())
      if (file.ends_with(".seg") && scene.disk.size_bytes(file) % (64 << 10) != 0)
        scene.disk.flip_bit(file, 2 * kPage, 1);
    std::size_t operation = 0;
    bool within = false;
    HookedIo io(scene.disk.open(), [&](const HookedCall&) -> Status {
      if (within || operation++ < first) return {};
      within = true;
      if (operation == first + 1) scene.at("b").write(500, 2);
      if (operation == first + 3) scene.at("b").seal();
      within = false;
      return {};
    });
    const auto report = verify(io, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->status, VerifyStatus::damage);
    ASSERT_FALSE(report->damaged.empty());
    EXPECT_EQ(report->damaged[0].chain, "a");
  }
}

}  // namespace
}  // namespace varve::storage
