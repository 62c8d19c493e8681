// SPDX-License-Identifier: Apache-2.0
//
// Rollback in the running program, branches, images in flight, back-pressure, several engines, several threads.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/engine_fixture.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

class EngineRollback : public ::testing::Test {
 protected:
  Engine opened(const Options& options) {
    auto engine = Engine::open(options);
    if (!engine) ADD_FAILURE() << engine.error().message();
    return std::move(engine).value();
  }
  Options options() const { return small_options(directory_ / "store"); }

  const TemporaryDirectory directory_;
};

TEST_F(EngineRollback, goes_on_from_the_restored_image_and_keeps_the_branch) {
  Pages memory(16);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  std::vector<std::vector<std::byte>> states(1);
  const auto step = [&](std::uint64_t seed) {
    fill(std::span(memory.page(seed % 15), Pages::page_bytes()), seed);
    states.push_back(copy_of(memory.span()));
    return checkpoint(engine);
  };
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_OK(step(i));
  fill(memory.span(), 100);
  ASSERT_OK(engine.restore("2"));
  EXPECT_TRUE(same(memory.span(), states[2]));
  const auto branch = step(5);
  ASSERT_OK(branch);
  EXPECT_EQ(branch->image, 5U) << "numbers are never reused";
  EXPECT_EQ(branch->parent, 2U);
  EXPECT_EQ(branch->kind, ImageKind::delta);
  EXPECT_EQ(branch->changed_chunks, 1U);
  ASSERT_OK(step(6));
  for (const std::size_t image : {4U, 6U, 3U, 5U, 1U, 6U}) {
    ASSERT_OK(engine.restore(std::to_string(image)));
    EXPECT_TRUE(same(memory.span(), states[image])) << "image " << image;
  }
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, tracking_stays_right_after_a_rollback) {
  Pages memory(64);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  fill(memory.span(), 1);
  for (int i = 0; i < 6; ++i) ASSERT_OK(checkpoint(engine));  // everything has gone cold
  fill(memory.span(), 2);
  ASSERT_OK(checkpoint(engine));
  ASSERT_OK(engine.restore("1"));
  memory.page(9)[1] ^= std::byte{1};  // written after the rollback
  const auto expected = copy_of(memory.span());
  const auto result = checkpoint(engine);
  ASSERT_OK(result);
  fill(memory.span(), 3);
  ASSERT_OK(engine.restore(std::to_string(result->image)));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, a_rollback_leaves_alone_what_is_the_same_in_the_restored_image) {
  Pages memory(256);
  fill(memory.span(), 1);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  for (int i = 0; i < 6; ++i) ASSERT_OK(checkpoint(engine));  // everything has gone cold, where the tracker can tell
  const auto cold = checkpoint(engine);
  ASSERT_OK(cold);
  const auto first = copy_of(memory.span());
  fill(std::span(memory.page(100), 2 * Pages::page_bytes()), 2);  // in the next image
  ASSERT_OK(checkpoint(engine));
  memory.page(200)[7] ^= std::byte{1};  // in none
  ASSERT_OK(engine.restore(std::to_string(cold->image)));
  EXPECT_TRUE(same(memory.span(), first));
  const auto next = checkpoint(engine);
  ASSERT_OK(next);
  EXPECT_EQ(next->changed_chunks, 0U);
  if (cold->suspect_pages == 0 && !engine.choices().tracker.starts_with("mprotect")) {  // that opens the whole region
    EXPECT_LE(next->suspect_pages, 3U) << "what did not differ was written";
  }
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, finishes_images_in_flight_first) {
  Pages memory(512);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  fill(memory.span(), 1);
  const auto first = copy_of(memory.span());
  const auto ticket_one = engine.checkpoint();
  ASSERT_OK(ticket_one);
  fill(memory.span(), 2);
  const auto second = copy_of(memory.span());
  const auto ticket_two = engine.checkpoint();
  ASSERT_OK(ticket_two);
  fill(memory.span(), 3);
  ASSERT_OK(engine.restore("1"));
  EXPECT_TRUE(ticket_one->ready());
  EXPECT_TRUE(ticket_two->ready());
  EXPECT_TRUE(same(memory.span(), first));
  ASSERT_OK(engine.restore("2"));
  EXPECT_TRUE(same(memory.span(), second));
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, each_image_in_flight_holds_its_own_cut) {
  Pages memory(64);
  Options many = options();
  many.images_in_flight = 8;
  Engine engine = opened(many);
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  std::vector<Ticket> tickets;
  std::vector<std::vector<std::byte>> states;
  for (std::uint64_t i = 0; i < 40; ++i) {
    // A page that changes there and back again while images are in flight is the hard case.
    fill(std::span(memory.page(i % 7), Pages::page_bytes()), i % 2);
    memory.page(20)[0] = static_cast<std::byte>(i % 3);
    states.push_back(copy_of(memory.span()));
    auto ticket = engine.checkpoint();
    ASSERT_OK(ticket);
    tickets.push_back(*ticket);
  }
  for (std::size_t i = 0; i < tickets.size(); ++i) {
    const auto result = tickets[i].wait();
    ASSERT_OK(result);
    EXPECT_EQ(result->image, tickets[i].image());
  }
  for (std::size_t i = 0; i < tickets.size(); ++i) {
    ASSERT_OK(engine.restore(std::to_string(tickets[i].image())));
    ASSERT_TRUE(same(memory.span(), states[i])) << "image " << tickets[i].image();
  }
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, sync_returns_when_the_image_is_there) {
  Pages memory(8);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  const auto ticket = engine.checkpoint({.sync = true});
  ASSERT_OK(ticket);
  EXPECT_TRUE(ticket->ready());
  ASSERT_OK(engine.close());
  EXPECT_TRUE(ticket->wait().has_value()) << "a ticket may outlive its engine";
}

