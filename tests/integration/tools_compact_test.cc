// SPDX-License-Identifier: Apache-2.0
//
// chain-compact, and the commands of `varve` that change a store, run as a user runs them.
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/temporary_directory.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::size_t kGridBytes = 300'000;

std::string path(const TemporaryDirectory& directory) { return directory.path() + "/store"; }

/// What region `grid` holds in an image: a function of its number. A part of it is like in other images.
std::string grid_of(std::uint64_t image) {
  std::string grid(kGridBytes, '\0');
  std::mt19937_64 same(7);
  for (char& byte : grid) byte = static_cast<char>(same());
  std::mt19937_64 own(image);
  const std::size_t begin = image * 40'000 % (kGridBytes - 100'000);
  for (std::size_t i = begin; i < begin + 100'000; ++i) grid[i] = static_cast<char>(own());
  return grid;
}

/// A program that goes on with a chain.
class Program {
 public:
  Program(const std::string& store, const std::string& chain) : memory_(kGridBytes, '\0') {
    Options options;
    options.store = store;
    options.chain = chain;
    options.staging_bytes = std::size_t{8} << 20;
    auto engine = Engine::open(options);
    EXPECT_TRUE(engine.has_value()) << engine.error().message();
    engine_.emplace(std::move(*engine));
    EXPECT_TRUE(engine_->protect("grid", memory_.data(), memory_.size()).has_value());
    EXPECT_TRUE(engine_->restore_if_any().has_value());
    const auto images = engine_->images();
    for (const ImageInfo& image : *images)
      if (image.chain == chain) last_ = image.image;
  }
  /// Returns the image's number.
  std::uint64_t checkpoint() {
    ++last_;
    std::memcpy(memory_.data(), grid_of(last_).data(), kGridBytes);
    CheckpointOptions options;
    options.sync = true;
    const auto ticket = engine_->checkpoint(options);
    EXPECT_TRUE(ticket.has_value()) << ticket.error().message();
    EXPECT_EQ(ticket->image(), last_);
    return last_;
  }
  void close() { EXPECT_TRUE(engine_->close().has_value()); }

 private:
  std::string memory_;
  std::optional<Engine> engine_;
  std::uint64_t last_ = 0;
};

void make_images(const std::string& store, int count) {
  Program program(store, "main");
  for (int i = 0; i < count; ++i) program.checkpoint();
  program.close();
}

Outcome compact(const std::vector<std::string>& arguments) {
  std::vector<std::string> words{built_program("tools/chain-compact")};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_program({words});
}
Outcome varve(const std::vector<std::string>& arguments) {
  std::vector<std::string> words{built_program("tools/varve")};
  words.insert(words.end(), arguments.begin(), arguments.end());
  return run_program({words});
}

std::vector<std::uint64_t> listed(const std::string& store, const std::string& chain = "main") {
  std::vector<std::uint64_t> numbers;
  const json list = json::parse(varve({"list", store, "--json"}).out);
  for (const json& image : list["images"])
    if (image["chain"] == chain) numbers.push_back(image["image"]);
  return numbers;
}

json image(const std::string& store, std::uint64_t number) {
  return json::parse(varve({"show", store, "main/" + std::to_string(number), "--json"}).out);
}

void check_images(const std::string& store) {
  for (const std::uint64_t number : listed(store)) {
    const Outcome exported = varve({"export", store, "main/" + std::to_string(number), "grid"});
    EXPECT_EQ(exported.exit_code, 0) << exported.err;
    EXPECT_TRUE(exported.out == grid_of(number)) << "image " << number;
  }
  EXPECT_EQ(varve({"verify", store, "--deep"}).exit_code, 0);
}

std::uint64_t disk_bytes(const std::string& store) {
  std::uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(store))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

TEST(ChainCompact, ADryRunSaysWhatWouldGoAndChangesNothing) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 10);
  const std::uint64_t before = disk_bytes(store);
  const Outcome text = compact({store, "--keep", "2", "--dry-run"});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("image main/10 would be made full"));
  EXPECT_THAT(text.out, HasSubstr("would be made full, since they build on what goes: 9"));
  EXPECT_THAT(text.out, HasSubstr("images of 'main' would be dropped: 1-8"));
  const Outcome outcome = compact({store, "--keep", "2", "--dry-run", "--json"});
  const json dry = json::parse(outcome.out);
  EXPECT_EQ(dry["dry_run"], true);
  EXPECT_EQ(disk_bytes(store), before);
  EXPECT_EQ(listed(store).size(), 10U);

  const json done = json::parse(compact({store, "--keep", "2", "--json"}).out);
  EXPECT_THAT(listed(store), ElementsAre(9, 10));
  const auto freed = static_cast<double>(before - disk_bytes(store));
  EXPECT_NEAR(dry["chains"][0]["freeable_bytes"].get<double>(), freed, 0.1 * freed) << "as it had said";
  EXPECT_EQ(done["dropped"].size(), 8U);
  EXPECT_EQ(done["compacted"]["image"], 10);
  check_images(store);
}

