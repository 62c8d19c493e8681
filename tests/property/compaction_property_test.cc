// SPDX-License-Identifier: Apache-2.0
//
// Random histories with branches, of chains that share chunks, on a simulated disk that loses power, fails and runs
// full, while images are made full, dropped, labelled and pinned, and garbage is collected with other things in
// between:
//   - every image that was durable and was not dropped is listed and restores bit for bit, after any number of crashes;
//   - a dropped one never comes back;
//   - verify() finds no damage;
//   - a reader in another process that holds the store reads what it chose;
//   - when all is quiet, collections leave little more than what images need.
// Seeds: tests/support/seeds.h.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "engine/compaction.h"
#include "engine/retention.h"
#include "storage/collect.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/differences.h"
#include "tests/support/random.h"
#include "tests/support/seeds.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve {
namespace {

using storage::ChainWriter;
using storage::ImageSummary;
using storage::Store;
using test::Random;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::SimulatedOperation;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kChains = 2;

std::string chain_name(std::size_t index) { return index == 0 ? "main" : fmt::format("chain-{}", index); }

/// What the test knows of one chain.
struct ChainModel {
  std::map<std::uint64_t, ShadowMemory> durable;                 // reported, not dropped
  std::map<std::uint64_t, std::vector<ShadowMemory>> attempted;  // committed without success: whole, or absent
  std::set<std::uint64_t> dropped;                               // reported
  std::set<std::uint64_t> maybe_dropped;                         // it failed
  std::map<std::uint64_t, std::string> labels;                   // reported; "?": unknown since an error
  std::map<std::uint64_t, bool> pins;                            // likewise, erased since an error
};

/// A process that writes a chain: a store of its own, so that chains don't see each other's memory.
struct Process {
  std::unique_ptr<Store> store;
  std::unique_ptr<ChainWriter> writer;
  std::unique_ptr<storage::Collector> collector;

  Process() = default;
  Process(Process&&) = default;
  Process& operator=(Process&&) = default;
  ~Process() { end(); }
  void end() {
    collector.reset();
    writer.reset();
    store.reset();
  }
};

class Trial {
 public:
  explicit Trial(std::uint64_t seed) : random_(seed), disk_(disk_options()) {}

  void go() {
    const std::uint64_t sessions = 2 + random_.below(4);
    for (std::uint64_t i = 0; i < sessions && !testing::Test::HasFailure(); ++i) {
      session();
      if (random_.coin() || disk_.power_is_off()) disk_.crash(random_.next());
      end_trouble();
      disk_.set_capacity(std::numeric_limits<std::uint64_t>::max());
      check();
    }
    if (testing::Test::HasFailure()) return;
    const auto found = test::look_for_differences(*disk_.open());
    EXPECT_TRUE(found.deep.empty()) << "a base that is a difference itself";
    differences_ = found.chunks;
    check_quiet();
  }
  /// Chunks that were stored as one, before all was collected once more.
  std::uint64_t differences() const { return differences_; }

 private:
  test::SimulatedOptions disk_options() {
    test::SimulatedOptions options;
    options.seed = random_.next();
    options.direct = random_.coin();
    options.queue_depth = 1 + static_cast<unsigned>(random_.below(8));
    return options;
  }

  storage::StoreOptions store_options() {
    storage::StoreOptions options;
    options.compress = random_.coin();
    options.verify_on_dedup = random_.one_in(4);
    options.segment_bytes = kPage * (2 + random_.below(64));
    options.preallocate_bytes = random_.coin() ? 0 : std::uint64_t{1} << 17;
    return options;
  }

  void add_trouble() {
    switch (random_.below(9)) {
      case 0:
      case 1:
      case 2: disk_.cut_power_after(1 + random_.below(400)); break;
      case 3: disk_.add_random_faults(SimulatedOperation::write, 4 + random_.below(40), EIO); break;
      case 4: disk_.add_random_faults(SimulatedOperation::sync, 3 + random_.below(20), EIO); break;
      case 5: disk_.set_capacity(disk_.used_bytes() + kPage * random_.below(60)); break;
      case 6: disk_.add_random_faults(SimulatedOperation::remove, 1 + random_.below(4), EIO); break;
      case 7: disk_.add_random_faults(SimulatedOperation::sync_directory, 2 + random_.below(10), EIO); break;
      default: disk_.add_random_faults(SimulatedOperation::read, 5 + random_.below(100), EIO); reads_fail_ = true;
    }
  }

  void end_trouble() {
    disk_.clear_faults();
    reads_fail_ = false;
  }

