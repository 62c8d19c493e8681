// SPDX-License-Identifier: Apache-2.0
//
// Programs are killed at every fault point of compaction, retention and garbage collection, in the engine and in
// chain-compact's steps, again and again. What is to be kept must restore bit for bit afterwards, what was dropped must
// stay away, and the next run must finish what was begun.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/env.h"
#include "base/fault_point.h"
#include "engine/compaction.h"
#include "engine/retention.h"
#include "storage/collect.h"
#include "storage/verify.h"
#include "tests/integration/engine_fixture.h"

namespace varve::test {
namespace {

constexpr std::size_t kPages = 96;
constexpr std::uint64_t kImages = 14;
constexpr std::uint64_t kKeep = 3;

/// What memory is at the cut of an image: a function of its number.
void write_state(Pages& memory, std::uint64_t image) {
  std::memset(memory.begin(), 0, memory.bytes());
  fill({memory.page(0), 40 * Pages::page_bytes()}, 1);
  for (std::uint64_t i = image < 20 ? 1 : image - 19; i <= image; ++i)
    fill({memory.page((i * 17) % (kPages - 8)), 8 * Pages::page_bytes()}, i);
}

Options workload_options(const std::string& store) {
  Options options = small_options(store);
  options.keep = kKeep;
  return options;
}

/// Goes on with the chain: restores, makes some images whose numbers go to a file, and closes, which drops and
/// collects.
int child_works(const std::vector<std::string>& arguments) {
  const int report = open(arguments.at(1).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  Pages memory(kPages);
  auto engine = Engine::open(workload_options(arguments.at(0)));
  if (!engine || !engine->protect("memory", memory.begin() + 8, memory.bytes() - 16)) return 1;
  const auto restored = engine->restore_if_any();
  if (!restored) return 2;
  std::uint64_t next = 1;
  if (const auto images = engine->images(); *restored && images && !images->empty()) next = images->back().image + 1;
  for (std::uint64_t image = next; image < next + kImages; ++image) {
    write_state(memory, image);
    const auto result = checkpoint(*engine);
    if (!result || result->image != image) return 4;
    const std::string line = std::to_string(image) + "\n";
    if (write(report, line.data(), line.size()) < 0) return 5;
  }
  return engine->close() ? 0 : 7;
}

/// What chain-compact does, over a store that another program has written.
int child_compacts(const std::vector<std::string>& arguments) {
  auto io = storage::open_io(arguments.at(0), {});
  if (!io) return 1;
  auto store = storage::Store::open(std::move(*io), {});
  if (!store) return 2;
  auto writer = (*store)->open_chain("main");
  if (!writer) return 3;
  const auto newest = (*store)->newest_image("main");
  if (!newest) return 4;
  if (!compact_image(**store, **writer, {"main", newest->number})) return 5;
  const auto plan = plan_retention(images_of(**store, "main"), {2, 0}, {}, (*store)->chunk_bytes());
  if (!apply_retention(**store, **writer, "main", plan)) return 6;
  storage::CollectOptions options;
  options.spare = 0;
  options.round_bytes = 1;  // a round for each segment
  if (!storage::make_collector(**store, **writer, options)->run({})) return 7;
  return (*writer)->close() ? 0 : 8;
}

std::uint64_t last_reported(const std::string& path) {
  std::uint64_t last = 0;
  std::ifstream file(path);
  for (std::uint64_t number; file >> number;) last = std::max(last, number);
  return last;
}

/// Every image of the store is what memory was, and the last ones that were reported are there.
void check_store(const std::string& store, std::uint64_t last, std::uint64_t kept, const std::string& when) {
  {
    auto io = storage::open_io(store, {});
    ASSERT_OK(io);
    const auto report = storage::verify(**io, {.deep = true});
    ASSERT_OK(report) << when;
    ASSERT_NE(report->status, storage::VerifyStatus::damage) << report->findings.front().what << ", " << when;
  }
  Pages memory(kPages);
  Pages expected(kPages);
  Options options = workload_options(store);
  options.keep = 0;
  options.chain = "checker";
  auto engine = Engine::open(options);
  ASSERT_OK(engine) << when;
  ASSERT_OK(engine->protect("memory", memory.begin() + 8, memory.bytes() - 16)) << when;
  const auto images = engine->images();
  ASSERT_OK(images) << when;
  std::set<std::uint64_t> listed;
  for (const auto& info : *images) listed.insert(info.image);
  // One more than was reported may be there, so that one less of those before it had to stay.
  const auto newer = static_cast<std::uint64_t>(std::distance(listed.upper_bound(last), listed.end()));
  for (std::uint64_t number = last; number != 0 && newer + (last - number) < kept; --number)
    EXPECT_TRUE(listed.contains(number)) << "image " << number << " is gone, " << when;
  for (const auto number : listed) {
    write_state(expected, number);
    std::memset(memory.begin(), 0x55, memory.bytes());
    ASSERT_OK(engine->restore("main/" + std::to_string(number))) << when;
    EXPECT_EQ(std::memcmp(memory.begin() + 8, expected.begin() + 8, memory.bytes() - 16), 0)
        << "image " << number << " is not what it was, " << when;
  }
  ASSERT_OK(engine->close()) << when;
}

bool is_ours(const std::string& point) {
  return point.starts_with("compaction_") || point.starts_with("collection_") || point == "images_retired";
}

class FaultPoints : public ::testing::TestWithParam<std::string> {};

TEST_P(FaultPoints, what_is_kept_survives_a_kill_in_the_engine) {
  if (!fault_points_enabled()) GTEST_SKIP() << "fault points are compiled out of this build";
  std::size_t kills = 0;
  for (const char* count : {"1", "2"}) {
    const TemporaryDirectory directory;
    const std::string store = directory / "store";
    const std::string report = directory / "durable";
    for (int life = 0; life < 2; ++life) {
      const auto end = run_child("work", {store, report}, {{env::kFault, GetParam() + ":" + count}});
      kills += end.signal == SIGKILL ? 1 : 0;
      ASSERT_TRUE(end.signal == SIGKILL || end.exit_status == 0) << "exit status " << end.exit_status;
      check_store(store, last_reported(report), kKeep,
                  "killed at " + GetParam() + ":" + count + ", life " + std::to_string(life));
    }
    EXPECT_EQ(run_child("work", {store, report}).exit_status, 0);
    const std::uint64_t last = last_reported(report);
    check_store(store, last, kKeep, "after " + GetParam());
    auto engine = Engine::open(small_options(store));
    ASSERT_OK(engine);
    EXPECT_EQ(engine->images()->size(), kKeep) << "what was left over was dropped in the end";
  }
  EXPECT_GT(kills, 0U) << "no child was killed at " << GetParam();
}

TEST_P(FaultPoints, what_is_kept_survives_a_kill_of_chain_compact) {
  if (!fault_points_enabled()) GTEST_SKIP() << "fault points are compiled out of this build";
  std::size_t kills = 0;
  const TemporaryDirectory directory;
  const std::string store = directory / "store";
  const std::string report = directory / "durable";
  for (const char* count : {"1", "2", "3"}) {
    // A writer that is killed before it drops anything, then the compaction, which is killed, too.
    run_child("work", {store, report}, {{env::kFault, "compaction_merged:1"}});
    const auto end = run_child("compact", {store}, {{env::kFault, GetParam() + ":" + count}});
    kills += end.signal == SIGKILL ? 1 : 0;
    ASSERT_TRUE(end.signal == SIGKILL || end.exit_status == 0) << "exit status " << end.exit_status;
    check_store(store, last_reported(report), 2, "killed at " + GetParam() + ":" + count);
  }
  EXPECT_EQ(run_child("compact", {store}).exit_status, 0);
  check_store(store, last_reported(report), 2, "after " + GetParam());
  EXPECT_GT(kills, 0U) << "no child was killed at " << GetParam();
}

INSTANTIATE_TEST_SUITE_P(All, FaultPoints, ::testing::ValuesIn([] {
                           std::vector<std::string> points;
                           for (const char* name : kFaultPoints)
                             if (is_ours(name)) points.emplace_back(name);
                           return points;
                         }()),
                         [](const auto& point) { return point.param; });

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(
      argc, argv, {{"work", varve::test::child_works}, {"compact", varve::test::child_compacts}});
}
