// SPDX-License-Identifier: Apache-2.0
//
// Lazy restores: pages come when they are touched, the rest streams in, and nobody ever sees anything else than what
// the image holds.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/lazy_fixture.h"
#include "tests/support/child_process.h"

namespace varve::test {
namespace {

constexpr std::size_t kPages = 512;

class EngineLazyRestore : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_LAZY();
    fill(original_.span(), 1);
    std::fill_n(original_.page(100), 3 * Pages::page_bytes(), std::byte{0});  // a short run of zeros
    auto engine = opened(original_);
    ASSERT_OK(take_image(*engine));
    expected_ = copy_of(original_.span());
    ASSERT_OK(engine->close());
  }

  Options options() const { return small_options(directory_ / "store"); }
  EnginePointer opened(Pages& memory) { return opened(memory, options()); }
  EnginePointer opened(Pages& memory, const Options& options) {
    auto engine = open_gated(options, gate_);
    EXPECT_OK(engine->protect("memory", memory.begin(), memory.bytes(), {}));
    return engine;
  }
  /// For what waits for the stream: lets it go on while that waits.
  std::thread opens_soon() {
    return std::thread([this] {
      usleep(20'000);
      gate_.open();
    });
  }
  bool right(const Pages& memory, std::size_t page) const {
    return std::memcmp(memory.page(page), expected_.data() + page * Pages::page_bytes(), Pages::page_bytes()) == 0;
  }

  const TemporaryDirectory directory_;
  Gate gate_;
  Pages original_{kPages};
  std::vector<std::byte> expected_;
};

TEST_F(EngineLazyRestore, pages_come_when_they_are_touched_and_the_rest_after) {
  Pages memory(kPages);
  fill(memory.span(), 2);
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  EXPECT_TRUE(engine->lazy_status().streaming);
  EXPECT_EQ(engine->lazy_status().lazy_bytes, memory.bytes());
  EXPECT_TRUE(right(memory, 300));
  EXPECT_TRUE(right(memory, 101));
  EXPECT_GE(engine->lazy_status().faults, 1U);  // the zeros may have come before
  EXPECT_LT(engine->lazy_status().placed_bytes, memory.bytes());
  memory.page(17)[5] = std::byte{42};  // a write to a missing page: the rest of it is the image's
  gate_.open();
  ASSERT_OK(engine->wait_restored());
  const auto status = engine->lazy_status();
  EXPECT_EQ(status.image, "main/1");
  EXPECT_FALSE(status.streaming);
  EXPECT_EQ(status.placed_bytes, memory.bytes());
  EXPECT_EQ(status.eager_why, "");
  expected_[17 * Pages::page_bytes() + 5] = std::byte{42};
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, the_next_image_is_a_small_delta_on_the_restored_one) {
  Pages memory(kPages);
  auto engine = opened(memory);
  ASSERT_OK(engine->restore("latest", lazily()));
  memory.page(9)[0] ^= std::byte{1};
  const auto ticket = engine->checkpoint({});
  ASSERT_OK(ticket);
  const auto image = ticket->wait();
  ASSERT_OK(image);
  EXPECT_EQ(image->kind, ImageKind::delta);
  EXPECT_EQ(image->parent, 1U);
  EXPECT_EQ(image->changed_chunks, 1U);
  expected_ = copy_of(memory.span());
  memory.page(10)[0] ^= std::byte{1};  // after the cut: tracked again, so seen by the next
  const auto second = engine->checkpoint({});
  ASSERT_OK(second);
  ASSERT_OK(second->wait());
  EXPECT_EQ(second->wait()->changed_chunks, 1U);
  ASSERT_OK(engine->restore("2", {}));
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, system_calls_wait_for_pages_too) {
  Pages memory(kPages);
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const std::size_t page = Pages::page_bytes();
  ASSERT_EQ(write(ends[1], memory.page(50), page), static_cast<ssize_t>(page));
  ASSERT_EQ(read(ends[0], memory.page(60) + 100, page), static_cast<ssize_t>(page));  // into two missing pages
  close(ends[0]);
  close(ends[1]);
  gate_.open();
  ASSERT_OK(engine->wait_restored());
  std::memcpy(expected_.data() + 60 * page + 100, original_.page(50), page);
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, what_the_program_drops_meanwhile_does_not_come_back) {
  Pages memory(kPages);
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  const std::size_t page = Pages::page_bytes();
  ASSERT_TRUE(right(memory, 30));
  ASSERT_EQ(madvise(memory.page(30), page, MADV_DONTNEED), 0);      // one that had come
  ASSERT_EQ(madvise(memory.page(40), 2 * page, MADV_DONTNEED), 0);  // some that had not
  const std::vector<std::byte> zeros(page);
  EXPECT_TRUE(same({memory.page(30), page}, zeros));
  EXPECT_TRUE(same({memory.page(40), page}, zeros));
  gate_.open();
  ASSERT_OK(engine->wait_restored());
  std::fill_n(expected_.begin() + static_cast<std::ptrdiff_t>(30 * page), page, std::byte{0});
  std::fill_n(expected_.begin() + static_cast<std::ptrdiff_t>(40 * page), 2 * page, std::byte{0});
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, a_checkpoint_meanwhile_waits_or_does_what_the_options_say) {
  Pages memory(kPages);
  Options wanted = options();
  wanted.when_behind = WhenBehind::fail;
  auto engine = opened(memory, wanted);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  ASSERT_ERROR(ErrorCode::busy, engine->checkpoint({}));
  EXPECT_NE(engine->checkpoint({}).error().message().find("main/1 is still being restored lazily"), std::string::npos);
  gate_.open();
  ASSERT_OK(engine->close());

  wanted.when_behind = WhenBehind::skip;
  engine = opened(memory, wanted);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  const auto skipped = engine->checkpoint({});
  ASSERT_OK(skipped);
  EXPECT_TRUE(skipped->wait()->skipped);
  gate_.open();
  ASSERT_OK(engine->close());

  engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  std::thread opener = opens_soon();
  EXPECT_OK(take_image(*engine));
  EXPECT_FALSE(engine->lazy_status().streaming);
  opener.join();
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, closing_destroying_and_unprotecting_wait_for_the_rest) {
  for (const std::string how : {"close", "destroy", "unprotect", "exclude"}) {
    Pages memory(kPages);
    auto engine = opened(memory);
    gate_.shut();
    ASSERT_OK(engine->restore("latest", lazily()));
    std::thread opener = opens_soon();
    if (how == "close") {
      EXPECT_OK(engine->close());
    }
    if (how == "destroy") engine.reset();
    if (how == "unprotect") {
      EXPECT_OK(engine->unprotect("memory"));
    }
    if (how == "exclude") {
      EXPECT_OK(engine->exclude("memory", 0, 100));
    }
    opener.join();
    EXPECT_TRUE(same(memory.span(), expected_)) << how;
  }
}

TEST_F(EngineLazyRestore, another_restore_takes_its_place_and_one_that_is_refused_does_not) {
  Pages memory(kPages);
  auto engine = opened(memory);
  ASSERT_OK(engine->restore("latest", {}));
  fill(memory.span(), 7);
  const auto second = copy_of(memory.span());
  ASSERT_OK(take_image(*engine));
  gate_.shut();
  ASSERT_OK(engine->restore("1", lazily()));
  EXPECT_TRUE(right(memory, 1));
  ASSERT_ERROR(ErrorCode::not_found, engine->restore("77", {}));
  EXPECT_TRUE(engine->lazy_status().streaming);
  EXPECT_TRUE(right(memory, 400));
  // Its stream waits at the gate, which the new restore opens by being waited for.
  std::thread opener = opens_soon();
  ASSERT_OK(engine->restore("2", lazily()));
  EXPECT_EQ(engine->lazy_status().image, "main/2");
  opener.join();
  ASSERT_OK(engine->wait_restored());
  EXPECT_TRUE(same(memory.span(), second));
  ASSERT_OK(engine->restore("1", lazily()));
  ASSERT_OK(engine->restore("2", {}));
  EXPECT_TRUE(same(memory.span(), second));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, a_child_that_is_forked_meanwhile_has_all_of_it) {
  Pages memory(kPages);
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  std::thread opener = opens_soon();
  const int status = run_child([&] { return same(memory.span(), expected_) ? 0 : 1; });
  opener.join();
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, a_child_that_does_not_wait_lacks_the_memory_instead_of_finding_zeros) {
  Pages memory(kPages);
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  const pid_t child = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    _exit(memory.page(200)[0] == std::byte{0} ? 3 : 4);
  }
  EXPECT_EQ(wait_child(child), -SIGSEGV);
  gate_.open();
  ASSERT_OK(engine->close());
  EXPECT_TRUE(same(memory.span(), expected_));
}

