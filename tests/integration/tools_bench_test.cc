// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench, run small: that it measures what it says, in the form that it says, and leaves nothing behind. No figure
// is judged here.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/temporary_directory.h"

namespace varve::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class ToolsBench : public testing::Test {
 protected:
  Outcome bench(std::vector<std::string> words) {
    words.insert(words.begin(), built_program("tools/ckpt-bench"));
    words.insert(words.end(), {"--store", store_});
    return run_program({.words = std::move(words)});
  }
  json bench_json(std::vector<std::string> words) {
    words.push_back("--json");
    const Outcome outcome = bench(words);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_TRUE(json::accept(outcome.out)) << outcome.out;
    return json::parse(outcome.out, nullptr, false);
  }

  TemporaryDirectory directory_;
  const std::string store_ = directory_ / "bench";
};

TEST_F(ToolsBench, StallGivesTheRowThatScriptsRead) {
  const auto result = bench_json({"stall", "--size", "16MiB", "--dirty", "5%", "--pattern", "contiguous",
                                  "--repeat-pages", "--epochs", "6", "--full-writes", "2"});
  ASSERT_EQ(result.at("rows").size(), 1u);
  const auto& row = result.at("rows")[0];
  for (const char* key : {"median", "p99", "max"}) EXPECT_GT(row.at("stall_ns").at(key), 0) << key;
  EXPECT_EQ(row.at("stall_ns").at("count"), 6);
  EXPECT_GT(row.at("floor_ns"), 0);
  EXPECT_GT(row.at("full_write_ns"), 0);
  EXPECT_TRUE(row.at("slowdown").is_number());
  EXPECT_GT(row.at("durable_ns").at("median"), 0);
  EXPECT_GE(row.at("changed_chunks").at("median"), 205) << "5 % of 4096 pages are really changed";
  EXPECT_GE(row.at("suspect_pages").at("median"), row.at("changed_chunks").at("median"));
  EXPECT_GE(row.at("written_bytes").at("median"), 205 * 4096) << "random data does not compress";
  EXPECT_EQ(row.at("memory").at("protected_bytes"), 16 << 20);
  EXPECT_TRUE(row.at("memory").at("other_share").is_number());
  EXPECT_GT(row.at("images_in_store"), 6);
  for (const char* key :
       {"kernel", "processor", "commit", "store_file_system", "transparent_huge_pages", "command_line"})
    EXPECT_FALSE(result.at("header").at(key).get<std::string>().empty()) << key;
  EXPECT_FALSE(fs::exists(store_)) << "the directory was left behind";
}

TEST_F(ToolsBench, TheStoreIsMadeAnewBeforeItGrowsBeyondItsBound) {
  const auto result = bench_json({"stall", "--size", "8MiB", "--dirty", "100%", "--epochs", "6", "--max-store", "40MiB",
                                  "--warm-up", "0", "--full-writes", "0"});
  const auto& row = result.at("rows")[0];
  EXPECT_EQ(row.at("stall_ns").at("count"), 6);
  EXPECT_GT(row.at("stores"), 1);
  EXPECT_LE(row.at("store_bytes_after_close"), 40 << 20);
}

TEST_F(ToolsBench, MatrixHasARowForEachCombinationOrSaysWhyNot) {
  const auto result =
      bench_json({"matrix", "--size", "8MiB", "--dirty", "0%,10%", "--pattern", "scattered", "--pages", "repeat",
                  "--tracker", "auto,uffd,hash", "--capture", "copy", "--epochs", "2", "--full-writes", "1"});
  EXPECT_EQ(result.at("rows").size() + result.at("skipped").size(), 6u);
  for (const auto& row : result.at("rows")) EXPECT_EQ(row.at("wanted").at("capture"), "copy");
  for (const auto& one : result.at("skipped")) EXPECT_FALSE(one.at("reason").get<std::string>().empty());
}

TEST_F(ToolsBench, ThroughputStandsBesideTheDiskAlone) {
  const auto result = bench_json({"throughput", "--size", "16MiB", "--data", "random,particles", "--repetitions", "2"});
  ASSERT_EQ(result.at("rows").size(), 2u);
  for (const auto& row : result.at("rows")) {
    EXPECT_GT(row.at("bytes_per_second"), 0);
    EXPECT_GT(row.at("disk_bytes_per_second"), 0);
  }
  EXPECT_GE(result.at("rows")[0].at("written_bytes").at("median"), 16 << 20);
  EXPECT_LT(result.at("rows")[1].at("written_bytes").at("median"), 16 << 20) << "particles are doubles that compress";
}

