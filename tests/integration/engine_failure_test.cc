// SPDX-License-Identifier: Apache-2.0
//
// When the store fails: the image fails, the program goes on, no dirty page is forgotten, and a damaged store is never
// taken for a fresh one. Back-pressure, too. On simulated disks.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engine/engine_implementation.h"
#include "storage/format.h"
#include "tests/integration/engine_fixture.h"
#include "tests/integration/gated_io.h"
#include "tests/support/simulated_io.h"

namespace varve::test {
namespace {

using EnginePointer = std::unique_ptr<EngineImplementation>;

class EngineFailure : public ::testing::Test {
 protected:
  EnginePointer opened(const Options& options = small_options("simulated")) {
    auto engine = EngineImplementation::open(options, disk_.open());
    if (!engine) ADD_FAILURE() << engine.error().message();
    return std::move(engine).value();
  }
  EnginePointer gated(const Options& options) {
    auto engine = EngineImplementation::open(options, std::make_unique<GatedIo>(disk_.open(), gate_));
    if (!engine) ADD_FAILURE() << engine.error().message();
    return std::move(engine).value();
  }
  EnginePointer with_memory(EnginePointer engine) {
    EXPECT_OK(engine->protect("memory", memory_.begin(), memory_.bytes(), {}));
    return engine;
  }
  static Result<ImageResult> checkpoint(EngineImplementation& engine) {
    const auto ticket = engine.checkpoint({});
    if (!ticket) return ticket.error();
    return ticket->wait();
  }
  /// Nothing more can be written, not even into space that was reserved.
  void fill_disk() {
    disk_.set_capacity(disk_.used_bytes());
    disk_.add_random_faults(SimulatedOperation::write, 1, ENOSPC);
  }
  void free_disk() {
    disk_.set_capacity(~std::uint64_t{0});
    disk_.clear_faults();
  }
  /// The newest image, restored by a new engine after `engine` is gone, is this.
  void expect_newest(const std::vector<std::byte>& expected) {
    std::memset(memory_.begin(), 0x55, memory_.bytes());
    auto engine = with_memory(opened());
    const auto restored = engine->restore_if_any();
    ASSERT_OK(restored);
    EXPECT_TRUE(*restored);
    EXPECT_TRUE(same(memory_.span(), expected));
  }