TEST(ChainCompact, MakesAnImageFullAndKeepsEveryOther) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 6);
  EXPECT_EQ(image(store, 4)["kind"], "delta");
  const Outcome outcome = compact({store, "main", "--image", "4"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("image main/4 made full"));
  EXPECT_EQ(image(store, 4)["kind"], "full");
  EXPECT_EQ(image(store, 4)["ancestry"], json::array({4}));
  EXPECT_EQ(image(store, 6)["ancestry"], json::array({6, 5, 4}));
  EXPECT_EQ(listed(store).size(), 6U);
  check_images(store);
  EXPECT_EQ(compact({store, "main", "--image", "17"}).exit_code, 1);
  EXPECT_EQ(compact({store, "main", "--image", "other/4"}).exit_code, 1);
  EXPECT_EQ(compact({store, "--keep-every", "4"}).exit_code, 2) << "without --keep";
  EXPECT_EQ(compact({store + "-not", "main"}).exit_code, 1);
}

TEST(ChainCompact, KeepsWhatIsMarked) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 24);
  ASSERT_EQ(varve({"pin", store, "5"}).exit_code, 0);
  ASSERT_EQ(varve({"pin", store, "6", "7"}).exit_code, 0);
  ASSERT_EQ(varve({"unpin", store, "7"}).exit_code, 0);
  ASSERT_EQ(varve({"label", store, "13", "before-merge"}).exit_code, 0);
  const Outcome outcome = compact({store, "--keep", "2", "--keep-every", "10"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(listed(store), ElementsAre(1, 5, 6, 11, 13, 21, 23, 24));
  check_images(store);
  // Twice is as good as once.
  const json again = json::parse(compact({store, "--keep", "2", "--keep-every", "10", "--json"}).out);
  EXPECT_TRUE(again["dropped"].empty());
  EXPECT_EQ(again["chains"][0]["bytes_freed"], 0);
  EXPECT_EQ(again["compacted"], nullptr);
}

TEST(ChainCompact, RefusesAChainThatIsNotThereAndNumbersThatAreNone) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 2);
  for (const bool dry_run : {false, true}) {
    std::vector<std::string> words{store, "mian"};
    if (dry_run) words.push_back("--dry-run");
    const Outcome refused = compact(words);
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, HasSubstr("chain 'mian' refused"));
    EXPECT_THAT(refused.err, HasSubstr("it has: main"));
  }
  for (const char* number : {"0", "-1", "4294967296", "many"}) {
    EXPECT_EQ(compact({store, "--keep", number}).exit_code, 2) << number;
    EXPECT_EQ(compact({store, "--keep", "1", "--keep-every", number}).exit_code, 2) << number;
  }
  EXPECT_THAT(listed(store), ElementsAre(1, 2));
}

TEST(ChainCompact, RefusesAChainThatIsBeingWrittenAndLeavesOthersAlone) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 6);
  Program other(store, "other");
  other.checkpoint();
  const std::string pid = "pid " + std::to_string(getpid());
  const Outcome refused = compact({store, "other"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("being written by " + pid));
  EXPECT_THAT(varve({"rm", store, "other/1"}).err, HasSubstr("being written by " + pid));
  EXPECT_THAT(varve({"pin", store, "other/1"}).err, HasSubstr("being written by " + pid));
  const Outcome worked = compact({store, "main", "--keep", "1"});
  ASSERT_EQ(worked.exit_code, 0) << worked.err;
  EXPECT_THAT(worked.out, HasSubstr("chain 'other': left alone: it is being written by " + pid));
  EXPECT_THAT(listed(store), ElementsAre(6));
  other.checkpoint();
  other.close();
  const Outcome later = compact({store, "other", "--keep", "1"});
  EXPECT_EQ(later.exit_code, 0) << later.err;
  EXPECT_THAT(listed(store, "other"), ElementsAre(2));
  check_images(store);
}

