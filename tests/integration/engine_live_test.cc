// SPDX-License-Identifier: Apache-2.0
//
// Images of forked cuts, most of which is read in place while the program goes on: every image shows its cut.
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "engine/capture_tuning.h"
#include "engine/engine_implementation.h"
#include "storage/forwarding_io.h"
#include "storage/io.h"
#include "tests/integration/engine_fixture.h"
#include "tests/integration/gated_io.h"
#include "tests/support/random.h"

namespace varve::test {
namespace {

/// Writes wait while the gate is shut, so that the background does not get far with an image; or fail.
struct Writes {
  Gate gate;
  std::atomic<bool> fail = false;
  std::atomic<std::uint64_t> begun = 0;
};

class GatedWritesFile final : public storage::ForwardingFile {
 public:
  GatedWritesFile(std::unique_ptr<storage::File> file, Writes& writes)
      : ForwardingFile(std::move(file)), writes_(writes) {}
  Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) override {
    ++writes_.begun;
    writes_.begun.notify_all();
    writes_.gate.pass();
    if (writes_.fail) return varve::fail(ErrorCode::io, {"writing", "the test says so", "none"});
    return ForwardingFile::submit_write(offset, bytes);
  }

 private:
  Writes& writes_;
};

using GatedWritesIo = storage::WrappingIo<GatedWritesFile, Writes&>;

/// The content of each region, by name.
using Shadow = std::map<std::string, std::vector<std::byte>>;

class EngineLive : public ::testing::Test {
 protected:
  struct Wanted {
    std::size_t pages = 0;
    std::size_t begin = 0;     ///< in bytes, in the first page
    std::size_t short_of = 0;  ///< bytes that the last page is not full
  };

  void SetUp() override {
    options_ = small_options(directory_ / "store");
    options_.capture = Capture::fork;
    open({});
  }
  void open(const CaptureTuning& tuning) {
    engine_.reset();
    auto io = storage::open_io(options_.store, {});
    ASSERT_OK(io);
    auto engine =
        EngineImplementation::open(options_, std::make_unique<GatedWritesIo>(std::move(*io), writes_), tuning);
    ASSERT_OK(engine);
    engine_ = std::move(*engine);
  }
  void TearDown() override { writes_.gate.open(); }

  /// A protected region, filled.
  std::span<std::byte> add(const std::string& name, const Wanted& wanted) {
    const auto& pages = memory_.emplace_back(std::make_unique<Pages>(wanted.pages));
    const std::span<std::byte> region =
        pages->span().subspan(wanted.begin, pages->bytes() - wanted.begin - wanted.short_of);
    fill(region, memory_.size());
    EXPECT_OK(engine_->protect(name, region.data(), region.size(), {}));
    regions_[name] = region;
    return region;
  }
  Shadow shadow() const {
    Shadow all;
    for (const auto& [name, region] : regions_) all[name] = copy_of(region);
    return all;
  }
  /// Takes an image, and notes what it has to show. REQUIRES: nobody writes meanwhile.
  Ticket take(const CheckpointOptions& options = {}) {
    Shadow content = shadow();
    const auto ticket = engine_->checkpoint(options);
    EXPECT_OK(ticket);
    cuts_[ticket->image()] = std::move(content);
    return *ticket;
  }
  /// Whether the tracker here tells what changed since a fork.
  bool tells() const {
    const std::string tracker = engine_->choices().tracker;
    return tracker.starts_with("uffd") || tracker.starts_with("soft-dirty");
  }
  /// Closes, and restores each image into other memory by another engine.
  void expect_images_show_their_cuts() {
    ASSERT_OK(engine_->close());
    engine_.reset();
    std::map<std::string, std::unique_ptr<Pages>> fresh;
    auto other = Engine::open(options_);
    ASSERT_OK(other);
    for (const auto& [image, cut] : cuts_) {
      for (const auto& [name, content] : cut) {
        auto& pages = fresh[name];
        if (pages != nullptr) continue;
        const std::size_t offset = offset_of(name);
        pages = std::make_unique<Pages>((offset + content.size()) / Pages::page_bytes() + 1);
        ASSERT_OK(other->protect(name, pages->begin() + offset, content.size()));
      }
      ASSERT_OK(other->restore(std::to_string(image)));
      for (const auto& [name, content] : cut) {
        const std::span<std::byte> restored{fresh[name]->begin() + offset_of(name), content.size()};
        EXPECT_TRUE(same(restored, content)) << "image " << image << ", region " << name;
      }
    }
    ASSERT_OK(other->close());
  }
  std::size_t offset_of(const std::string& name) const {
    return reinterpret_cast<std::uintptr_t>(regions_.at(name).data()) % Pages::page_bytes();
  }