  /// Whether a restore may fail now. It may never give other bytes.
  bool restores_may_fail() const { return reads_fail_ || disk_.power_is_off(); }

  void session() {
    if (random_.coin()) add_trouble();
    std::array<Process, kChains> processes;
    const std::uint64_t steps = 4 + random_.below(24);
    for (std::uint64_t step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      const std::size_t index = random_.below(kChains);
      Process& process = processes[index];
      if (process.writer == nullptr && !start(process, index)) continue;
      switch (random_.below(13)) {
        case 0:
          process.collector.reset();
          static_cast<void>(process.writer->close().has_value());
          process.end();
          break;
        case 1: drop_some(process, index); break;
        case 2: drop_by_policy(process, index); break;
        case 3: mark(process, index); break;
        case 4: compact_one(process, index); break;
        case 5:
        case 6:
        case 7: collect(process); break;
        case 8: read_beside(process, index); break;
        case 9:
          // What could not be read when a store was opened stays unknown to it until it is refreshed.
          if (!reads_fail_) end_trouble();
          break;
        default: image(process, index); break;
      }
    }
    for (Process& process : processes) {
      process.collector.reset();
      if (process.writer != nullptr && random_.coin()) static_cast<void>(process.writer->close().has_value());
    }
  }

  bool start(Process& process, std::size_t index) {
    process.end();
    auto store = Store::open(disk_.open(), store_options());
    if (!store) return false;
    process.store = std::move(*store);
    auto writer = process.store->open_chain(chain_name(index));
    if (!writer) return false;
    process.writer = std::move(*writer);
    return true;
  }

