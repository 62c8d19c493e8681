// SPDX-License-Identifier: Apache-2.0
//
// Random images on a simulated disk that loses power, fails and runs full, against plain copies in memory:
//   - every image that was reported durable is listed and restores bit for bit, after any number of crashes;
//   - every other image is whole, or not listed;
//   - verify() finds no damage: what is torn is an unfinished tail;
//   - after an error the next image is good, and earlier ones are untouched.
// Seeds: tests/support/seeds.h.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "storage/format.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/support/differences.h"
#include "tests/support/random.h"
#include "tests/support/seeds.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve::storage {
namespace {

using test::Random;
using test::ShadowMemory;
using test::SimulatedDisk;
using test::SimulatedOperation;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kChains = 2;

std::string chain_name(std::size_t index) { return index == 0 ? "main" : fmt::format("chain-{}", index); }

/// What the test knows of one chain.
struct ChainModel {
  std::map<std::uint64_t, ShadowMemory> durable;                 // reported, not retired
  std::map<std::uint64_t, std::vector<ShadowMemory>> attempted;  // committed without success: whole, or absent
  std::set<std::uint64_t> retired;                               // reported
  std::set<std::uint64_t> maybe_retired;                         // the note's error was reported
  std::map<std::uint64_t, std::string> labels;                   // reported; "?": unknown since an error
};

class Trial {
 public:
  explicit Trial(std::uint64_t seed) : random_(seed), disk_(disk_options()) {}

  void go() {
    const std::uint64_t sessions = 2 + random_.below(4);
    for (std::uint64_t i = 0; i < sessions && !testing::Test::HasFailure(); ++i) {
      session();
      if (random_.coin()) {
        disk_.crash(random_.next());
      } else if (disk_.power_is_off()) {
        disk_.crash(random_.next());
      }
      disk_.clear_faults();
      reads_fail_ = false;
      disk_.set_capacity(std::numeric_limits<std::uint64_t>::max());
      check();
    }
    if (testing::Test::HasFailure() || !disk_.exists(kStoreFile)) return;
    const auto found = test::look_for_differences(*disk_.open());
    EXPECT_TRUE(found.deep.empty()) << "a base that is a difference itself";
    EXPECT_TRUE(found.lacking.empty()) << "nothing was collected";
    differences_ = found.chunks;
  }

  /// Chunks that were stored as one.
  std::uint64_t differences() const { return differences_; }
  /// What happened, in short.
  std::string trace() const {
    std::string text = fmt::format("{} operations", disk_.operations());
    for (const std::string& file : disk_.files()) text += fmt::format(", {} {}", file, disk_.size_bytes(file));
    return text;
  }

 private:
  test::SimulatedOptions disk_options() {
    test::SimulatedOptions options;
    options.seed = random_.next();
    options.direct = random_.coin();
    options.queue_depth = 1 + static_cast<unsigned>(random_.below(8));
    return options;
  }

  StoreOptions store_options() {
    StoreOptions options;
    options.compress = random_.coin();
    options.verify_on_dedup = random_.one_in(4);
    options.threads = random_.one_in(16) ? 3 : 1;  // threads wait for each other: most of a seed's time
    options.segment_bytes = kPage * (2 + random_.below(64));
    options.preallocate_bytes = random_.coin() ? 0 : std::uint64_t{1} << (17 + random_.below(6));
    return options;
  }

  void add_trouble() {
    const int no_space = random_.coin() ? ENOSPC : EDQUOT;
    switch (random_.below(10)) {
      case 0:
      case 1: disk_.cut_power_after(1 + random_.below(200)); break;
      case 2: disk_.add_random_faults(SimulatedOperation::write, 4 + random_.below(20), EIO); break;
      case 3: disk_.add_random_faults(SimulatedOperation::write, 2 + random_.below(10), no_space); break;
      case 4: disk_.add_random_faults(SimulatedOperation::sync, 3 + random_.below(12), EIO); break;
      case 5: disk_.set_capacity(disk_.used_bytes() + kPage * random_.below(40)); break;
      case 6: disk_.add_fault({SimulatedOperation::rename, 1 + random_.below(4), no_space, 1, ""}); break;
      case 7:
        disk_.add_random_faults(SimulatedOperation::read, 5 + random_.below(60), EIO);
        reads_fail_ = true;
        break;
      case 8: disk_.add_fault({SimulatedOperation::sync_directory, 1 + random_.below(6), EIO, 1, ""}); break;
      default: {
        constexpr SimulatedOperation kRare[] = {SimulatedOperation::open,     SimulatedOperation::truncate,
                                                SimulatedOperation::allocate, SimulatedOperation::list,
                                                SimulatedOperation::remove,   SimulatedOperation::lock};
        const SimulatedOperation operation = kRare[random_.below(std::size(kRare))];
        disk_.add_random_faults(operation, 3 + random_.below(10), EIO);
        // A store is opened and read through them, too.
        if (operation == SimulatedOperation::open || operation == SimulatedOperation::lock) reads_fail_ = true;
      }
    }
  }

