// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench, run small: that it measures what it says, in the form that it says, and leaves nothing behind. No figure
// is judged here.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/report_page.h"
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

TEST_F(ToolsBench, AStoreThatWouldOutgrowItsBoundIsNotMade) {
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"compare"}, {"throughput"}, {"restore"}, {"phases"}, {"retention"}, {"scale"}, {"all", "--quick"}}) {
    auto bounded = words;
    bounded.insert(bounded.end(), {"--size", "8MiB", "--max-store", "8MiB"});
    const Outcome outcome = bench(bounded);
    EXPECT_EQ(outcome.exit_code, 1) << words[0] << outcome.out;
    EXPECT_THAT(outcome.err, testing::AllOf(HasSubstr("--max-store"), HasSubstr("takes up to"))) << words[0];
    EXPECT_FALSE(fs::exists(store_)) << words[0];
  }
}

TEST_F(ToolsBench, ComparisonsTakeNoMoreDiskThanTheySay) {
  // A full image and six deltas of everything, none of which compresses.
  bench_json({"compare", "--size", "8MiB", "--dirty", "100%", "--data", "random", "--repetitions", "1", "--max-store",
              "61MiB", "--keep"});
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(store_ + "/store"))
    if (entry.is_regular_file()) bytes += entry.file_size();
  EXPECT_GT(bytes, 56u << 20);
  EXPECT_LE(bytes, 61u << 20);
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
    EXPECT_GT(row.at("lz4_bytes_per_second"), 0);
    EXPECT_GT(row.at("rate_over_limit"), 0);
  }
  EXPECT_EQ(result.at("rows")[0].at("lz4_ratio"), 1);
  EXPECT_GE(result.at("rows")[0].at("written_bytes").at("median"), 16 << 20);
  // Whether doubles are compressed depends on the disk's speed and the processors' load.
  EXPECT_GT(result.at("rows")[1].at("written_bytes").at("median"), 1 << 20);
}

TEST_F(ToolsBench, TheSmallestImagesStoreWhatChangesInAPageOnly) {
  const auto result = bench_json({"stall", "--size", "8MiB", "--workload", "key-value", "--dirty", "10%", "--epochs",
                                  "4", "--full-writes", "0", "--favour-size"});
  EXPECT_EQ(result.at("header").at("favour_size"), true);
  const auto& row = result.at("rows")[0];
  // One entry in four of a page is another: LZ4 alone leaves more than half of it.
  EXPECT_LT(row.at("written_bytes").at("median").get<double>(), 0.5 * row.at("raw_bytes").at("median").get<double>());
}

