// SPDX-License-Identifier: Apache-2.0
//
// Cuts of programs with many threads: SafePoint. Restores on several threads, and on one.
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/engine_fixture.h"
#include "tests/support/refuse_syscalls.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

using std::chrono::milliseconds;

/// Threads that each raise a counter twice per round, and pass a safe point between rounds: within a round the two
/// differ.
class Counting {
 public:
  struct alignas(64) Pair {
    std::uint64_t first = 0;
    std::uint64_t second = 0;
  };

  Counting(SafePoint& point, std::size_t threads) : pairs_(threads) {
    for (auto& pair : pairs_) {
      threads_.emplace_back([this, &point, &pair] {
        SafePoint::Worker worker(point);
        while (!stop_.load(std::memory_order_relaxed)) {
          ++pair.first;
          std::this_thread::yield();
          ++pair.second;
          worker.pass();
        }
      });
    }
  }
  ~Counting() { stop(); }
  void stop() {
    stop_ = true;
    for (auto& thread : threads_)
      if (thread.joinable()) thread.join();
  }
  std::vector<Pair>& pairs() { return pairs_; }

 private:
  std::atomic<bool> stop_{false};
  std::vector<Pair> pairs_;
  std::vector<std::thread> threads_;
};

std::size_t differing(const std::vector<Counting::Pair>& pairs) {
  std::size_t count = 0;
  for (const auto& pair : pairs) count += pair.first != pair.second ? 1 : 0;
  return count;
}

TEST(EngineThreads, a_cut_sees_every_worker_between_its_rounds) {
  SafePoint point;
  Counting counting(point, 4);
  for (int round = 0; round < 200; ++round) {
    const Status cut = point.cut([&]() -> Status {
      const auto before = counting.pairs().front().first;
      EXPECT_EQ(differing(counting.pairs()), 0U);
      std::this_thread::yield();
      EXPECT_EQ(counting.pairs().front().first, before) << "somebody runs during the cut";
      return {};
    });
    ASSERT_OK(cut);
  }
}

TEST(EngineThreads, images_taken_at_safe_points_show_one_instant) {
  const TemporaryDirectory directory;
  SafePoint point;
  Counting counting(point, 3);
  auto engine = Engine::open(small_options(directory / "store"));
  ASSERT_OK(engine);
  auto& pairs = counting.pairs();
  const std::size_t bytes = pairs.size() * sizeof(Counting::Pair);
  ASSERT_OK(engine->protect("pairs", pairs.data(), bytes));
  std::vector<std::vector<std::byte>> cuts;
  for (int image = 0; image < 10; ++image) {
    ASSERT_OK(point.cut([&]() -> Status {
      cuts.push_back(copy_of({reinterpret_cast<std::byte*>(pairs.data()), bytes}));
      const auto ticket = engine->checkpoint();
      if (!ticket) return ticket.error();
      return {};
    }));
  }
  counting.stop();
  ASSERT_OK(engine->wait());
  for (std::size_t image = 0; image < cuts.size(); ++image) {
    ASSERT_OK(engine->restore(std::to_string(image + 1)));
    EXPECT_EQ(differing(pairs), 0U) << "image " << image + 1;
    EXPECT_TRUE(same({reinterpret_cast<std::byte*>(pairs.data()), bytes}, cuts[image])) << "image " << image + 1;
  }
  ASSERT_OK(engine->close());
}