TEST_F(EngineRollback, engines_with_different_chains_share_a_store_and_its_chunks) {
  Pages memory(64);
  fill(memory.span(), 1);
  Options one = options();
  Options two = options();
  two.chain = "other";
  Engine second = opened(two);
  ASSERT_OK(second.protect("memory", memory.begin(), memory.bytes()));
  {
    Engine sealed = opened(one);  // what another writer has not sealed may not be durable: it is not referred to
    ASSERT_OK(sealed.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(checkpoint(sealed));
    ASSERT_OK(sealed.close());
  }
  Engine first = opened(one);
  ASSERT_OK(first.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(first.restore("main/1"));
  const auto shared = checkpoint(second);
  ASSERT_OK(shared);
  EXPECT_EQ(shared->new_chunks, 0U) << "the other chain has stored these chunks";
  EXPECT_EQ(shared->deduplicated_chunks, 64U);

  const auto before = copy_of(memory.span());
  fill(std::span(memory.page(3), Pages::page_bytes()), 2);
  ASSERT_OK(checkpoint(second));
  const auto after = copy_of(memory.span());
  ASSERT_OK(checkpoint(first));
  ASSERT_OK(first.restore("1"));
  EXPECT_TRUE(same(memory.span(), before));
  ASSERT_OK(second.restore("2"));
  EXPECT_TRUE(same(memory.span(), after));

  // An image of the other chain: the next one of ours is full.
  ASSERT_OK(first.restore("other/1"));
  EXPECT_TRUE(same(memory.span(), before));
  const auto next = checkpoint(first);
  ASSERT_OK(next);
  EXPECT_EQ(next->kind, ImageKind::full);
  EXPECT_EQ(next->parent, 0U);
  EXPECT_EQ(next->new_chunks, 0U);
  fill(memory.span(), 3);
  ASSERT_OK(first.restore(std::to_string(next->image)));
  EXPECT_TRUE(same(memory.span(), before));
  ASSERT_OK(first.close());
  ASSERT_OK(second.close());
}

TEST_F(EngineRollback, a_second_writer_of_a_chain_is_told_who_holds_it) {
  Engine engine = opened(options());
  const auto refused = Engine::open(options());
  ASSERT_ERROR(ErrorCode::busy, refused);
  EXPECT_NE(refused.error().message().find(std::to_string(getpid())), std::string::npos) << refused.error().message();
  EXPECT_NE(refused.error().message().find("main"), std::string::npos) << refused.error().message();
  ASSERT_OK(engine.close());
  EXPECT_OK(Engine::open(options()));
}

TEST_F(EngineRollback, threads_write_while_images_are_made_and_each_image_holds_its_cut) {
  constexpr std::size_t kThreads = 3;
  constexpr std::size_t kPagesEach = 16;
  Pages memory(kThreads * kPagesEach);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  std::atomic<bool> stop{false};
  // Writers pause for the cut only, through the hooks; what follows the cut races the background writer.
  std::atomic<int> running{0};
  std::atomic<bool> pause{false};
  std::vector<std::thread> writers;
  for (std::size_t t = 0; t < kThreads; ++t)
    writers.emplace_back([&, t] {
      std::uint64_t state = t + 1;
      while (!stop) {
        running.fetch_add(1);
        if (!pause) {
          state = state * 6364136223846793005U + 1442695040888963407U;
          std::memcpy(memory.page(t * kPagesEach + state % kPagesEach) + (state >> 32) % 512 * 8, &state, sizeof state);
        }
        running.fetch_sub(1);
        if (pause) std::this_thread::yield();
      }
    });
  std::vector<std::byte> at_cut;
  Hooks hooks;
  hooks.before_cut = [&] {
    pause = true;
    while (running != 0) std::this_thread::yield();
    at_cut = copy_of(memory.span());
  };
  hooks.after_cut = [&] { pause = false; };
  engine.set_hooks(hooks);
  std::vector<std::vector<std::byte>> states;
  for (int i = 0; i < 30; ++i) {
    EXPECT_OK(engine.checkpoint());
    states.push_back(at_cut);
  }
  stop = true;
  for (auto& writer : writers) writer.join();
  ASSERT_OK(engine.wait());
  for (std::size_t i = 0; i < states.size(); ++i) {
    ASSERT_OK(engine.restore(std::to_string(i + 1)));
    ASSERT_TRUE(same(memory.span(), states[i])) << "image " << i + 1;
  }
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, may_be_called_from_several_threads) {
  Engine engine = opened(options());
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      Pages memory(4);
      const std::string name = "memory-" + std::to_string(t);
      for (int i = 0; i < 10; ++i) {
        EXPECT_OK(engine.protect(name, memory.begin(), memory.bytes()));
        EXPECT_OK(engine.touch(memory.begin(), 1));
        EXPECT_OK(checkpoint(engine));
        EXPECT_TRUE(engine.memory_use().other_bytes > 0);
        EXPECT_FALSE(engine.choices().tracker.empty());
        EXPECT_OK(engine.unprotect(name));
      }
    });
  for (auto& thread : threads) thread.join();
  const auto images = engine.images();
  ASSERT_OK(images);
  EXPECT_EQ(images->size(), 40U);
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, memory_may_be_unmapped_once_it_is_unprotected) {
  Engine engine = opened(options());
  for (int i = 0; i < 20; ++i) {
    Pages memory(64);
    fill(memory.span(), static_cast<std::uint64_t>(i));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(engine.checkpoint());
    ASSERT_OK(engine.checkpoint());
    ASSERT_OK(engine.unprotect("memory"));
  }
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, calls_after_close_and_on_a_moved_engine_are_refused) {
  Pages memory(4);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  Engine moved = std::move(engine);
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.checkpoint());  // NOLINT(bugprone-use-after-move): what it is about
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.close());
  ASSERT_OK(moved.close());
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.checkpoint());
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.protect("other", memory.begin(), 8));
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.unprotect("memory"));
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.restore_if_any());
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.images());
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.wait());
  ASSERT_ERROR(ErrorCode::invalid_argument, moved.close());
}