TEST_F(ToolsBench, RestoreComparesWhatCameBack) {
  const auto result =
      bench_json({"restore", "--size", "16MiB", "--data", "heap", "--deltas", "3", "--repetitions", "2"});
  const auto& row = result.at("rows")[0];
  EXPECT_GT(row.at("bytes_per_second"), 0);
  EXPECT_GT(row.at("disk_bytes_per_second"), 0);
  EXPECT_GT(row.at("unpack_bytes_per_second"), 0);
  EXPECT_GT(row.at("rate_over_limit"), 0);
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

TEST_F(ToolsBench, EveryKindOfProgramChangesWhatItIsTold) {
  for (const char* name : {"stencil", "particles", "graph", "key-value", "text", "zeros", "random"}) {
    const auto result = bench_json({"stall", "--size", "4MiB", "--dirty", "5%", "--workload", name, "--epochs", "2",
                                    "--warm-up", "1", "--full-writes", "0"});
    const auto& row = result.at("rows")[0];
    EXPECT_EQ(row.at("changed_chunks").at("min"), 51) << name << ": 5 % of 1024 pages are really changed";
  }
  const auto result = bench_json({"stall", "--size", "4MiB", "--workload", "graph", "--pattern", "contiguous",
                                  "--epochs", "1", "--warm-up", "0", "--full-writes", "0"});
  EXPECT_EQ(result.at("rows")[0].at("data"), "graph");
  EXPECT_EQ(result.at("rows")[0].at("pattern"), "contiguous") << "what is said explicitly counts";
}

TEST_F(ToolsBench, TheDrawnResultHoldsTheDataAndLoadsNothing) {
  const std::string html = directory_ / "report.html";
  const auto result = bench_json({"stall", "--size", "4MiB", "--epochs", "3", "--full-writes", "1", "--html", html});
  const std::string page = read_text(html);
  const auto data = page_data(page);
  EXPECT_EQ(data.at("figures").at("rows"), result.at("rows"));
  std::vector<std::string> types;
  for (const auto& section : data.at("sections"))
    for (const auto& plot : section.at("plots")) {
      types.push_back(plot.at("type"));
      if (plot.at("type") == "distribution") {
        EXPECT_EQ(plot.at("series")[0].at("values").size(), 3u);
      }
      if (plot.at("type") == "stages") {
        EXPECT_EQ(plot.at("lanes").size(), 3u);
      }
      if (plot.at("type") == "heatmap") {
        EXPECT_EQ(plot.at("columns"), result.at("rows")[0].at("images_in_store"));
      }
    }
  EXPECT_THAT(types, testing::IsSupersetOf({"distribution", "bars", "stages", "heatmap", "columns"}));
  for (const char* part : {"https://", "src=\"", "url("}) EXPECT_THAT(page, testing::Not(HasSubstr(part)));
}

TEST_F(ToolsBench, AResultThatCannotBeDrawnIsNotMeasured) {
  const Outcome outcome = bench({"stall", "--size", "4MiB", "--html", directory_ / "absent/report.html"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("absent/report.html"));
  EXPECT_TRUE(outcome.out.empty());
  EXPECT_FALSE(fs::exists(store_));
}

TEST_F(ToolsBench, AResultIsPrintedAlsoWhenItsPageCannotBeWritten) {
  const std::string folder = directory_ / "reports";
  fs::create_directory(folder);
  const Outcome outcome = bench({"compare", "--size", "4MiB", "--repetitions", "1", "--json", "--html",
                                 folder + "/report.html", "--peer", "takes it away=rmdir " + folder + "; : {pid}"});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr(folder));
  ASSERT_TRUE(json::accept(outcome.out)) << outcome.out;
  EXPECT_EQ(json::parse(outcome.out).at("rows").size(), 5u);
}

TEST_F(ToolsBench, CompareHasARowForEachMeansAlsoForThoseThatFail) {
  const auto result = bench_json({"compare", "--size", "4MiB", "--repetitions", "2", "--peer",
                                  "saves=test -d /proc/{pid} && head -c 100000 /dev/zero > {dir}/image", "--peer",
                                  "breaks=echo no such luck >&2; exit 3; {pid}", "--peer", "kills=kill -9 {pid}",
                                  "--peer", "stops=kill -STOP {pid}; sleep 0.4; kill -CONT {pid}", "--peer",
                                  "hangs=sleep 60; {pid}", "--peer-seconds", "2"});
  std::map<std::string, json> rows;
  for (const auto& row : result.at("rows")) rows[row.at("method")] = row;
  ASSERT_EQ(rows.size(), 9u);
  for (const char* name : {"varve, delta", "varve, full", "write", "fork"}) {
    const auto& row = rows.at(name);
    EXPECT_TRUE(row.at("failed").is_null()) << row;
    for (const char* key : {"stall_ns", "durable_ns", "disk_bytes"}) EXPECT_GT(row.at(key).at("median"), 0) << row;
    EXPECT_FALSE(row.at("setup").get<std::string>().empty());
  }
  for (const char* name : {"varve, delta", "varve, full", "fork"}) {
    const auto& row = rows.at(name);
    EXPECT_GT(row.at("epoch_ns").at("next").at("median"), 0) << row;
    EXPECT_GE(row.at("epoch_share_beside").at("min"), 0) << row;
    EXPECT_LE(row.at("epoch_share_beside").at("max"), 1) << row;
  }
  EXPECT_GT(rows.at("fork").at("epoch_share_beside").at("max"), 0) << "the child has all of the memory to write";
  EXPECT_TRUE(rows.at("write").at("epoch_share_beside").is_null()) << "the program waits";
  for (const char* name : {"varve, delta", "write"}) EXPECT_GT(rows.at(name).at("restore_ns").at("median"), 0);
  EXPECT_LT(rows.at("varve, delta").at("disk_bytes").at("median"), rows.at("write").at("disk_bytes").at("median"));
  EXPECT_EQ(rows.at("write").at("disk_bytes").at("median"), 4 << 20);
  EXPECT_TRUE(rows.at("saves").at("failed").is_null()) << rows.at("saves");
  EXPECT_GE(rows.at("saves").at("disk_bytes").at("median"), 100'000);
  EXPECT_GT(rows.at("saves").at("stall_ns").at("median"), 0);
  EXPECT_GE(rows.at("stops").at("stall_ns").at("min"), 300'000'000) << "it was stopped for longer";
  for (const char* name : {"saves", "stops"}) EXPECT_GT(rows.at(name).at("idle_gap_ns").at("min"), 0) << name;
  EXPECT_THAT(rows.at("breaks").at("failed").get<std::string>(),
              testing::AllOf(HasSubstr("3"), HasSubstr("no such luck")));
  EXPECT_TRUE(rows.at("kills").at("failed").is_null()) << "a checkpointer may end what it saved";
  EXPECT_TRUE(rows.at("kills").at("stall_ns").is_null());
  EXPECT_TRUE(rows.at("kills").at("idle_gap_ns").is_null());
  EXPECT_THAT(rows.at("hangs").at("failed").get<std::string>(), HasSubstr("killed"));
  EXPECT_FALSE(fs::exists(store_)) << "the directory was left behind";
}

// Gone, or a zombie that nobody has collected yet.
bool has_ended(const std::string& pid) {
  const std::string status = read_text("/proc/" + pid + "/status");
  return status.empty() || status.find("State:\tZ") != std::string::npos;
}

std::string pid_in(const std::string& path) {
  std::string pid;
  std::ifstream(path) >> pid;
  return pid;
}

template <class Condition>
bool comes_true(Condition condition) {
  for (int i = 0; i < 2000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return condition();
}

TEST_F(ToolsBench, NothingOfAPeerRunsOnBehindIt) {
  const std::string left = directory_ / "left";
  const auto result = bench_json({"compare", "--size", "4MiB", "--repetitions", "1", "--peer",
                                  "leaves=sleep 300 & echo $! > " + left + "; : {pid}"});
  EXPECT_TRUE(result.at("rows")[4].at("failed").is_null()) << result.at("rows")[4];
  ASSERT_FALSE(pid_in(left).empty());
  EXPECT_TRUE(comes_true([&] { return has_ended(pid_in(left)); }));
}

TEST_F(ToolsBench, APeerEndsWithTheBenchmark) {
  const std::string started = directory_ / "started";
  RunningProgram bench(
      {.words = {built_program("tools/ckpt-bench"), "compare", "--size", "4MiB", "--repetitions", "1", "--store",
                 store_, "--peer", "hangs=echo $$ > " + started + "; exec sleep 300; : {pid}"}});
  ASSERT_TRUE(comes_true([&] { return !pid_in(started).empty(); }));
  bench.kill_and_wait();
  EXPECT_TRUE(comes_true([&] { return has_ended(pid_in(started)); }));
}

TEST_F(ToolsBench, APeerThatNeverStopsTalkingIsKilledInTime) {
  const auto result = bench_json(
      {"compare", "--size", "4MiB", "--repetitions", "1", "--peer-seconds", "1", "--peer", "talks=yes; : {pid}"});
  EXPECT_THAT(result.at("rows")[4].at("failed").get<std::string>(), HasSubstr("killed"));
}

TEST_F(ToolsBench, AllIsOneReportOfEverything) {
  const std::string html = directory_ / "report.html";
  const auto result = bench_json({"all", "--quick", "--size", "4MiB", "--html", html});
  std::map<std::string, int> rows;
  for (const auto& row : result.at("rows")) ++rows[row.at("benchmark")];
  EXPECT_EQ(rows, (std::map<std::string, int>{{"compare", 4}, {"stall", 5}, {"throughput", 5}, {"restore", 5}}));
  EXPECT_GT(fs::file_size(html), 20'000u);
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
  for (const auto& words :
       std::vector<std::vector<std::string>>{{"stall", "--size", "huge"},
                                             {"stall", "--dirty", "200%"},
                                             {"stall", "--pattern", "polka"},
                                             {"stall", "--tracker", "polka"},
                                             {"throughput", "--data", "polka"},
                                             {"stall", "--workload", "polka"},
                                             {"stall", "--html"},
                                             {"stall", "--html", ""},
                                             {"compare", "--peer", "criu"},
                                             {"compare", "--peer", "=dump {pid}"},
                                             {"compare", "--peer", "criu=dump"},
                                             {"compare", "--peer", "write=true {pid}"},
                                             {"compare", "--peer", "a=true {pid}", "--peer", "a=false {pid}"},
                                             {"all", "--size", "huge"},
                                             {"all", "--quick", "--keep"},
                                             {"polka"}}) {
    const Outcome outcome = bench(words);
    EXPECT_EQ(outcome.exit_code, 2) << words.back() << outcome.out;
    EXPECT_THAT(outcome.err, HasSubstr("--help"));
  }
  EXPECT_FALSE(fs::exists(store_));
}

TEST_F(ToolsBench, WrongNumbersAreNamedWithTheirOption) {
  for (const auto& words : std::vector<std::vector<std::string>>{{"throughput", "--size", "4XB"},
                                                                 {"stall", "--dirty", "much"},
                                                                 {"throughput", "--bytes-per-second", "fast"}}) {
    const Outcome outcome = bench(words);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_THAT(outcome.err, HasSubstr(words[1] + ": '" + words[2] + "' refused"));
  }
}

TEST_F(ToolsBench, TheTableForPeopleHasHeaderAndFigures) {
  const Outcome outcome = bench({"stall", "--size", "4MiB", "--epochs", "2", "--full-writes", "1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  for (const char* text : {"commit", "Linux", "WORKLOAD", "STALL", "FLOOR", "memory"})
    EXPECT_THAT(outcome.out, HasSubstr(text));
}

}  // namespace
}  // namespace varve::test