  /// Whether a restore may fail now. It may never give other bytes.
  bool restores_may_fail() const { return reads_fail_ || disk_.power_is_off(); }

  void session() {
    if (random_.coin()) add_trouble();
    if (random_.one_in(4)) add_trouble();
    auto opened = Store::open(disk_.open(), store_options());
    if (!opened) return;  // of the trouble; check() opens without any
    std::unique_ptr<Store> store = std::move(*opened);
    std::array<std::unique_ptr<ChainWriter>, kChains> writers;
    const std::uint64_t steps = 1 + random_.below(14);
    for (std::uint64_t step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      const std::size_t index = random_.below(kChains);
      if (writers[index] == nullptr) {
        auto writer = store->open_chain(chain_name(index));
        if (!writer) continue;
        writers[index] = std::move(*writer);
      }
      switch (random_.below(10)) {
        case 0:
          static_cast<void>(writers[index]->close().has_value());
          writers[index].reset();
          break;
        case 1: retire_one(*store, *writers[index], index); break;
        case 2: label_one(*store, *writers[index], index); break;
        case 3: disk_.clear_faults(); break;  // what the store did not see, it goes on not seeing
        default: image(*store, *writers[index], index); break;
      }
    }
    for (auto& writer : writers)
      if (writer != nullptr && random_.coin()) static_cast<void>(writer->close().has_value());
  }

  std::vector<ImageSummary> listed(Store& store, std::size_t index) {
    std::vector<ImageSummary> lines = store.images();
    std::erase_if(lines, [&](const ImageSummary& line) { return line.chain != chain_name(index); });
    return lines;
  }

