// SPDX-License-Identifier: Apache-2.0
//
// What the background may take: Options::nice, bytes_per_second.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/integration/engine_fixture.h"

namespace varve {
namespace {

using namespace test;

/// Niceness of this process's threads, by their names: /proc/self/task/TID/stat, field 19 (proc(5)).
std::multimap<std::string, int> niceness_by_name() {
  std::multimap<std::string, int> threads;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string text((std::istreambuf_iterator<char>(file)), {});
    const auto open = text.find('('), close = text.rfind(')');
    if (open == std::string::npos || close == std::string::npos) continue;  // it has ended meanwhile
    std::istringstream fields(text.substr(close + 2));
    std::string skipped;
    for (int field = 3; field < 19; ++field) fields >> skipped;
    int niceness = -100;
    fields >> niceness;
    threads.emplace(text.substr(open + 1, close - open - 1), niceness);
  }
  return threads;
}

std::vector<int> niceness_of(const std::multimap<std::string, int>& threads, const std::string& name) {
  std::vector<int> found;
  for (auto [at, end] = threads.equal_range(name); at != end; ++at) found.push_back(at->second);
  return found;
}

/// A thread that was just started has not said yet what it is: looks again until all have that niceness.
std::multimap<std::string, int> settled_niceness(int wanted) {
  for (int i = 0;; ++i) {
    auto threads = niceness_by_name();
    const bool settled = std::all_of(threads.begin(), threads.end(), [&](const auto& thread) {
      return !thread.first.starts_with("varve-") || thread.second == wanted;
    });
    if (settled || i == 1000) return threads;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

class EngineNice : public ::testing::TestWithParam<IoBackEnd> {};

TEST_P(EngineNice, MakesTheThreadsOfTheBackgroundNicerThanTheProgram) {
  const TemporaryDirectory directory;
  const Pages memory(1024);
  fill(memory.span(), 1);
  Options options = small_options(directory / "store");
  options.nice = 7;
  options.threads = 3;
  options.io = GetParam();
  const int own = getpriority(PRIO_PROCESS, 0);
  const std::string own_name = [] {
    std::ifstream file("/proc/self/comm");
    std::string name;
    std::getline(file, name);
    return name;
  }();
  auto engine = Engine::open(options);
  if (!engine && engine.error().code() == ErrorCode::unsupported) GTEST_SKIP() << engine.error().cause();
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(*engine));

  const int wanted = std::min(own + 7, 19);
  const auto threads = settled_niceness(wanted);
  EXPECT_EQ(niceness_of(threads, "varve-writer"), std::vector<int>{wanted});
  const auto workers = niceness_of(threads, "varve-io");
  EXPECT_GE(workers.size(), GetParam() == IoBackEnd::posix ? 2U : 1U) << "compressing, and for posix writing";
  for (const int niceness : workers) EXPECT_EQ(niceness, wanted);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), own);
  for (const int niceness : niceness_of(threads, own_name)) EXPECT_EQ(niceness, own);
  ASSERT_OK(engine->close());
}

INSTANTIATE_TEST_SUITE_P(Io, EngineNice, ::testing::Values(IoBackEnd::uring, IoBackEnd::posix),
                         [](const auto& tested) { return tested.param == IoBackEnd::uring ? "uring" : "posix"; });

TEST(EngineNiceDefault, LeavesThreadsAsTheProgramIs) {
  const TemporaryDirectory directory;
  const Pages memory(64);
  fill(memory.span(), 1);
  auto engine = Engine::open(small_options(directory / "store"));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(*engine));
  for (const auto& [name, niceness] : niceness_by_name())
    if (name.starts_with("varve-")) {
      EXPECT_EQ(niceness, getpriority(PRIO_PROCESS, 0)) << name;
    }
  ASSERT_OK(engine->close());
}

TEST(EngineRate, BoundsWhatIsWrittenAndSaysHowLongItWaited) {
  const TemporaryDirectory directory;
  const Pages memory(512);
  Options options = small_options(directory / "store");
  options.bytes_per_second = std::uint64_t{8} << 20;
  auto engine = Engine::open(options);
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  std::uint64_t written = 0, waited_ns = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 2; ++i) {
    fill(memory.span(), static_cast<std::uint64_t>(i) + 1);
    const auto image = checkpoint(*engine);
    ASSERT_OK(image);
    written += image->written_bytes;
    waited_ns += image->paced_ns;
    EXPECT_LE(image->paced_ns, image->durable_ns);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ASSERT_GE(written, std::uint64_t{4} << 20);
  // All but the burst (a twentieth of a second's worth) and the write that goes before it is paid for (512 KiB).
  const double bound = static_cast<double>(options.bytes_per_second);
  EXPECT_GE(seconds, (static_cast<double>(written) - bound / 20 - (512 << 10)) / bound);
  EXPECT_GT(waited_ns, 0U);
  ASSERT_OK(engine->close());

  auto unbounded = Engine::open(small_options(directory / "another"));
  ASSERT_OK(unbounded);
  ASSERT_OK(unbounded->protect("memory", memory.begin(), memory.bytes()));
  const auto image = checkpoint(*unbounded);
  ASSERT_OK(image);
  EXPECT_EQ(image->paced_ns, 0U);
}

TEST(EngineRate, AnEngineThatIsDestroyedDropsWithoutWaitingForIt) {
  const TemporaryDirectory directory;
  const Pages memory(2048);
  fill(memory.span(), 1);
  Options options = small_options(directory / "store");
  options.bytes_per_second = 65536;  // two minutes for all of it
  std::optional<Ticket> ticket;
  {
    auto engine = Engine::open(options);
    ASSERT_OK(engine);
    ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
    const auto taken = engine->checkpoint();
    ASSERT_OK(taken);
    ticket = *taken;
    EXPECT_FALSE(ticket->ready());
  }
  ASSERT_TRUE(ticket->ready());
  EXPECT_FALSE(ticket->wait().has_value());
  auto engine = Engine::open(small_options(directory / "store"));
  ASSERT_OK(engine);
  ASSERT_OK(engine->protect("memory", memory.begin(), memory.bytes()));
  const auto restored = engine->restore_if_any();
  ASSERT_OK(restored);
  EXPECT_FALSE(*restored) << "the image was dropped whole";
}

TEST(EngineOptions, OfTheBackgroundAreCheckedByName) {
  const TemporaryDirectory directory;
  for (const int nice : {-1, 20}) {
    Options options = small_options(directory / "store");
    options.nice = nice;
    const auto engine = Engine::open(options);
    ASSERT_ERROR(ErrorCode::invalid_argument, engine);
    EXPECT_NE(engine.error().message().find("Options::nice"), std::string::npos) << engine.error().message();
  }
  Options contradictory = small_options(directory / "store");
  contradictory.compress = false;
  contradictory.favour_size = true;
  ASSERT_ERROR(ErrorCode::invalid_argument, Engine::open(contradictory));
  Options options = small_options(directory / "store");
  options.bytes_per_second = 65535;
  const auto engine = Engine::open(options);
  ASSERT_ERROR(ErrorCode::invalid_argument, engine);
  EXPECT_NE(engine.error().message().find("Options::bytes_per_second is 65535"), std::string::npos)
      << engine.error().message();
  EXPECT_FALSE(std::filesystem::exists(directory / "store"));
}

}  // namespace
}  // namespace varve
