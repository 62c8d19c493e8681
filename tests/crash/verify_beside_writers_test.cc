// SPDX-License-Identifier: Apache-2.0
//
// Readers beside writers that are killed and restarted all the time: three processes write a chain each, one of them
// with retention and garbage collection, and SIGKILL ends them at any instant. Meanwhile verify() is called again and
// again, and the newest images are restored: nothing is damaged, so nothing may be reported as damaged, and what is
// restored must be right.
#include <signal.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/try.h"
#include "storage/store.h"
#include "storage/verify.h"
#include "tests/integration/engine_fixture.h"
#include "tests/support/program.h"
#include "tests/support/store_shadow.h"

namespace varve::test {
namespace {

using storage::VerifyStatus;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPages = 24;
constexpr auto kDuration = std::chrono::seconds(8);

/// What memory holds at a step: one page changes at each, and the same steps of all chains have chunks in common.
std::vector<std::byte> state_at(std::uint64_t step) {
  std::vector<std::byte> memory;
  for (std::uint64_t page = 0; page < kPages; ++page) {
    const std::uint64_t written = step < page ? 0 : step - (step - page) % kPages;
    const auto content = random_bytes(kPage, written * 1000 + page);
    memory.insert(memory.end(), content.begin(), content.end());
  }
  std::memcpy(memory.data(), &step, sizeof step);
  return memory;
}

std::uint64_t step_of(std::span<const std::byte> memory) {
  std::uint64_t step = 0;
  std::memcpy(&step, memory.data(), sizeof step);
  return step;
}

ShadowMemory as_shadow(std::vector<std::byte> memory) { return {{"memory", {std::move(memory), 0, 8}}}; }

storage::StoreOptions small_segments() {
  storage::StoreOptions options;
  options.segment_bytes = 64 << 10;
  options.preallocate_bytes = 256 << 10;
  return options;
}

Result<std::unique_ptr<storage::Store>> open_store(const std::string& path) {
  VARVE_TRY_ASSIGN(auto io, storage::open_io(path, {}));
  return storage::Store::open(std::move(io), small_segments());
}

/// Opens the chain, writes some images, closes it.
Status write_some(const std::string& path, const std::string& chain) {
  VARVE_TRY_ASSIGN(const auto store, open_store(path));
  VARVE_TRY_ASSIGN(const auto writer, store->open_chain(chain));
  std::uint64_t parent = 0;
  std::uint64_t step = 0;
  ShadowMemory before;
  if (const auto newest = store->newest_image(chain)) {
    parent = newest->number;
    VARVE_TRY_ASSIGN(before, restore(*store, chain, parent));
    step = step_of(before["memory"].content);
  } else if (newest.error().code() != ErrorCode::not_found) {
    return newest.error();
  }
  for (int i = 0; i < 20; ++i) {
    const ShadowMemory memory = as_shadow(state_at(++step));
    const bool full = parent == 0 || i % 8 == 5;
    const std::uint64_t number = writer->next_number();
    VARVE_TRY(checkpoint(*store, *writer, chain, number, memory, full ? nullptr : &before, parent));
    before = memory;
    parent = number;
  }
  return writer->close();
}

/// The same by an engine that keeps few images.
Status run_some(const std::string& path, const std::string& chain) {
  Options options = small_options(path);
  options.chain = chain;
  options.keep = 3;
  VARVE_TRY_ASSIGN(auto engine, Engine::open(options));
  std::vector<std::byte> memory = state_at(0);
  VARVE_TRY(engine.protect("memory", memory.data(), memory.size()));
  VARVE_TRY(engine.restore_if_any());
  for (int i = 0; i < 30; ++i) {
    const auto next = state_at(step_of(memory) + 1);
    std::memcpy(memory.data(), next.data(), next.size());
    VARVE_TRY(checkpoint(engine));
  }
  return engine.close();
}

int child_writes(const std::vector<std::string>& words) {
  for (;;) {
    const Status written = words[2] == "engine" ? run_some(words[0], words[1]) : write_some(words[0], words[1]);
    if (written || written.error().code() == ErrorCode::busy) continue;
    std::printf("%s\n", written.error().message().c_str());
    std::fflush(stdout);
    return 1;
  }
}

class Writer {
 public:
  Writer(const std::string& store, const std::string& chain, const std::string& kind)
      : words_({"/proc/self/exe", "--child", "write", store, chain, kind}) {
    start();
  }
  /// What it said of its own accord, which is always an error.
  std::string kill_and_restart() {
    const Outcome outcome = program_->kill_and_wait();
    start();
    return outcome.out;
  }