  void mutate(ShadowMemory& memory) {
    if (memory.empty()) {
      memory["grid"] = {test::random_bytes(kPage * (1 + random_.below(20)), random_.below(4)), 0, 8};
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
        const std::size_t at = random_.below(bytes);
        const std::size_t count = std::min<std::size_t>(bytes - at, 1 + random_.below(3 * kPage));
        // Few different contents: chunks come again in other images and chains.
        const auto fresh =
            random_.one_in(4) ? std::vector<std::byte>(count) : test::random_bytes(count, random_.below(16));
        std::copy(fresh.begin(), fresh.end(), region.content.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    if (random_.one_in(8)) memory["extra"] = {test::random_bytes(1 + random_.below(3 * kPage), random_.next()), 7, 4};
    if (random_.one_in(8)) memory.erase("extra");
  }

  void image(Store& store, ChainWriter& writer, std::size_t index) {
    ChainModel& model = models_[index];
    const auto lines = listed(store, index);
    const ImageSummary* parent = lines.empty() ? nullptr : &lines[random_.below(lines.size())];
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
    const bool hidden = !store.hiding_segment(chain_name(index)).empty();
    const bool full = parent == nullptr || random_.one_in(4) || (hidden && !random_.one_in(8));
    const std::uint64_t number = writer.next_number();
    ASSERT_FALSE(model.durable.contains(number)) << "number used twice";
    ASSERT_FALSE(model.retired.contains(number)) << "number of a retired image used again";
    if (!writer.begin()) return;
    auto manifest = test::add_image(store, writer, chain_name(index), number, memory, full ? nullptr : &before,
                                    parent == nullptr ? 0 : parent->number);
    if (!manifest || random_.one_in(10)) {
      writer.abandon();
      return;
    }
    auto committed = writer.commit(*manifest);
    EXPECT_FALSE(committed && hidden && !full) << "a delta on what may have been retired";
    if (committed) {
      EXPECT_TRUE(committed->durable);
      model.durable[number] = memory;
      auto restored = test::restore(store, chain_name(index), number);
      EXPECT_TRUE(restored ? *restored == memory : restores_may_fail())
          << (restored ? "another content" : restored.error().message());
    } else {
      model.attempted[number].push_back(memory);
    }
  }

  void retire_one(Store& store, ChainWriter& writer, std::size_t index) {
    const auto lines = listed(store, index);
    if (lines.size() < 3) return;
    // A leaf: nothing builds on it.
    std::set<std::uint64_t> parents;
    for (const ImageSummary& line : lines) parents.insert(line.parent);
    for (const ImageSummary& line : lines) {
      if (parents.contains(line.number)) continue;
      const std::uint64_t number = line.number;
      ChainModel& model = models_[index];
      if (writer.retire(std::span(&number, 1))) {
        model.retired.insert(number);
        model.durable.erase(number);
      } else {
        model.maybe_retired.insert(number);
      }
      return;
    }
  }

  void label_one(Store& store, ChainWriter& writer, std::size_t index) {
    const auto lines = listed(store, index);
    if (lines.empty()) return;
    const std::uint64_t number = lines[random_.below(lines.size())].number;
    const std::string label = fmt::format("label-{}", random_.below(100));
    models_[index].labels[number] = writer.set_label(number, label) ? label : "?";
  }

  void check_chain(Store& store, std::size_t index) {
    ChainModel& model = models_[index];
    std::map<std::uint64_t, ShadowMemory> now;
    for (const ImageSummary& line : listed(store, index)) {
      auto restored = test::restore(store, line.chain, line.number);
      ASSERT_TRUE(restored.has_value()) << line.chain << "/" << line.number << ": " << restored.error().message();
      const auto durable = model.durable.find(line.number);
      if (durable != model.durable.end()) {
        EXPECT_EQ(*restored, durable->second) << line.chain << "/" << line.number;
      } else {
        EXPECT_FALSE(model.retired.contains(line.number)) << "a retired image came back";
        const auto& tried = model.attempted[line.number];
        EXPECT_NE(std::ranges::find(tried, *restored), tried.end())
            << line.chain << "/" << line.number << " is no image that was ever taken";
      }
      const auto label = model.labels.find(line.number);
      if (label != model.labels.end() && label->second != "?") {
        EXPECT_EQ(line.label, label->second);
      }
      now[line.number] = std::move(*restored);
    }
    for (const auto& [number, memory] : model.durable)
      EXPECT_TRUE(now.contains(number) || model.maybe_retired.contains(number))
          << "image " << number << " was durable and is gone";
    // What is there now was found whole: from here on it stays.
    model.durable = std::move(now);
    model.attempted.clear();
    model.maybe_retired.clear();
  }

  void check() {
    if (testing::Test::HasFailure()) return;
    auto io = disk_.open();
    auto report = verify(*io, {});
    auto store = Store::open(std::move(io), {});
    ASSERT_TRUE(store.has_value()) << store.error().message();
    EXPECT_TRUE((*store)->damage().empty()) << (*store)->damage().front();
    for (std::size_t index = 0; index < kChains; ++index) check_chain(**store, index);
    if (!report) {
      ASSERT_EQ(report.error().code(), ErrorCode::not_found) << report.error().message();
      return;
    }
    EXPECT_NE(report->status, VerifyStatus::damage)
        << report->findings.front().file << " " << report->findings.front().offset << " "
        << report->findings.front().what;
    EXPECT_EQ(report->good.size(), (*store)->images().size());
  }

  Random random_;
  SimulatedDisk disk_;
  std::uint64_t differences_ = 0;
  bool reads_fail_ = false;
  std::array<ChainModel, kChains> models_;
};

TEST(StoreCrash, ASeedRepeatsToTheByte) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Trial one(seed);
    Trial other(seed);
    one.go();
    other.go();
    EXPECT_EQ(one.trace(), other.trace()) << "seed " << seed;
  }
}

TEST(StoreCrash, WhatWasDurableStaysWhateverHappens) {
  const test::Seeds seeds = test::wanted_seeds(10'000);
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
}  // namespace varve::storage
