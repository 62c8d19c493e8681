// SPDX-License-Identifier: Apache-2.0
//
// A program is killed at every fault point of the whole write path and of restore, and started again. Each image that
// it had reported durable must restore bit for bit; what else is listed must be right, too.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/env.h"
#include "base/fault_point.h"
#include "tests/integration/engine_fixture.h"

namespace varve::test {
namespace {

constexpr std::size_t kPages = 96;
constexpr std::uint64_t kImages = 6;

/// What memory is at the cut of an image: a function of its number.
void write_state(Pages& memory, std::uint64_t image) {
  for (std::uint64_t i = 1; i <= image; ++i) {
    fill(std::span(memory.page((i * 17) % (kPages - 24)), 24 * Pages::page_bytes()), i);
    memory.page(i)[i] ^= std::byte{1};
    if (i % 3 == 0) std::memset(memory.page(40), 0, 4 * Pages::page_bytes());
  }
}

Options workload_options(const std::string& store) {
  Options options = small_options(store);
  options.full_every = 4;
  return options;
}

/// Arguments: store, file to which the numbers of durable images go. Opens, restores if there is an image, makes some
/// more, rolls back once, closes, and opens once more, so that recovery of a clean store is passed through as well.
int child_works(const std::vector<std::string>& arguments) {
  const int report = open(arguments.at(1).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  Pages memory(kPages);
  auto engine = Engine::open(workload_options(arguments.at(0)));
  if (!engine || !engine->protect("memory", memory.begin() + 8, memory.bytes() - 16)) return 1;
  const auto restored = engine->restore_if_any();
  if (!restored) return 2;
  std::uint64_t next = 1;
  if (*restored) {
    const auto images = engine->images();
    if (!images || images->empty()) return 3;
    next = images->back().image + 1;
  }
  for (std::uint64_t image = next; image < next + kImages; ++image) {
    std::memset(memory.begin(), 0, memory.bytes());
    write_state(memory, image);
    const auto result = checkpoint(*engine);
    if (!result || result->image != image) return 4;
    const std::string line = std::to_string(image) + "\n";
    if (write(report, line.data(), line.size()) < 0) return 5;
  }
  if (!engine->restore(std::to_string(next))) return 6;
  return engine->close() ? 0 : 7;
}

std::vector<std::uint64_t> reported(const std::string& path) {
  std::vector<std::uint64_t> numbers;
  std::ifstream file(path);
  for (std::uint64_t number; file >> number;) numbers.push_back(number);
  return numbers;
}

/// Every image of the store is what memory was, and those that were reported are there.
void check_store(const std::string& store, const std::vector<std::uint64_t>& durable, const std::string& when) {
  Pages memory(kPages);
  Pages expected(kPages);
  auto engine = Engine::open(workload_options(store));
  ASSERT_OK(engine) << when;
  ASSERT_OK(engine->protect("memory", memory.begin() + 8, memory.bytes() - 16)) << when;
  const auto images = engine->images();
  ASSERT_OK(images) << when;
  std::set<std::uint64_t> listed;
  for (const auto& info : *images) listed.insert(info.image);
  for (const auto number : durable) EXPECT_TRUE(listed.contains(number)) << "image " << number << " is gone, " << when;
  for (const auto number : listed) {
    std::memset(expected.begin(), 0, expected.bytes());
    write_state(expected, number);
    std::memset(memory.begin(), 0x55, memory.bytes());
    ASSERT_OK(engine->restore(std::to_string(number))) << when;
    EXPECT_EQ(std::memcmp(memory.begin() + 8, expected.begin() + 8, memory.bytes() - 16), 0)
        << "image " << number << " is not what it was, " << when;
  }
  ASSERT_OK(engine->close()) << when;
}

/// Recovery is passed only where a life before ended within a write.
bool needs_unfinished_tail(const std::string& point) { return point.starts_with("recovery_"); }

/// Those have a test of their own: compaction_fault_point_test.
bool of_compaction(const std::string& point) {
  return point.starts_with("compaction_") || point.starts_with("collection_") || point == "images_retired";
}

class FaultPoints : public ::testing::TestWithParam<std::string> {};

TEST_P(FaultPoints, images_that_were_durable_survive_a_kill) {
  if (!fault_points_enabled()) GTEST_SKIP() << "fault points are compiled out of this build";
  const std::string point = GetParam();
  std::size_t kills = 0;
  // The first and a later passing; each life goes on from where the one before was killed.
  for (const char* count : {"1", "4"}) {
    const TemporaryDirectory directory;
    const std::string store = directory / "store";
    const std::string report = directory / "durable";
    if (needs_unfinished_tail(point)) {
      EXPECT_EQ(run_child("work", {store, report}, {{env::kFault, "image_before_sync:3"}}).signal, SIGKILL);
    }
    for (int life = 0; life < 2; ++life) {
      const auto end = run_child("work", {store, report}, {{env::kFault, point + ":" + count}});
      const std::string when = "killed at " + point + ":" + count + ", life " + std::to_string(life);
      kills += end.signal == SIGKILL ? 1 : 0;
      ASSERT_TRUE(end.signal == SIGKILL || end.exit_status == 0) << when << ": exit status " << end.exit_status;
    }
    check_store(store, reported(report), "killed at " + point + ":" + count);
    // And it goes on from there, undisturbed.
    const auto end = run_child("work", {store, report});
    EXPECT_EQ(end.exit_status, 0) << "after " << point << ":" << count;
    check_store(store, reported(report), "in the life after " + point + ":" + count);
  }
  EXPECT_GT(kills, 0U) << "no child was killed at " << point;
}

INSTANTIATE_TEST_SUITE_P(All, FaultPoints, ::testing::ValuesIn([] {
                           std::vector<std::string> points;
                           for (const std::string name : kFaultPoints)
                             if (!of_compaction(name)) points.push_back(name);
                           return points;
                         }()),
                         [](const auto& point) { return point.param; });

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(argc, argv, {{"work", varve::test::child_works}});
}