  TemporaryDirectory directory_;
  Options options_;
  Writes writes_;
  std::vector<std::unique_ptr<Pages>> memory_;
  std::map<std::string, std::span<std::byte>> regions_;
  std::map<std::uint64_t, Shadow> cuts_;
  std::unique_ptr<EngineImplementation> engine_;
};

TEST_F(EngineLive, reads_all_in_place_that_nobody_writes) {
  const auto memory = add("memory", {.pages = 2000});
  const auto first = take().wait();
  ASSERT_OK(first);
  EXPECT_EQ(first->capture, Capture::fork);
  EXPECT_EQ(first->captured_bytes, memory.size());
  // Of a first image what no tracker tells is read in place, too, as far as the background comes within the stall.
  EXPECT_GE(first->live_bytes, tells() ? memory.size() : 0);
  EXPECT_LE(first->live_bytes, memory.size());
  for (const std::size_t page : {3U, 4U, 700U, 1999U}) fill(memory.subspan(page * Pages::page_bytes(), 100), page);
  const auto second = take().wait();
  ASSERT_OK(second);
  EXPECT_GE(second->captured_bytes, 4 * Pages::page_bytes());
  EXPECT_EQ(second->live_bytes, tells() ? second->captured_bytes : 0);
  expect_images_show_their_cuts();
}

TEST_F(EngineLive, leaves_only_the_ends_of_unaligned_regions_to_the_holder) {
  const auto memory = add("memory", {.pages = 100, .begin = 60, .short_of = 8});
  const auto first = take().wait();
  ASSERT_OK(first);
  EXPECT_GE(first->live_bytes, tells() ? 98 * Pages::page_bytes() : 0);
  EXPECT_LE(first->live_bytes, memory.size()) << "the ends within the stall";
  fill(memory, 7);
  const auto image = take().wait();
  ASSERT_OK(image);
  EXPECT_EQ(image->captured_bytes, memory.size());
  EXPECT_EQ(image->live_bytes, tells() ? 98 * Pages::page_bytes() : 0);
  expect_images_show_their_cuts();
}

TEST_F(EngineLive, images_show_their_cuts_while_threads_write_all_the_time) {
  add("large", {.pages = 900});
  add("odd", {.pages = 130, .begin = 1000, .short_of = 1});
  add("small", {.pages = 1, .begin = 8, .short_of = 8});
  add("other", {.pages = 200, .begin = 4088});
  std::mutex mutex;
  std::atomic<bool> cutting = false, stop = false;
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 1; seed <= 3; ++seed)
    threads.emplace_back([this, seed, &mutex, &cutting, &stop] {
      Random random(seed);
      while (!stop) {
        if (cutting) {
          std::this_thread::yield();
          continue;
        }
        const auto region = std::next(regions_.begin(), static_cast<std::ptrdiff_t>(random.below(4)))->second;
        const std::size_t at = random.below(region.size());
        const auto place = region.subspan(at, std::min<std::size_t>(region.size() - at, 1 + random.below(9000)));
        const std::lock_guard lock(mutex);
        if (random.one_in(4))
          std::memset(place.data(), 0, place.size());
        else if (random.coin())
          fill(place, random.below(100));  // twice the same, sometimes
        else
          place.front() ^= std::byte{1};
      }
    });
  for (int image = 0; image < 20; ++image) {
    cutting = true;
    {
      const std::lock_guard lock(mutex);
      take({.full = image % 7 == 6});
    }
    cutting = false;
    if (image % 5 != 4) continue;
    EXPECT_OK(engine_->wait());
  }
  EXPECT_OK(engine_->wait());
  stop = true;
  for (auto& thread : threads) thread.join();
  expect_images_show_their_cuts();
}