TEST_F(EngineRollback, refuses_regions_that_make_no_sense) {
  Pages memory(4);
  Engine engine = opened(options());
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.checkpoint());
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("", memory.begin(), 8));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("a b", memory.begin(), 8));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect(std::string(256, 'a'), memory.begin(), 8));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("null", nullptr, 8));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("empty", memory.begin(), 0));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("wraps", memory.begin(), ~std::size_t{0}));
  ASSERT_OK(engine.protect("a", memory.begin(), 100));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("a", memory.page(1), 100));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("b", memory.begin() + 99, 100));
  EXPECT_OK(engine.protect("b", memory.begin() + 100, 100));
  ASSERT_ERROR(ErrorCode::not_found, engine.unprotect("c"));
  ASSERT_ERROR(ErrorCode::not_found, engine.exclude("c", 0, 1));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.exclude("a", 100, 1));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.exclude("a", 99, 2));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.exclude("a", 0, 0));
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.touch(memory.page(2), 1));
  EXPECT_OK(engine.touch(memory.begin(), memory.bytes()));
  ASSERT_EQ(munmap(memory.page(3), Pages::page_bytes()), 0);
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("hole", memory.page(2), 2 * Pages::page_bytes()));
  ASSERT_EQ(mprotect(memory.page(2), Pages::page_bytes(), PROT_NONE), 0);
  ASSERT_ERROR(ErrorCode::invalid_argument, engine.protect("unreadable", memory.page(2), 8));
  ASSERT_OK(engine.close());
}