TEST_F(EngineLazyRestore, together_with_fallback_is_refused) {
  Pages memory(kPages);
  auto engine = opened(memory);
  auto both = lazily();
  both.fallback = true;
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->restore("latest", both));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine->restore_if_any(both));
  EXPECT_EQ(memory.page(3)[0], std::byte{0});
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, is_eager_where_the_environment_forbids_it_and_says_so) {
  Pages memory(kPages);
  auto engine = opened(memory);
  setenv("VARVE_LAZY", "off", 1);
  const auto restored = engine->restore("latest", lazily());
  unsetenv("VARVE_LAZY");
  ASSERT_OK(restored);
  const auto status = engine->lazy_status();
  EXPECT_FALSE(status.streaming);
  EXPECT_EQ(status.lazy_bytes, 0U);
  EXPECT_NE(status.eager_why.find("VARVE_LAZY"), std::string::npos) << status.eager_why;
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->wait_restored());
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, locked_memory_is_restored_eagerly) {
  Pages memory(kPages);
  // Not mlock(3), which AddressSanitizer turns into nothing.
  if (syscall(SYS_mlock, memory.page(8), 4 * Pages::page_bytes()) != 0) GTEST_SKIP() << "mlock(2) is refused";
  auto engine = opened(memory);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  const auto status = engine->lazy_status();
  EXPECT_EQ(status.lazy_bytes, memory.bytes() - 4 * Pages::page_bytes());
  EXPECT_NE(status.eager_why.find("locked"), std::string::npos) << status.eager_why;
  EXPECT_TRUE(right(memory, 9));
  EXPECT_EQ(engine->lazy_status().faults, 0U);
  gate_.open();
  ASSERT_OK(engine->wait_restored());
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, memory_that_another_engine_tracks_is_restored_eagerly) {
  Pages memory(kPages);
  Options other = small_options(directory_ / "other");
  other.tracker = Tracker::uffd;
  auto tracking = Engine::open(other);
  if (!tracking && tracking.error().code() == ErrorCode::unsupported) GTEST_SKIP() << tracking.error().message();
  ASSERT_OK(tracking);
  if (const auto tracked = tracking->protect("memory", memory.begin(), memory.bytes()); !tracked)
    GTEST_SKIP() << tracked.error().message();
  auto engine = opened(memory);
  ASSERT_OK(engine->restore("latest", lazily()));
  EXPECT_EQ(engine->lazy_status().lazy_bytes, 0U);
  EXPECT_NE(engine->lazy_status().eager_why.find("userfaultfd"), std::string::npos);
  EXPECT_TRUE(same(memory.span(), expected_));
  ASSERT_OK(take_image(*engine));
  ASSERT_OK(engine->close());
  ASSERT_OK(tracking->close());
}