/// The kinds of chunks by turns, in the first pass and in the second.
class EngineLivePasses : public EngineLive, public ::testing::WithParamInterface<std::size_t> {};

TEST_P(EngineLivePasses, are_merged_for_scattered_chunks_of_every_kind) {
  constexpr std::size_t kPages = 1200;
  const std::size_t run = GetParam();
  const auto memory = add("memory", {.pages = kPages});
  add("second", {.pages = 7});
  const auto page = [memory](std::size_t index) {
    return memory.subspan(index * Pages::page_bytes(), Pages::page_bytes());
  };
  const auto is_second_pass = [run](std::size_t index) { return index / run % 2 == 0; };
  std::uint64_t seed = 1000;
  Hooks hooks;
  hooks.after_cut = [&] {
    for (std::size_t i = 0; i < kPages; ++i)
      if (is_second_pass(i)) fill(page(i), ++seed);
  };
  std::size_t second_pass = 0;
  for (std::size_t i = 0; i < kPages; ++i) second_pass += is_second_pass(i) ? Pages::page_bytes() : 0;
  for (std::size_t i = 0; i < kPages; i += 5) std::memset(page(i).data(), 0, page(i).size());
  for (int round = 0; round < 4; ++round) {
    writes_.gate.shut();
    std::optional<Ticket> before;  // keeps the background busy until the hook has written
    if (round > 0) before = take();
    for (std::size_t i = 0; round > 0 && i < kPages; ++i) {
      volatile std::byte* const first = page(i).data();
      if (i % 3 == 0) fill(page(i), ++seed);
      if (i % 3 == 1) std::memset(page(i).data(), 0, page(i).size());
      if (i % 3 == 2) *first = *first;  // written, and unchanged
    }
    engine_->set_hooks(hooks);
    const auto ticket = take({.full = round == 2});
    engine_->set_hooks({});
    writes_.gate.open();
    if (before) {
      EXPECT_OK(before->wait());
    }
    const auto result = ticket.wait();
    ASSERT_OK(result);
    EXPECT_EQ(result->kind, round % 2 == 0 ? ImageKind::full : ImageKind::delta);
    EXPECT_EQ((result->changed_chunks + result->unchanged_chunks) * 4096, result->captured_bytes);
    EXPECT_GE(result->captured_bytes, memory.size());
    EXPECT_GT(result->zero_chunks, 0U);
    if (round > 0) {
      EXPECT_GE(result->unchanged_chunks, kPages / 3);
      EXPECT_EQ(result->live_bytes, tells() ? result->captured_bytes - second_pass : 0);
    }
    engine_->wait_idle();  // what the cooler is reading is pinned, and a fork copies such pages
  }
  ASSERT_OK(take().wait());  // what the hook wrote last
  expect_images_show_their_cuts();
}

INSTANTIATE_TEST_SUITE_P(Runs, EngineLivePasses, ::testing::Values(1, 2, 5, 100),
                         [](const auto& tested) { return std::to_string(tested.param); });