TEST_F(EngineRollback, refuses_options_that_make_no_sense) {
  const auto refused = [&](auto change) {
    Options bad = options();
    change(bad);
    ASSERT_ERROR(ErrorCode::invalid_argument, Engine::open(bad));
  };
  refused([](Options& bad) { bad.store.clear(); });
  refused([](Options& bad) { bad.chain = "1"; });
  refused([](Options& bad) { bad.chain = "a/b"; });
  refused([](Options& bad) { bad.images_in_flight = 0; });
  refused([](Options& bad) { bad.chunk_bytes = 5000; });
  refused([](Options& bad) { bad.chunk_bytes = 128 * 1024; });
  for (const char* variable : {"VARVE_TRACKER", "VARVE_CAPTURE", "VARVE_IO"}) {
    const char* before = std::getenv(variable);
    const std::string kept = before == nullptr ? "" : before;
    setenv(variable, "nonsense", 1);
    const auto engine = Engine::open(options());
    ASSERT_ERROR(ErrorCode::invalid_argument, engine);
    EXPECT_NE(engine.error().message().find(variable), std::string::npos) << engine.error().message();
    if (before == nullptr)
      unsetenv(variable);
    else
      setenv(variable, kept.c_str(), 1);
  }
}

TEST_F(EngineRollback, larger_chunks_are_widened_to) {
  Pages memory(64);
  fill(memory.span(), 1);
  Options large = options();
  large.chunk_bytes = 16 * 1024;
  Engine engine = opened(large);
  ASSERT_OK(engine.protect("memory", memory.begin() + 8, memory.bytes() - 4096));
  ASSERT_OK(checkpoint(engine));
  for (int i = 0; i < 5; ++i) {
    memory.page(30)[5] ^= std::byte{1};
    const auto expected = copy_of(memory.span().subspan(8, memory.bytes() - 4096));
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    EXPECT_EQ(result->new_chunks + result->deduplicated_chunks, 1U);
    fill(memory.span(), 2);
    ASSERT_OK(engine.restore("latest"));
    EXPECT_TRUE(same(memory.span().subspan(8, memory.bytes() - 4096), expected));
  }
  ASSERT_OK(engine.close());
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) { return varve::test::run_tests_or_child(argc, argv, {}); }