TEST_F(EngineLazyRestore, long_runs_of_zeros_cost_nothing) {
  const std::size_t pages = 3 * 512;
  Pages memory(pages);
  fill({memory.page(0), Pages::page_bytes()}, 5);
  fill({memory.page(pages - 1), Pages::page_bytes()}, 6);
  const auto expected = copy_of(memory.span());
  auto engine = open_gated(small_options(directory_ / "zeros"), gate_);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes(), {}));
  ASSERT_OK(take_image(*engine));
  fill(memory.span(), 8);
  gate_.shut();
  ASSERT_OK(engine->restore("latest", lazily()));
  EXPECT_EQ(engine->lazy_status().lazy_bytes, 2 * Pages::page_bytes());
  EXPECT_EQ(memory.page(700)[1], std::byte{0});
  EXPECT_EQ(engine->lazy_status().faults, 0U);
  gate_.open();
  ASSERT_OK(engine->wait_restored());
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine->close());
}

TEST_F(EngineLazyRestore, every_tracker_takes_over_afterwards) {
  for (const auto tracker : {Tracker::uffd, Tracker::soft_dirty, Tracker::mprotect, Tracker::hash}) {
    Pages memory(kPages);
    Options wanted = options();
    wanted.tracker = tracker;
    auto probe = Engine::open(wanted);
    if (!probe) continue;  // not on this kernel
    ASSERT_OK(probe->close());
    auto engine = opened(memory, wanted);
    ASSERT_OK(engine->restore("1", lazily()));
    EXPECT_TRUE(right(memory, 77));
    ASSERT_OK(take_image(*engine));
    memory.page(80)[0] ^= std::byte{1};
    const auto changed = copy_of(memory.span());
    const auto ticket = engine->checkpoint({});
    ASSERT_OK(ticket);
    ASSERT_OK(ticket->wait());
    EXPECT_EQ(ticket->wait()->changed_chunks, 1U);
    memory.page(80)[0] ^= std::byte{2};
    ASSERT_OK(engine->restore("latest", lazily()));
    ASSERT_OK(engine->wait_restored());
    EXPECT_TRUE(same(memory.span(), changed));
    ASSERT_OK(engine->close());
  }
}