TEST_F(EngineLive, a_write_between_two_cuts_is_in_the_second_image_only) {
  const auto memory = add("memory", {.pages = 16'000});
  const auto write = [memory](std::size_t every) {
    for (std::size_t page = 0; page < 16'000; page += every) memory[page * Pages::page_bytes() + 5] ^= std::byte{1};
  };
  // The first image, of memory that was never committed, and a delta that is nearly as large.
  for (const bool first : {true, false}) {
    if (!first) write(1);
    writes_.gate.shut();
    const auto older = take();
    write(3);
    const auto newer = take();
    write(2);
    EXPECT_FALSE(older.ready());
    writes_.gate.open();
    EXPECT_OK(older.wait());
    EXPECT_OK(newer.wait());
  }
  expect_images_show_their_cuts();
}

TEST_F(EngineLive, what_is_copied_until_staging_would_have_to_grow_and_forked_from_there_on_is_in_one_image) {
  options_.capture = Capture::automatic;
  options_.staging_bytes = std::size_t{128} << 20;
  CaptureTuning tuning;
  tuning.first_bytes = std::size_t{4} << 20;
  tuning.costs = CaptureCosts{.copy_bytes_per_ns = 1000, .fork_page_ns = 1, .fault_ns = 1'000'000};
  // Chosen at first: copying. Once some is copied, growing is too dear.
  tuning.growing_ns = [](std::uint64_t bytes) { return bytes > std::uint64_t{33} << 20 ? 0 : std::uint64_t{1} << 50; };
  open(tuning);
  const auto first = add("first", {.pages = 3000, .begin = 100});
  const auto second = add("second", {.pages = 6000});  // more than the background takes before it waits
  Hooks hooks;
  std::uint64_t seed = 1000;
  hooks.after_cut = [&] {
    for (const auto region : {first, second})
      for (std::size_t at = 0; at + 4096 < region.size(); at += 5 * Pages::page_bytes())
        fill(region.subspan(at, 4096), ++seed);
  };
  writes_.gate.shut();
  const auto before = take();  // keeps what is warm of staging
  for (const auto region : {first, second}) fill(region, ++seed);
  engine_->set_hooks(hooks);
  const auto ticket = take();
  engine_->set_hooks({});
  writes_.gate.open();
  EXPECT_OK(before.wait());
  const auto result = ticket.wait();
  ASSERT_OK(result);
  EXPECT_EQ(result->captured_bytes, first.size() + second.size());
  EXPECT_TRUE(result->capture_why.starts_with("copy: ")) << result->capture_why;
  EXPECT_NE(result->capture_why.find("; then fork: "), std::string::npos) << result->capture_why;
  EXPECT_EQ(result->live_bytes > 0, tells());
  EXPECT_LT(result->live_bytes, result->captured_bytes - (std::size_t{1} << 20));
  expect_images_show_their_cuts();
}

TEST_F(EngineLive, an_image_that_fails_forgets_no_page) {
  const auto memory = add("memory", {.pages = 2000});
  ASSERT_OK(take().wait());
  ASSERT_OK(take().wait());
  fill(memory.subspan(100 * Pages::page_bytes(), 900 * Pages::page_bytes()), 77);
  writes_.fail = true;
  const auto failed = take();
  EXPECT_FALSE(failed.wait().has_value());
  cuts_.erase(failed.image());
  writes_.fail = false;
  memory.front() ^= std::byte{1};
  ASSERT_OK(take().wait());
  expect_images_show_their_cuts();
}

TEST_F(EngineLive, a_region_that_ends_while_it_is_read_is_in_the_image_whole) {
  add("stays", {.pages = 500});
  for (int round = 0; round < 4; ++round) {
    const auto memory = add("leaves", {.pages = 16'000});
    const std::uint64_t begun = writes_.begun;
    if (round > 0) writes_.gate.shut();  // more than the background takes before it waits
    const auto ticket = take();
    if (round > 0) writes_.begun.wait(begun);
    ASSERT_OK(engine_->unprotect("leaves"));
    EXPECT_TRUE(round == 0 || !ticket.ready());
    // Unmapped, and nobody else gets the addresses until the test ends.
    ASSERT_EQ(mmap(memory.data(), memory.size(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              memory.data());
    writes_.gate.open();
    ASSERT_OK(ticket.wait());
  }
  expect_images_show_their_cuts();
}

}  // namespace
}  // namespace varve::test