 private:
  void start() { program_ = std::make_unique<RunningProgram>(Invocation{.words = words_}); }
  std::vector<std::string> words_;
  std::unique_ptr<RunningProgram> program_;
};

std::string describe(const storage::VerifyReport& report) {
  std::string text;
  for (const auto& finding : report.findings)
    text += finding.file + " at " + std::to_string(finding.offset) + " " + finding.image + ": " + finding.what + "\n";
  return text;
}

/// `bytes_per_second` 0: as fast as it goes. A slow one sees more of what writers do within one run.
void verify_until(const std::string& store, const std::atomic<bool>& stop, std::uint64_t bytes_per_second,
                  std::uint64_t& runs) {
  while (!stop && !testing::Test::HasFailure()) {
    auto io = storage::open_io(store, {});
    ASSERT_OK(io);
    storage::Pace pace({.bytes_per_second = bytes_per_second});
    const auto report = storage::verify(**io, {.deep = runs % 4 == 0, .pace = bytes_per_second == 0 ? nullptr : &pace});
    ASSERT_OK(report);
    EXPECT_NE(report->status, VerifyStatus::damage) << describe(*report);
    ++runs;
  }
}

void restore_until(const std::string& path, const std::atomic<bool>& stop, std::uint64_t& restored) {
  while (!stop && !testing::Test::HasFailure()) {
    const auto store = open_store(path);
    ASSERT_OK(store);
    const auto held = (*store)->hold();
    ASSERT_OK(held);
    ASSERT_OK((*store)->refresh());
    for (const char* chain : {"a", "b", "kept"}) {
      const auto newest = (*store)->newest_image(chain);
      if (!newest && newest.error().code() == ErrorCode::not_found) continue;
      ASSERT_OK(newest);
      auto memory = restore(**store, chain, newest->number);
      ASSERT_TRUE(memory.has_value()) << chain << "/" << newest->number << ": " << memory.error().message();
      const auto& content = memory->at("memory").content;
      EXPECT_TRUE(same(content, state_at(step_of(content)))) << chain << "/" << newest->number;
      ++restored;
    }
  }
}

TEST(VerifyBesideWriters, Nothing_is_reported_as_damaged_while_writers_are_killed_and_restarted) {
  const TemporaryDirectory directory;
  const std::string store = directory / "store";
  ASSERT_OK(open_store(store));
  std::vector<std::unique_ptr<Writer>> writers;
  writers.push_back(std::make_unique<Writer>(store, "a", "plain"));
  writers.push_back(std::make_unique<Writer>(store, "b", "plain"));
  writers.push_back(std::make_unique<Writer>(store, "kept", "engine"));
  std::atomic<bool> stop{false};
  std::uint64_t runs = 0;
  std::uint64_t slow_runs = 0;
  std::uint64_t restored = 0;
  std::thread verifier([&] { verify_until(store, stop, 0, runs); });
  std::thread slow_verifier([&] { verify_until(store, stop, std::uint64_t{64} << 20, slow_runs); });
  std::thread reader([&] { restore_until(store, stop, restored); });
  std::mt19937 random(static_cast<unsigned>(testing::UnitTest::GetInstance()->random_seed()));
  std::uint64_t kills = 0;
  for (const auto end = Clock::now() + kDuration; Clock::now() < end && !HasFailure(); ++kills) {
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 120));
    EXPECT_EQ(writers[random() % writers.size()]->kill_and_restart(), "");
  }
  stop = true;
  verifier.join();
  slow_verifier.join();
  reader.join();
  writers.clear();
  RecordProperty("kills", static_cast<int>(kills));
  RecordProperty("verifications", static_cast<int>(runs));
  RecordProperty("restored", static_cast<int>(restored));
  std::printf("%llu kills, %llu and %llu verifications, %llu images restored\n", static_cast<unsigned long long>(kills),
              static_cast<unsigned long long>(runs), static_cast<unsigned long long>(slow_runs),
              static_cast<unsigned long long>(restored));
  EXPECT_GT(runs, 0U);
  EXPECT_GT(slow_runs, 0U);
  EXPECT_GT(restored, 0U);
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(argc, argv, {{"write", varve::test::child_writes}});
}