// --- Other regions

TEST(EngineLazyRestoreRegions, edges_exclusions_and_shared_memory_are_there_at_once) {
  SKIP_WITHOUT_LAZY();
  const TemporaryDirectory directory;
  const std::size_t page = Pages::page_bytes();
  for (const std::uint32_t chunk_bytes : {4096U, 65536U}) {
    Gate gate;
    Options options = small_options(directory / ("store" + std::to_string(chunk_bytes)));
    options.chunk_bytes = chunk_bytes;
    Pages odd(100);
    SharedPages shared(20);
    std::uint64_t step = 12;
    fill(odd.span(), 1);
    fill(shared.span(), 2);
    const std::size_t odd_bytes = odd.bytes() - 16 - 100;
    const auto protect_all = [&](EngineImplementation& engine) {
      ASSERT_OK(engine.protect("odd", odd.begin() + 16, odd_bytes, {}));
      ASSERT_OK(engine.protect("shared", shared.begin(), shared.bytes(), {}));
      ASSERT_OK(engine.protect("step", &step, sizeof step, {}));
      ASSERT_OK(engine.exclude("odd", 30 * page, page + 50));
    };
    {
      auto engine = open_gated(options, gate);
      protect_all(*engine);
      ASSERT_OK(take_image(*engine));
      ASSERT_OK(engine->close());
    }
    auto expected = copy_of(odd.span());
    const auto expected_shared = copy_of(shared.span());
    fill(odd.span(), 3);
    fill(shared.span(), 4);
    step = 0;
    // What is not in the image stays as it is.
    std::memcpy(expected.data(), odd.begin(), 16);
    std::memcpy(expected.data() + odd.bytes() - 100, odd.begin() + odd.bytes() - 100, 100);
    std::memcpy(expected.data() + 16 + 30 * page, odd.begin() + 16 + 30 * page, page + 50);
    auto engine = open_gated(options, gate);
    protect_all(*engine);
    gate.shut();
    ASSERT_OK(engine->restore("latest", lazily()));
    EXPECT_EQ(step, 12U);
    EXPECT_TRUE(same(shared.span(), expected_shared));
    EXPECT_EQ(std::memcmp(odd.begin(), expected.data(), page), 0);
    EXPECT_EQ(std::memcmp(odd.page(30), expected.data() + 30 * page, 2 * page), 0);
    EXPECT_EQ(engine->lazy_status().faults, 0U);
    EXPECT_EQ(engine->lazy_status().lazy_bytes, 96 * page);
    EXPECT_NE(engine->lazy_status().eager_why.find("shared"), std::string::npos);
    gate.open();
    ASSERT_OK(engine->wait_restored());
    EXPECT_TRUE(same(odd.span(), expected));
    ASSERT_OK(take_image(*engine));
    ASSERT_OK(engine->close());
  }
}

TEST(EngineLazyRestoreRegions, another_offset_within_the_page_is_restored_eagerly) {
  SKIP_WITHOUT_LAZY();
  const TemporaryDirectory directory;
  Gate gate;
  Pages memory(40);
  fill(memory.span(), 1);
  const std::size_t bytes = memory.bytes() - 64;
  {
    auto engine = open_gated(small_options(directory / "store"), gate);
    ASSERT_OK(engine->protect("memory", memory.begin() + 16, bytes, {}));
    ASSERT_OK(take_image(*engine));
    ASSERT_OK(engine->close());
  }
  Pages other(40);
  auto engine = open_gated(small_options(directory / "store"), gate);
  ASSERT_OK(engine->protect("memory", other.begin() + 48, bytes, {}));
  ASSERT_OK(engine->restore("latest", lazily()));
  EXPECT_EQ(engine->lazy_status().lazy_bytes, 0U);
  EXPECT_NE(engine->lazy_status().eager_why.find("another offset"), std::string::npos);
  EXPECT_EQ(std::memcmp(other.begin() + 48, memory.begin() + 16, bytes), 0);
  ASSERT_OK(engine->close());
}

}  // namespace
}  // namespace varve::test