  SimulatedDisk disk_;
  Gate gate_;
  Pages memory_{64};
};

TEST_F(EngineFailure, a_full_disk_fails_the_image_and_the_next_one_holds_all_its_pages) {
  auto engine = with_memory(opened());
  fill(memory_.span(), 1);
  const auto first = copy_of(memory_.span());
  ASSERT_OK(checkpoint(*engine));

  fill_disk();
  fill(std::span(memory_.page(10), 30 * Pages::page_bytes()), 2);
  const auto failed = checkpoint(*engine);
  ASSERT_ERROR(ErrorCode::io, failed);
  EXPECT_EQ(failed.error().os_errno(), ENOSPC);
  ASSERT_OK(engine->restore("latest"));
  EXPECT_TRUE(same(memory_.span(), first)) << "the image before is intact";

  fill(std::span(memory_.page(10), 30 * Pages::page_bytes()), 3);
  ASSERT_ERROR(ErrorCode::io, checkpoint(*engine));
  memory_.page(50)[7] ^= std::byte{1};  // other pages than those of the failed image
  ASSERT_ERROR(ErrorCode::io, checkpoint(*engine));
  free_disk();
  memory_.page(60)[7] ^= std::byte{1};
  const auto expected = copy_of(memory_.span());
  const auto good = checkpoint(*engine);
  ASSERT_OK(good);
  EXPECT_EQ(good->changed_chunks, 32U);
  ASSERT_OK(engine->close());
  expect_newest(expected);
}

TEST_F(EngineFailure, the_first_image_may_fail_too) {
  auto engine = with_memory(opened());
  fill(memory_.span(), 1);
  fill_disk();
  ASSERT_ERROR(ErrorCode::io, checkpoint(*engine));
  EXPECT_FALSE(engine->restore_if_any().value());
  free_disk();
  const auto expected = copy_of(memory_.span());
  const auto good = checkpoint(*engine);
  ASSERT_OK(good);
  EXPECT_EQ(good->kind, ImageKind::full);
  ASSERT_OK(engine->close());
  expect_newest(expected);
}

TEST_F(EngineFailure, a_failed_flush_fails_the_image_and_the_next_one_is_good) {
  auto engine = with_memory(opened());
  fill(memory_.span(), 1);
  ASSERT_OK(checkpoint(*engine));
  for (int i = 0; i < 3; ++i) {
    disk_.add_fault({.operation = SimulatedOperation::sync, .nth = 1, .os_errno = EIO, .count = 1, .file = ".seg"});
    fill(std::span(memory_.page(static_cast<std::size_t>(i) * 5), 5 * Pages::page_bytes()), 2);
    ASSERT_ERROR(ErrorCode::io, checkpoint(*engine));
  }
  const auto expected = copy_of(memory_.span());
  const auto good = checkpoint(*engine);
  ASSERT_OK(good);
  EXPECT_EQ(good->changed_chunks, 15U);
  engine.reset();
  disk_.crash(7);  // what a failed flush lost must not be needed
  expect_newest(expected);
}

TEST_F(EngineFailure, pages_declared_written_are_not_forgotten_over_a_failed_image) {
  // Written through the descriptor: no tracker of mapped pages can see that.
  const SharedPages shared(64);
  fill(shared.span(), 1);
  auto engine = opened();
  ASSERT_OK(engine->protect("shared", shared.begin(), shared.bytes(), {}));
  for (int i = 0; i < 6; ++i) ASSERT_OK(checkpoint(*engine));  // everything has gone cold
  const std::size_t offset = 7 * Pages::page_bytes() + 100;
  ASSERT_EQ(pwrite(shared.descriptor(), "unseen", 6, static_cast<off_t>(offset)), 6);
  ASSERT_OK(engine->touch(shared.begin() + offset, 6));
  disk_.add_fault({.operation = SimulatedOperation::sync, .nth = 1, .os_errno = EIO, .count = 1, .file = ".seg"});
  ASSERT_ERROR(ErrorCode::io, checkpoint(*engine));
  const auto expected = copy_of(shared.span());
  const auto good = checkpoint(*engine);
  ASSERT_OK(good);
  EXPECT_EQ(good->changed_chunks, 1U);
  fill(shared.span(), 2);
  ASSERT_OK(engine->restore("latest"));
  EXPECT_TRUE(same(shared.span(), expected));
  ASSERT_OK(engine->close());
}

TEST_F(EngineFailure, an_image_in_flight_behind_a_failed_one_is_whole) {
  Options options = small_options("simulated");
  options.images_in_flight = 3;
  auto engine = with_memory(gated(options));
  fill(memory_.span(), 1);
  ASSERT_OK(checkpoint(*engine));

  gate_.shut();
  disk_.add_fault({.operation = SimulatedOperation::sync, .nth = 1, .os_errno = EIO, .count = 1, .file = ".seg"});
  fill(std::span(memory_.page(10), 10 * Pages::page_bytes()), 2);
  const auto failing = engine->checkpoint({});
  ASSERT_OK(failing);
  memory_.page(40)[0] ^= std::byte{1};
  const auto expected = copy_of(memory_.span());
  const auto behind = engine->checkpoint({});
  ASSERT_OK(behind);
  EXPECT_NE(failing->image(), behind->image());
  gate_.open();
  ASSERT_ERROR(ErrorCode::io, failing->wait());
  const auto result = behind->wait();
  ASSERT_OK(result);
  EXPECT_EQ(result->parent, 1U) << "it builds on the last image that was committed";
  EXPECT_EQ(result->changed_chunks, 11U);
  ASSERT_OK(engine->close());
  expect_newest(expected);
}

TEST_F(EngineFailure, a_page_that_changes_there_and_back_over_a_failed_image_is_right) {
  Options options = small_options("simulated");
  options.images_in_flight = 4;
  auto engine = with_memory(gated(options));
  fill(memory_.span(), 1);
  const auto original = copy_of(memory_.span());
  ASSERT_OK(checkpoint(*engine));
  gate_.shut();
  memory_.page(5)[0] ^= std::byte{1};
  const auto with_change = engine->checkpoint({});
  ASSERT_OK(with_change);
  memory_.page(5)[0] ^= std::byte{1};
  const auto without = engine->checkpoint({});
  ASSERT_OK(without);
  gate_.open();
  ASSERT_OK(with_change->wait());
  ASSERT_OK(without->wait());
  for (int i = 0; i < 3; ++i) ASSERT_OK(checkpoint(*engine));
  ASSERT_OK(engine->close());
  expect_newest(original);
}

TEST_F(EngineFailure, wait_and_close_report_failures_that_nobody_asked_for) {
  auto engine = with_memory(opened());
  ASSERT_OK(checkpoint(*engine));
  const auto fail_one = [&](int os_errno) {
    disk_.add_fault(
        {.operation = SimulatedOperation::sync, .nth = 1, .os_errno = os_errno, .count = 1, .file = ".seg"});
    fill(memory_.span(), static_cast<std::uint64_t>(os_errno));
    auto ticket = engine->checkpoint({});
    EXPECT_OK(ticket);
    while (!ticket->ready()) usleep(100);
    return std::move(ticket).value();
  };
  fail_one(EIO);
  fail_one(ENOSPC);
  const auto first = engine->wait();
  ASSERT_ERROR(ErrorCode::io, first);
  EXPECT_EQ(first.error().os_errno(), EIO);
  EXPECT_OK(engine->wait()) << "each failure is reported once";
  ASSERT_ERROR(ErrorCode::io, fail_one(EIO).wait());
  EXPECT_OK(engine->wait()) << "its ticket has reported it";
  fail_one(EIO);
  fail_one(ENOSPC);
  const auto closed = engine->close();
  ASSERT_ERROR(ErrorCode::io, closed);
  EXPECT_EQ(closed.error().os_errno(), ENOSPC);
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->checkpoint({}));
}

TEST_F(EngineFailure, when_behind_skip_resolves_the_ticket_as_skipped) {
  Options options = small_options("simulated");
  options.images_in_flight = 1;
  options.when_behind = WhenBehind::skip;
  auto engine = with_memory(gated(options));
  gate_.shut();
  fill(memory_.span(), 1);
  const auto first = engine->checkpoint({});
  ASSERT_OK(first);
  fill(memory_.span(), 2);
  const auto expected = copy_of(memory_.span());
  const auto skipped = engine->checkpoint({});
  ASSERT_OK(skipped);
  ASSERT_TRUE(skipped->ready());
  const auto result = skipped->wait();
  ASSERT_OK(result);
  EXPECT_TRUE(result->skipped);
  EXPECT_EQ(result->image, 0U);
  EXPECT_EQ(skipped->image(), 0U);
  gate_.open();
  ASSERT_OK(first->wait());
  const auto next = checkpoint(*engine);
  ASSERT_OK(next);
  EXPECT_EQ(next->changed_chunks, 64U) << "the next image holds the pages of the skipped one";
  ASSERT_OK(engine->close());
  expect_newest(expected);
}

TEST_F(EngineFailure, when_behind_fail_says_busy) {
  Options options = small_options("simulated");
  options.images_in_flight = 1;
  options.when_behind = WhenBehind::fail;
  auto engine = with_memory(gated(options));
  gate_.shut();
  fill(memory_.span(), 1);
  const auto first = engine->checkpoint({});
  ASSERT_OK(first);
  ASSERT_ERROR(ErrorCode::busy, engine->checkpoint({}));
  gate_.open();
  ASSERT_OK(first->wait());
  EXPECT_OK(checkpoint(*engine));
  ASSERT_OK(engine->close());
}

TEST_F(EngineFailure, when_behind_wait_waits_for_room) {
  Options options = small_options("simulated");
  options.images_in_flight = 1;
  auto engine = with_memory(gated(options));
  gate_.shut();
  fill(memory_.span(), 1);
  const auto first = engine->checkpoint({});
  ASSERT_OK(first);
  std::atomic<bool> returned{false};
  std::thread second([&] {
    EXPECT_OK(checkpoint(*engine));
    returned = true;
  });
  usleep(50'000);
  EXPECT_FALSE(returned);
  gate_.open();
  second.join();
  EXPECT_TRUE(first->ready());
  ASSERT_OK(engine->close());
}

TEST_F(EngineFailure, a_cut_larger_than_staging_streams_through_it) {
  Options options = small_options("simulated");
  options.staging_bytes = 1;  // the least that there is
  Pages large(8192);
  fill(large.span(), 1);
  const auto expected = copy_of(large.span());
  auto engine = opened(options);
  ASSERT_OK(engine->protect("large", large.begin(), large.bytes(), {}));
  ASSERT_OK(checkpoint(*engine));
  EXPECT_LE(engine->memory_use().staging_bytes, large.bytes() / 2);
  fill(large.span(), 2);
  ASSERT_OK(engine->restore("1"));
  EXPECT_TRUE(same(large.span(), expected));
  ASSERT_OK(engine->close());
}

TEST_F(EngineFailure, an_engine_that_is_destroyed_drops_what_is_not_committed) {
  auto engine = with_memory(gated(small_options("simulated")));
  fill(memory_.span(), 1);
  const auto expected = copy_of(memory_.span());
  ASSERT_OK(checkpoint(*engine));
  gate_.shut();
  fill(memory_.span(), 2);
  const auto writing = engine->checkpoint({});
  ASSERT_OK(writing);
  fill(memory_.span(), 3);
  const auto queued = engine->checkpoint({});
  ASSERT_OK(queued);
  std::thread opener([&] {
    usleep(20'000);
    gate_.open();
  });
  engine.reset();
  opener.join();
  const auto dropped = queued->wait();
  ASSERT_ERROR(ErrorCode::invalid_argument, dropped);
  if (!writing->wait()) expect_newest(expected);  // it was either committed or dropped
}

TEST_F(EngineFailure, file_systems_that_promise_nothing_give_written_images) {
  SimulatedDisk memory_disk(SimulatedOptions{.durable = false});
  auto opened_there = EngineImplementation::open(small_options("simulated"), memory_disk.open());
  ASSERT_OK(opened_there);
  auto engine = with_memory(std::move(opened_there).value());
  const auto result = checkpoint(*engine);
  ASSERT_OK(result);
  EXPECT_FALSE(result->durable);
  ASSERT_OK(engine->close());
  auto durable = with_memory(opened());
  EXPECT_TRUE(checkpoint(*durable)->durable);
  ASSERT_OK(durable->close());
}

TEST_F(EngineFailure, a_restore_that_fails_half_way_says_so_and_holds_up_checkpoints) {
  auto engine = with_memory(opened());
  fill(memory_.span(), 1);
  const auto first = copy_of(memory_.span());
  ASSERT_OK(checkpoint(*engine));
  fill(std::span(memory_.page(0), 32 * Pages::page_bytes()), 2);
  ASSERT_OK(checkpoint(*engine));
  // How many reads it takes before the first byte changes is the store's business.
  std::string said;
  for (std::uint64_t nth = 1; said.find("half-way") == std::string::npos; ++nth) {
    fill(memory_.span(), 3);  // else the background may have found out meanwhile that there is nothing to restore
    disk_.add_fault(
        {.operation = SimulatedOperation::read, .nth = nth, .os_errno = EIO, .count = 1'000'000, .file = ".seg"});
    const auto failed = engine->restore("2");
    disk_.clear_faults();
    ASSERT_ERROR(ErrorCode::io, failed);  // no reads left: never half-way
    said = failed.error().message();
  }
  EXPECT_NE(said.find("main/2"), std::string::npos) << said;
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->checkpoint({}));
  ASSERT_OK(engine->restore("1"));
  EXPECT_TRUE(same(memory_.span(), first));
  EXPECT_OK(checkpoint(*engine));
  ASSERT_OK(engine->close());
}

// More than is read at once: the first of it is clean for the tracker while the rest is read, or turns out damaged.
TEST_F(EngineFailure, a_large_restore_leaves_a_small_delta_also_after_one_that_failed_half_way) {
  constexpr std::size_t kPages = 40'000;
  Pages large(kPages);
  const auto open_with = [this, &large] {
    auto engine = opened();
    EXPECT_OK(engine->protect("large", large.begin(), large.bytes(), {}));
    return engine;
  };
  const auto checkpoint_is_small = [](EngineImplementation& engine) {
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    if (engine.choices().tracker.starts_with("uffd")) {
      EXPECT_LE(result->captured_bytes, 8 * Pages::page_bytes());
    }
    EXPECT_EQ(result->new_chunks, 1U);
  };
  for (std::size_t page = 0; page < kPages; ++page)
    std::memset(large.page(page), static_cast<int>(1 + page % 97), Pages::page_bytes());
  const auto first = copy_of(large.span());
  auto engine = open_with();
  ASSERT_OK(checkpoint(*engine));
  ASSERT_OK(engine->close());
  const auto before = disk_.files();

  std::memset(large.begin(), 0x55, large.bytes());
  engine = open_with();
  ASSERT_OK(engine->restore("1"));
  EXPECT_TRUE(same(large.span(), first));
  fill(std::span(large.page(kPages - 1), Pages::page_bytes()), 7);
  checkpoint_is_small(*engine);
  ASSERT_OK(engine->close());
  for (const auto& file : disk_.files())
    if (file.ends_with(".seg") && std::ranges::find(before, file) == before.end())
      disk_.flip_bit(file, storage::kSegmentHeaderBytes + 100, 3);  // the only frame with that page

  std::memset(large.begin(), 0x55, large.bytes());
  engine = open_with();
  const auto failed = engine->restore("2");
  ASSERT_ERROR(ErrorCode::corruption, failed);
  EXPECT_NE(failed.error().message().find("half-way"), std::string::npos) << failed.error().message();
  ASSERT_OK(engine->restore("1"));
  EXPECT_TRUE(same(large.span(), first));
  fill(std::span(large.page(5), Pages::page_bytes()), 8);
  const auto last = copy_of(large.span());
  checkpoint_is_small(*engine);
  ASSERT_OK(engine->close());
  std::memset(large.begin(), 0x55, large.bytes());
  engine = open_with();
  ASSERT_OK(engine->restore("latest"));
  EXPECT_TRUE(same(large.span(), last));
}

TEST_F(EngineFailure, a_rollback_is_refused_when_an_image_in_flight_fails) {
  auto engine = with_memory(gated(small_options("simulated")));
  fill(memory_.span(), 1);
  ASSERT_OK(checkpoint(*engine));
  fill(memory_.span(), 2);
  const auto before = copy_of(memory_.span());
  gate_.shut();
  disk_.add_fault({.operation = SimulatedOperation::sync, .nth = 1, .os_errno = EIO, .count = 1, .file = ".seg"});
  ASSERT_OK(engine->checkpoint({}));
  std::thread opener([&] {
    usleep(20'000);
    gate_.open();
  });
  ASSERT_ERROR(ErrorCode::io, engine->restore("1"));
  opener.join();
  EXPECT_TRUE(same(memory_.span(), before)) << "nothing is changed";
  EXPECT_OK(engine->restore("1"));
  ASSERT_OK(engine->close());
}

TEST_F(EngineFailure, a_damaged_store_is_never_taken_for_a_fresh_one) {
  {
    auto engine = with_memory(opened());
    fill(memory_.span(), 1);
    ASSERT_OK(checkpoint(*engine));
    fill(std::span(memory_.page(3), Pages::page_bytes()), 2);
    ASSERT_OK(checkpoint(*engine));
    ASSERT_OK(engine->close());
  }
  const auto expected = copy_of(memory_.span());
  const auto check = [&](SimulatedDisk damaged, const std::string& what) {
    std::memset(memory_.begin(), 0x55, memory_.bytes());
    auto engine = EngineImplementation::open(small_options("simulated"), damaged.open());
    if (!engine) return;  // refused: an error, not a fresh start
    ASSERT_OK((*engine)->protect("memory", memory_.begin(), memory_.bytes(), {}));
    const auto restored = (*engine)->restore_if_any();
    if (!restored) return;
    EXPECT_TRUE(*restored) << what << ": taken for a fresh store";
    EXPECT_TRUE(same(memory_.span(), expected)) << what << ": a wrong byte was restored";
  };
  for (const auto& file : disk_.files()) {
    if (file == "lock") continue;
    const std::uint64_t size = disk_.size_bytes(file);
    for (std::uint64_t at = 0; at < size; at += std::max<std::uint64_t>(1, size / 60)) {
      SimulatedDisk damaged = disk_.copy();
      damaged.flip_bit(file, at, at % 8);
      check(std::move(damaged), file + " flipped at " + std::to_string(at));
    }
    for (const std::uint64_t left : {std::uint64_t{0}, size / 2, size - 1}) {
      SimulatedDisk damaged = disk_.copy();
      damaged.truncate(file, left);
      check(std::move(damaged), file + " cut to " + std::to_string(left));
    }
    SimulatedDisk damaged = disk_.copy();
    damaged.remove(file);
    check(std::move(damaged), file + " removed");
  }
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) { return varve::test::run_tests_or_child(argc, argv, {}); }