  void mutate(ShadowMemory& memory) {
    if (memory.empty()) {
      memory["grid"] = {test::random_bytes(kPage * (1 + random_.below(24)), random_.below(4)), 0, 8};
      memory["small"] = {test::random_bytes(1 + random_.below(100), random_.below(4)),
                         static_cast<std::uint32_t>(random_.below(kPage)), 0};
    }
    for (auto& [name, region] : memory) {
      const std::size_t bytes = region.content.size();
      if (random_.coin()) {  // a few bytes of many pages: differences
        for (std::size_t at = random_.below(kPage); at < bytes; at += 1 + random_.below(kPage))
          region.content[at] = static_cast<std::byte>(random_.below(256));
        continue;
      }
      for (std::uint64_t i = random_.below(5); i > 0; --i) {
        const std::size_t at = random_.below(bytes) / kPage * kPage;
        const std::size_t count = std::min<std::size_t>(bytes - at, kPage * (1 + random_.below(3)));
        // Few different contents: what was garbage comes again, in other images and chains.
        const auto fresh =
            random_.one_in(4) ? std::vector<std::byte>(count) : test::random_bytes(count, random_.below(12));
        std::copy(fresh.begin(), fresh.end(), region.content.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    if (random_.one_in(8)) memory["extra"] = {test::random_bytes(1 + random_.below(3 * kPage), random_.next()), 7, 4};
    if (random_.one_in(8)) memory.erase("extra");
  }

  void image(Process& process, std::size_t index) {
    ChainModel& model = models_[index];
    Store& store = *process.store;
    ChainWriter& writer = *process.writer;
    if (random_.coin()) static_cast<void>(store.refresh().has_value());
    const auto lines = images_of(store, chain_name(index));
    const ImageSummary* parent = lines.empty() ? nullptr : &lines[lines.size() - 1 - random_.below(lines.size()) / 2];
    ShadowMemory before;
    if (parent != nullptr) {
      auto restored = test::restore(store, chain_name(index), parent->number);
      if (!restored) {
        ASSERT_TRUE(restores_may_fail()) << restored.error().message();
        return;
      }
      before = std::move(*restored);
    }
    ShadowMemory memory = before;
    mutate(memory);
    const bool full = parent == nullptr || random_.one_in(6);
    const std::uint64_t number = writer.next_number();
    ASSERT_FALSE(model.durable.contains(number) || model.dropped.contains(number)) << "number used twice";
    if (!writer.begin()) return;
    auto manifest = test::add_image(store, writer, chain_name(index), number, memory, full ? nullptr : &before,
                                    parent == nullptr ? 0 : parent->number);
    // Another process may go on collecting while this image is in the making.
    if (!manifest || random_.one_in(10)) {
      writer.abandon();
      return;
    }
    auto committed = writer.commit(*manifest);
    if (committed) {
      model.durable[number] = memory;
      auto restored = test::restore(store, chain_name(index), number);
      EXPECT_TRUE(restored ? *restored == memory : restores_may_fail())
          << (restored ? "another content" : restored.error().message());
    } else {
      model.attempted[number].push_back(memory);
    }
  }

  void compact_one(Process& process, std::size_t index) {
    const auto lines = images_of(*process.store, chain_name(index));
    if (lines.empty()) return;
    const std::uint64_t number = lines[random_.below(lines.size())].number;
    auto compacted = compact_image(*process.store, *process.writer, {chain_name(index), number});
    if (!compacted) return;
    for (const ImageSummary& line : images_of(*process.store, chain_name(index)))
      if (line.number == number) {
        EXPECT_EQ(line.kind, storage::ImageKind::full);
      }
    auto restored = test::restore(*process.store, chain_name(index), number);
    const auto durable = models_[index].durable.find(number);  // else: of an image whose commit failed
    EXPECT_TRUE(restored ? durable == models_[index].durable.end() || *restored == durable->second
                         : restores_may_fail());
  }

  void apply(Process& process, std::size_t index, const RetentionPlan& plan) {
    ChainModel& model = models_[index];
    const bool done = apply_retention(*process.store, *process.writer, chain_name(index), plan).has_value();
    for (const std::uint64_t number : plan.drop) {
      if (done) model.durable.erase(number);
      (done ? model.dropped : model.maybe_dropped).insert(number);
    }
  }

  void drop_some(Process& process, std::size_t index) {
    const auto lines = images_of(*process.store, chain_name(index));
    std::set<std::uint64_t> drop;
    for (const ImageSummary& line : lines)
      if (random_.one_in(3)) drop.insert(line.number);
    if (drop.size() < lines.size()) apply(process, index, plan_removal(lines, drop, kPage));
  }

  void drop_by_policy(Process& process, std::size_t index) {
    const auto lines = images_of(*process.store, chain_name(index));
    const RetentionPolicy policy{1 + static_cast<std::uint32_t>(random_.below(4)),
                                 static_cast<std::uint32_t>(random_.below(4))};
    apply(process, index, plan_retention(lines, policy, {}, kPage));
  }

  void mark(Process& process, std::size_t index) {
    const auto lines = images_of(*process.store, chain_name(index));
    if (lines.empty()) return;
    ChainModel& model = models_[index];
    const std::uint64_t number = lines[random_.below(lines.size())].number;
    if (random_.coin()) {
      const std::string label = random_.one_in(3) ? "" : fmt::format("label-{}", random_.below(100));
      model.labels[number] = process.writer->set_label(number, label) ? label : "?";
    } else {
      const bool pinned = random_.coin();
      if (process.writer->pin(number, pinned))
        model.pins[number] = pinned;
      else
        model.pins.erase(number);
    }
  }

  void collect(Process& process) {
    if (process.collector == nullptr) {
      storage::CollectOptions options;
      options.spare = random_.coin() ? 0 : 0.3;
      options.round_bytes = random_.coin() ? kPage : std::uint64_t{1} << 30;
      options.patience_ms = 0;
      process.collector = storage::make_collector(*process.store, *process.writer, options);
    }
    std::uint64_t left = random_.coin() ? 1'000'000 : random_.below(40);
    auto done = process.collector->run([&left] { return left-- == 0; });
    const bool ended = done ? *done : done.error().code() != ErrorCode::busy;
    if (ended) process.collector.reset();
  }

  /// Another process chooses an image, and reads it later.
  void read_beside(Process& process, std::size_t index) {
    auto reader = Store::open(disk_.open(), store_options());
    if (!reader) return;
    auto held = (*reader)->hold();
    if (!held || !(*reader)->refresh()) return;
    const auto lines = images_of(**reader, chain_name(index));
    collect(process);
    if (random_.coin()) drop_by_policy(process, index);
    collect(process);
    for (const ImageSummary& line : lines) {
      if (!(*held)) break;
      const auto known = read_models_.find({index, line.number});
      auto restored = test::restore(**reader, line.chain, line.number);
      ASSERT_TRUE(restored.has_value() || restores_may_fail())
          << line.chain << "/" << line.number << ": " << restored.error().message();
      if (restored && known != read_models_.end()) {
        EXPECT_EQ(*restored, known->second);
      }
    }
  }

  void check_chain(Store& store, std::size_t index) {
    ChainModel& model = models_[index];
    std::map<std::uint64_t, ShadowMemory> now;
    for (const ImageSummary& line : images_of(store, chain_name(index))) {
      auto restored = test::restore(store, line.chain, line.number);
      ASSERT_TRUE(restored.has_value()) << line.chain << "/" << line.number << ": " << restored.error().message();
      const auto durable = model.durable.find(line.number);
      if (durable != model.durable.end()) {
        EXPECT_EQ(*restored, durable->second) << line.chain << "/" << line.number;
      } else {
        EXPECT_FALSE(model.dropped.contains(line.number)) << "a dropped image came back";
        const auto& tried = model.attempted[line.number];
        EXPECT_NE(std::ranges::find(tried, *restored), tried.end())
            << line.chain << "/" << line.number << " is no image that was ever taken";
      }
      const auto label = model.labels.find(line.number);
      if (label != model.labels.end() && label->second != "?") {
        EXPECT_EQ(line.label, label->second);
      }
      const auto pin = model.pins.find(line.number);
      if (pin != model.pins.end()) {
        EXPECT_EQ(line.pinned, pin->second);
      }
      read_models_[{index, line.number}] = *restored;
      now[line.number] = std::move(*restored);
    }
    for (const auto& [number, memory] : model.durable)
      EXPECT_TRUE(now.contains(number) || model.maybe_dropped.contains(number))
          << "image " << number << " was durable and is gone";
    // What is there now was found whole: from here on it stays. What is not there never comes.
    for (const std::uint64_t number : model.maybe_dropped)
      if (!now.contains(number)) model.dropped.insert(number);
    model.durable = std::move(now);
    model.attempted.clear();
    model.maybe_dropped.clear();
  }

  void check() {
    if (testing::Test::HasFailure()) return;
    auto io = disk_.open();
    auto report = storage::verify(*io, {});
    auto store = Store::open(std::move(io), {});
    ASSERT_TRUE(store.has_value()) << store.error().message();
    EXPECT_TRUE((*store)->damage().empty()) << (*store)->damage().front();
    for (std::size_t index = 0; index < kChains; ++index) check_chain(**store, index);
    if (!report) {
      ASSERT_EQ(report.error().code(), ErrorCode::not_found) << report.error().message();
      return;
    }
    EXPECT_NE(report->status, storage::VerifyStatus::damage)
        << report->findings.front().file << " " << report->findings.front().offset << " "
        << report->findings.front().what;
    EXPECT_EQ(report->good.size(), (*store)->images().size());
  }

  /// What the images of the store take in a new one: their chunks once, and their manifests.
  std::uint64_t needed_bytes(Store& store) {
    std::set<std::pair<std::uint64_t, std::uint64_t>> names;
    std::uint64_t bytes = 0;
    for (const ImageSummary& line : store.images()) {
      auto manifest = store.read_manifest(line.chain, line.number);
      EXPECT_TRUE(manifest.has_value());
      if (!manifest) continue;
      bytes += 2 * kPage;
      for (const auto& region : manifest->regions)
        for (const auto& name : region.names) names.emplace(name.low, name.high);
    }
    return bytes + names.size() * (kPage + 64);
  }

  void check_quiet() {
    for (int round = 0; round < 3; ++round)
      for (std::size_t index = 0; index < kChains; ++index) {
        Process process;
        ASSERT_TRUE(start(process, index));
        storage::CollectOptions options;
        options.spare = 0;
        auto collector = storage::make_collector(*process.store, *process.writer, options);
        auto done = collector->run({});
        ASSERT_TRUE(done.has_value()) << done.error().message();
        EXPECT_TRUE(*done);
        process.collector.reset();
        collector.reset();
        ASSERT_TRUE(process.writer->close().has_value());
      }
    check();
    auto store = Store::open(disk_.open(), {});
    ASSERT_TRUE(store.has_value());
    // A tenth stays where a segment is dense, and each chain's segments have a frame of some pages.
    EXPECT_LE(disk_.used_bytes(), needed_bytes(**store) * 5 / 4 + 32 * kPage);
  }

  Random random_;
  SimulatedDisk disk_;
  bool reads_fail_ = false;
  std::uint64_t differences_ = 0;
  std::array<ChainModel, kChains> models_;
  std::map<std::pair<std::size_t, std::uint64_t>, ShadowMemory> read_models_;
};

TEST(CompactionProperty, WhatIsKeptStaysWhateverHappens) {
  const test::Seeds seeds = test::wanted_seeds(2000);
  std::uint64_t differences = 0;
  test::for_each_seed(seeds, [&](std::uint64_t seed) {
    Trial trial(seed);
    trial.go();
    differences += trial.differences();
  });
  if (seeds.count >= 100) {
    EXPECT_GT(differences, seeds.count) << "the workload is to make some";
  }
}

}  // namespace
}  // namespace varve