TEST_F(ToolsBench, RestoreComparesWhatCameBack) {
  const auto result =
      bench_json({"restore", "--size", "16MiB", "--data", "heap", "--deltas", "3", "--repetitions", "2"});
  const auto& row = result.at("rows")[0];
  EXPECT_GT(row.at("bytes_per_second"), 0);
  EXPECT_GT(row.at("disk_bytes_per_second"), 0);
  EXPECT_EQ(row.at("restore_ns").at("count"), 2);
  EXPECT_EQ(row.at("deltas"), 3);
}

TEST_F(ToolsBench, RetentionStandsBesideAFreshStoreOfTheSameImages) {
  const auto result = bench_json(
      {"retention", "--size", "1MiB", "--dirty", "5%", "--checkpoints", "120", "--retain", "4", "--repetitions", "2"});
  ASSERT_EQ(result.at("rows").size(), 2u);
  for (const auto& row : result.at("rows")) {
    EXPECT_EQ(row.at("failures"), 0) << row.at("last_failure");
    EXPECT_EQ(row.at("images_dropped"), 116);
    EXPECT_GT(row.at("needed_bytes"), 1 << 20);
    EXPECT_GE(row.at("disk_over_needed"), 0.5);
    EXPECT_LT(row.at("disk_over_needed"), 2) << "garbage stayed";
    EXPECT_GE(row.at("written_bytes"), 119 * 13 * 4096 + (1 << 20));
    EXPECT_GE(row.at("peak_segment_bytes"), 1 << 20);
    EXPECT_GT(row.at("bytes_freed"), 0);
    EXPECT_TRUE(row.at("rewritten_per_freed").is_number());
    EXPECT_EQ(row.at("stall_ns").at("count"), 120);
    EXPECT_EQ(row.at("restore_ns").at("count"), 2);
    EXPECT_EQ(row.at("restore_full_ns").at("count"), 2);
    EXPECT_GT(row.at("restore_over_full"), 0);
  }
  EXPECT_FALSE(fs::exists(store_)) << "the directory was left behind";
}

TEST_F(ToolsBench, ScaleOpensAStoreAfterACloseAndAfterKills) {
  const auto result = bench_json(
      {"scale", "--size", "2MiB", "--dirty", "10%", "--images", "12", "--tails", "1,3", "--repetitions", "2"});
  EXPECT_EQ(result.at("header").at("images"), 12);
  EXPECT_EQ(result.at("header").at("indexed_chunks"), 512 + (11 + 1 + 3) * 51) << "each image has its pages anew";
  EXPECT_LE(result.at("header").at("index_bytes_per_chunk"), 40);
  ASSERT_EQ(result.at("rows").size(), 3u);
  const std::vector<unsigned> tails = {0, 1, 3};
  for (std::size_t i = 0; i < tails.size(); ++i) {
    const auto& row = result.at("rows")[i];
    EXPECT_EQ(row.at("tail_images"), tails[i]);
    EXPECT_GE(row.at("tail_bytes"), tails[i] * 51 * 4096);
    EXPECT_EQ(row.at("open_ns").at("count"), 2);
    EXPECT_GT(row.at("open_to_write_ns").at("median"), 0);
  }
  EXPECT_FALSE(fs::exists(store_)) << "the directory was left behind";
}

TEST_F(ToolsBench, WhatIsNotItsOwnIsNeverTouched) {
  fs::create_directory(store_);
  std::ofstream(store_ + "/thesis.txt") << "years of work";
  const Outcome outcome = bench({"stall", "--size", "1MiB"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("not empty"));
  EXPECT_TRUE(fs::exists(store_ + "/thesis.txt"));
}

TEST_F(ToolsBench, WrongOptionsExitWith2) {
  for (const auto& words : std::vector<std::vector<std::string>>{{"stall", "--size", "huge"},
                                                                 {"stall", "--dirty", "200%"},
                                                                 {"stall", "--pattern", "polka"},
                                                                 {"stall", "--tracker", "polka"},
                                                                 {"throughput", "--data", "polka"},
                                                                 {"polka"}}) {
    const Outcome outcome = bench(words);
    EXPECT_EQ(outcome.exit_code, 2) << words.back() << outcome.out;
    EXPECT_THAT(outcome.err, HasSubstr("--help"));
  }
  EXPECT_FALSE(fs::exists(store_));
}

TEST_F(ToolsBench, TheTableForPeopleHasHeaderAndFigures) {
  const Outcome outcome = bench({"stall", "--size", "4MiB", "--epochs", "2", "--full-writes", "1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* text : {"commit", "Linux", "WORKLOAD", "STALL", "FLOOR", "memory"})
    EXPECT_THAT(outcome.out, HasSubstr(text));
}

}  // namespace
}  // namespace varve::test