TEST(EngineThreads, workers_may_cut_themselves_and_take_turns) {
  SafePoint point;
  std::atomic<int> inside{0};
  std::atomic<int> cuts{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      SafePoint::Worker worker(point);
      for (int round = 0; round < 50; ++round) {
        EXPECT_OK(worker.cut([&]() -> Status {
          EXPECT_EQ(inside.fetch_add(1), 0) << "two bodies at once";
          ++cuts;
          inside.fetch_sub(1);
          return {};
        }));
        worker.pass();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(cuts, 200);
}

TEST(EngineThreads, a_worker_that_steps_out_holds_up_no_cut_and_comes_back_after_it) {
  SafePoint point;
  std::atomic<bool> outside{false};
  std::atomic<bool> back{false};
  std::atomic<bool> finish{false};
  std::thread thread([&] {
    SafePoint::Worker worker(point);
    {
      const SafePoint::Outside stepped_out(worker);
      outside = true;
      while (!finish) std::this_thread::yield();  // blocked, as far as a cut can tell
    }
    back = true;
  });
  while (!outside) std::this_thread::yield();
  ASSERT_OK(point.cut([&]() -> Status {
    finish = true;
    std::this_thread::sleep_for(milliseconds(30));
    EXPECT_FALSE(back) << "it came back during the cut";
    return {};
  }));
  thread.join();
  EXPECT_TRUE(back);
}

TEST(EngineThreads, a_cut_that_runs_out_of_patience_says_how_many_are_missing_and_lets_the_others_go) {
  SafePoint point;
  std::atomic<bool> stop{false};
  std::atomic<bool> started{false};
  std::atomic<std::uint64_t> rounds{0};
  std::thread stubborn([&] {
    SafePoint::Worker worker(point);
    started = true;
    while (!stop) std::this_thread::yield();
  });
  std::thread willing([&] {
    SafePoint::Worker worker(point);
    while (!stop) {
      ++rounds;
      worker.pass();
      std::this_thread::yield();
    }
  });
  while (!started || rounds == 0) std::this_thread::yield();
  bool called = false;
  const Status cut = point.cut(
      [&]() -> Status {
        called = true;
        return {};
      },
      milliseconds(1000));
  ASSERT_ERROR(ErrorCode::busy, cut);
  EXPECT_FALSE(called);
  EXPECT_NE(cut.error().message().find("1 of its workers"), std::string::npos) << cut.error().message();
  const auto before = rounds.load();
  while (rounds < before + 10) std::this_thread::yield();
  stop = true;
  stubborn.join();
  willing.join();
  EXPECT_OK(point.cut([]() -> Status { return {}; }));
}

TEST(EngineThreads, the_error_of_the_body_is_the_error_of_the_cut) {
  SafePoint point;
  Counting counting(point, 2);
  const Status cut = point.cut([]() -> Status { return fail(ErrorCode::io, {"the image failed", "a test", "none"}); });
  ASSERT_ERROR(ErrorCode::io, cut);
  EXPECT_OK(point.cut([]() -> Status { return {}; }));
}

Engine open_engine(const std::string& store) {
  auto engine = Engine::open(small_options(store));
  if (!engine) ADD_FAILURE() << engine.error().message();
  return std::move(engine).value();
}

// The first batch has 2^15 chunks, and is read beside the next one.
TEST(EngineRestoreThreads, read_more_chunks_than_are_asked_for_at_once) {
  constexpr std::size_t kPagesOfTwoBatches = 40'000;
  const TemporaryDirectory directory;
  Pages memory(kPagesOfTwoBatches);
  const auto expected = [](std::size_t page) { return static_cast<std::byte>(page * 7 + page / 251); };
  const auto fill_pages = [&] {
    for (std::size_t page = 0; page < kPagesOfTwoBatches; ++page) {
      memory.page(page)[0] = expected(page);
      std::memcpy(&memory.page(page)[8], &page, sizeof page);
    }
  };
  const auto differing = [&] {
    std::size_t pages = 0;
    for (std::size_t page = 0; page < kPagesOfTwoBatches; ++page) {
      std::size_t there = 0;
      std::memcpy(&there, &memory.page(page)[8], sizeof there);
      if (memory.page(page)[0] != expected(page) || there != page) ++pages;
    }
    return pages;
  };
  fill_pages();
  {
    Engine engine = open_engine(directory / "store");
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(checkpoint(engine));
    ASSERT_OK(engine.close());
  }
  std::memset(memory.begin(), 0, memory.bytes());
  {
    Engine engine = open_engine(directory / "store");
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    ASSERT_OK(engine.restore("latest"));
    EXPECT_EQ(differing(), 0U);
    ASSERT_OK(engine.close());
  }
  {  // Where no thread can be started any more, the one that restores does it all.
    Engine engine = open_engine(directory / "store");
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    std::memset(memory.begin(), 0, memory.bytes());
    std::thread([&] {
      ASSERT_TRUE(refuse_syscalls({SYS_clone, SYS_clone3}, EAGAIN));  // of this thread
      ASSERT_OK(engine.restore("latest"));
    }).join();
    EXPECT_EQ(differing(), 0U);
    ASSERT_OK(engine.close());
  }
  // A byte is wrong in a frame of the first batch: that is the error, whatever the others find.
  for (const auto& file : std::filesystem::directory_iterator(directory / "store/segments")) {
    std::fstream segment(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    segment.seekg(100'000);
    const char wrong = static_cast<char>(segment.get() ^ 1);
    segment.seekp(100'000);
    segment.put(wrong);
  }
  Engine engine = open_engine(directory / "store");
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_ERROR(ErrorCode::corruption, engine.restore("latest"));
}

}  // namespace
}  // namespace varve::test