TEST(VarveRm, MakesThoseThatBuildOnItFullFirst) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 5);
  const Outcome removed = varve({"rm", store, "3"});
  ASSERT_EQ(removed.exit_code, 0) << removed.err;
  EXPECT_THAT(removed.out, HasSubstr("main/4 was made full: it builds on 3"));
  EXPECT_THAT(listed(store), ElementsAre(1, 2, 4, 5));
  check_images(store);
  const Outcome again = varve({"rm", store, "3"});
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.err, HasSubstr("no image 3"));
  ASSERT_EQ(varve({"pin", store, "2"}).exit_code, 0);
  EXPECT_THAT(varve({"list", store}).out, HasSubstr("(pinned)"));
  const Outcome pinned = varve({"rm", store, "2"});
  EXPECT_EQ(pinned.exit_code, 1);
  EXPECT_THAT(pinned.err, HasSubstr("varve unpin"));
  ASSERT_EQ(compact({store}).exit_code, 0);
  EXPECT_THAT(listed(store), ElementsAre(1, 2, 4, 5));
  check_images(store);
}

TEST(VarveLabel, GivesTakesAndRefusesLabels) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 3);
  ASSERT_EQ(varve({"label", store, "2", "good"}).exit_code, 0);
  EXPECT_EQ(json::parse(varve({"show", store, "good", "--json"}).out)["image"], 2);
  const Outcome taken = varve({"label", store, "3", "good"});
  EXPECT_EQ(taken.exit_code, 1);
  EXPECT_THAT(taken.err, HasSubstr("image 2 has the label 'good'"));
  EXPECT_EQ(varve({"label", store, "3"}).exit_code, 2);
  EXPECT_EQ(varve({"label", store, "3", "12"}).exit_code, 1) << "a number is no label";
  ASSERT_EQ(varve({"label", store, "good", "--none"}).exit_code, 0);
  EXPECT_EQ(varve({"show", store, "good"}).exit_code, 1);
  ASSERT_EQ(varve({"label", store, "3", "good"}).exit_code, 0);
  check_images(store);
}

TEST(ChainCompact, RunsBesideAWriterAndReadersAndIsKilledAgainAndAgain) {
  const TemporaryDirectory directory;
  const std::string store = path(directory);
  make_images(store, 8);
  std::atomic<bool> stop{false};
  std::atomic<int> written{0};
  std::atomic<int> read{0};
  std::thread writer([&] {
    Program other(store, "other");
    while (!stop) {
      other.checkpoint();
      ++written;
    }
    other.close();
  });
  std::thread reader([&] {
    while (!stop) {
      // The images that are there whatever compaction does: the last two of what had been made.
      const auto numbers = listed(store);
      const Outcome exported = varve({"export", store, "main/" + std::to_string(numbers.back()), "grid"});
      if (exported.exit_code != 0) {
        EXPECT_THAT(exported.err, HasSubstr("has no image")) << "it may only have been dropped meanwhile";
        continue;
      }
      EXPECT_TRUE(exported.out == grid_of(numbers.back()));
      ++read;
    }
  });
  std::mt19937 random(1);
  int killed = 0;
  for (int round = 0; round < 24; ++round) {
    std::uint64_t last = 0;
    {
      Program program(store, "main");
      program.checkpoint();
      last = program.checkpoint();
      program.close();
    }
    RunningProgram running({{built_program("tools/chain-compact"), store, "main", "--keep", "2", "--spare", "1%"}});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    killed += running.kill_and_wait().signal == 9 ? 1 : 0;
    const auto numbers = listed(store);
    ASSERT_GE(numbers.size(), 2U);
    EXPECT_EQ(numbers.back(), last);
    EXPECT_EQ(numbers[numbers.size() - 2], last - 1);
  }
  const Outcome whole = compact({store, "main", "--keep", "2"});
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
  EXPECT_EQ(listed(store).size(), 2U);
  stop = true;
  writer.join();
  reader.join();
  EXPECT_GT(killed, 0);
  EXPECT_GT(written, 0);
  EXPECT_GT(read, 0);
  check_images(store);
  ASSERT_EQ(compact({store, "other", "--keep", "1"}).exit_code, 0);
  EXPECT_LT(disk_bytes(store), 6 * kGridBytes);
  check_images(store);
}

}  // namespace
}  // namespace varve::test
