// SPDX-License-Identifier: Apache-2.0
//
// `varve report`, run as a user runs it, on stores that an engine made.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/report_page.h"
#include "tests/support/temporary_directory.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr std::size_t kPages = 64, kBytes = kPages * 4096;

class ToolsReport : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = static_cast<unsigned char*>(std::aligned_alloc(4096, kBytes));
    for (std::size_t i = 0; i < kBytes; ++i) memory_[i] = noise(i);
  }
  void TearDown() override { std::free(memory_); }

  static unsigned char noise(std::size_t i) { return static_cast<unsigned char>((i * 2654435761u) >> 13 ^ i >> 7); }

  void checkpoint(Engine& engine, const std::string& label = {}, bool full = false) {
    CheckpointOptions options;
    options.sync = true;
    options.label = label;
    options.full = full;
    auto ticket = engine.checkpoint(options);
    ASSERT_TRUE(ticket.has_value()) << ticket.error().message();
  }

  // 1: everything is new. 2: pages 10 to 12 are new. 3: page 20 is zero, page 21 a copy of page 0. 4: full, page 5 is
  // new.
  void make_store(const std::string& region = "grid") {
    Options options;
    options.store = store_;
    auto engine = Engine::open(options);
    ASSERT_TRUE(engine.has_value()) << engine.error().message();
    ASSERT_TRUE(engine->protect(region, memory_, kBytes).has_value());
    checkpoint(*engine);
    for (std::size_t i = 10 * 4096; i < 13 * 4096; ++i) memory_[i] ^= 0x55;
    checkpoint(*engine, "three-pages");
    std::fill_n(memory_ + 20 * 4096, 4096, static_cast<unsigned char>(0));
    std::copy_n(memory_, 4096, memory_ + 21 * 4096);
    checkpoint(*engine);
    for (std::size_t i = 5 * 4096; i < 6 * 4096; ++i) memory_[i] ^= 0x33;
    checkpoint(*engine, "whole", true);
    ASSERT_TRUE(engine->close().has_value());
  }

  Outcome report(std::vector<std::string> words) {
    words.insert(words.begin(), {built_program("tools/varve"), "report", store_});
    return run_program({.words = std::move(words)});
  }
  json report_json(std::vector<std::string> words = {}, int exit_code = 0) {
    words.push_back("--json");
    const Outcome outcome = report(words);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_TRUE(json::accept(outcome.out)) << outcome.out << outcome.err;
    return json::parse(outcome.out, nullptr, false);
  }
  std::string page() { return read_text(html_); }

  TemporaryDirectory directory_;
  const std::string store_ = directory_ / "store";
  const std::string html_ = directory_ / "report.html";
  unsigned char* memory_ = nullptr;
};

TEST_F(ToolsReport, TellsWhatEachImageChangedAndWhatBecameOfIt) {
  make_store();
  const auto result = report_json();
  ASSERT_EQ(result.at("chains").size(), 1u);
  const auto& images = result.at("chains")[0].at("images");
  ASSERT_EQ(images.size(), 4u);
  const std::vector<std::vector<int>> expected = {// changed, new, known, zero
                                                  {kPages, kPages, 0, 0},
                                                  {3, 3, 0, 0},
                                                  {2, 0, 1, 1},
                                                  {1, 1, 0, 0}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(images[i].at("changed_chunks"), expected[i][0]) << images[i].dump(1);
    EXPECT_EQ(images[i].at("new_chunks"), expected[i][1]) << images[i].dump(1);
    EXPECT_EQ(images[i].at("known_chunks"), expected[i][2]) << images[i].dump(1);
    EXPECT_EQ(images[i].at("zero_chunks"), expected[i][3]) << images[i].dump(1);
    EXPECT_TRUE(images[i].at("problem").is_null());
  }
  EXPECT_EQ(images[3].at("kind"), "full");
  EXPECT_EQ(images[3].at("label"), "whole");
  const auto& region = result.at("chains")[0].at("regions")[0];
  EXPECT_EQ(region.at("name"), "grid");
  EXPECT_EQ(region.at("new_bytes"), 68 * 4096);
  EXPECT_GT(region.at("stored_bytes"), 0);
  EXPECT_LE(region.at("stored_bytes"), result.at("stored_bytes"));
  EXPECT_TRUE(result.at("damage").empty());
}

TEST_F(ToolsReport, AnEarlierImageMayBeOneOfAnotherChain) {
  // By name the second one is first.
  for (const char* chain : {"second", "first"}) {
    Options options;
    options.store = store_;
    options.chain = chain;
    auto engine = Engine::open(options);
    ASSERT_TRUE(engine.has_value()) << engine.error().message();
    ASSERT_TRUE(engine->protect("grid", memory_, kBytes).has_value());
    checkpoint(*engine);
    ASSERT_TRUE(engine->close().has_value());
  }
  const auto result = report_json();
  ASSERT_EQ(result.at("chains").size(), 2u);
  for (const auto& chain : result.at("chains")) {
    const bool earlier = chain.at("chain") == "second";
    for (const auto& row : {chain.at("images")[0], chain.at("regions")[0]}) {
      EXPECT_EQ(row.at("new_chunks"), earlier ? kPages : 0) << row.dump(1);
      EXPECT_EQ(row.at("known_chunks"), earlier ? 0 : kPages) << row.dump(1);
      EXPECT_EQ(row.at("stored_bytes") > 0, earlier) << row.dump(1);
    }
  }
}

TEST_F(ToolsReport, WhatARegionTakesOnDiskGoesByItsLength) {
  Options options;
  options.store = store_;
  auto engine = Engine::open(options);
  ASSERT_TRUE(engine.has_value()) << engine.error().message();
  std::uint64_t step = 0x123456789abcdef0;
  std::mt19937 random(7);
  std::generate_n(memory_, kBytes, [&random] { return static_cast<unsigned char>(random()); });
  // One page less than whole frames, so that both lie in the last one.
  ASSERT_TRUE(engine->protect("grid", memory_, kBytes - 4096).has_value());
  ASSERT_TRUE(engine->protect("step", &step, sizeof step).has_value());
  checkpoint(*engine);
  ASSERT_TRUE(engine->close().has_value());
  const auto result = report_json();
  std::map<std::string, std::uint64_t> stored;
  for (const auto& region : result.at("chains")[0].at("regions"))
    stored[region.at("name")] = region.at("stored_bytes").get<std::uint64_t>();
  EXPECT_LT(stored.at("step"), 512u) << "some bytes of a record";
  EXPECT_GE(stored.at("grid"), kBytes - 4096);
  EXPECT_NEAR(result.at("chains")[0].at("images")[0].at("stored_bytes").get<double>(),
              static_cast<double>(stored.at("step") + stored.at("grid")), 2);
}

TEST_F(ToolsReport, DrawsAPageThatHoldsEverythingAndLoadsNothing) {
  make_store();
  ASSERT_EQ(report({"--html", html_}).exit_code, 0);
  const auto data = page_data(page());
  EXPECT_EQ(data.at("figures"), report_json());
  std::vector<std::string> types;
  for (const auto& section : data.at("sections"))
    for (const auto& plot : section.at("plots")) types.push_back(plot.at("type"));
  EXPECT_THAT(types, testing::IsSupersetOf({"points", "heatmap", "columns", "bars", "table"}));
  for (const char* part : {"https://", "src=\"", "href=\"h", "url("}) EXPECT_THAT(page(), Not(HasSubstr(part)));
}

TEST_F(ToolsReport, TheHeatMapHasTheChangedPlaces) {
  make_store();
  ASSERT_EQ(report({"--html", html_}).exit_code, 0);
  const auto data = page_data(page());
  for (const auto& section : data.at("sections"))
    for (const auto& plot : section.at("plots")) {
      if (plot.at("type") != "heatmap") continue;
      ASSERT_EQ(plot.at("columns"), 4);
      const auto rows = plot.at("rows").get<std::size_t>();
      const auto changed = [&](std::size_t column, std::size_t page_number) {
        const std::size_t row = page_number * rows / kPages;
        return plot.at("cells").get<std::string>().substr(2 * (column * rows + row), 2) != "00";
      };
      for (std::size_t number = 0; number < kPages; ++number) {
        EXPECT_TRUE(changed(0, number));
        EXPECT_EQ(changed(1, number), number >= 10 && number < 13) << number;
        EXPECT_EQ(changed(2, number), number == 20 || number == 21) << number;
        EXPECT_EQ(changed(3, number), number == 5) << number << ": a full image names all, and changed one";
      }
      return;
    }
  FAIL() << "no heat map";
}

TEST_F(ToolsReport, DamagedImagesAreShownAsSuch) {
  make_store();
  // Page data of the first image, which all others build on: only a look at it tells.
  fs::path segment;
  for (const auto& entry : fs::directory_iterator(store_ + "/segments")) segment = entry.path();
  std::fstream file(segment, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(16384);
  file.write("damage", 6);
  file.close();
  const auto unseen = report_json();
  EXPECT_FALSE(unseen.at("verified"));
  const auto seen = report_json({"--verify", "--html", html_}, 1);
  EXPECT_TRUE(seen.at("verified"));
  EXPECT_FALSE(seen.at("damage").empty());
  for (const auto& image : seen.at("chains")[0].at("images")) EXPECT_FALSE(image.at("problem").is_null());
  EXPECT_FALSE(page_data(page()).at("warnings").empty());
  EXPECT_THAT(page(), HasSubstr("\"damaged\":true"));
}

TEST_F(ToolsReport, AStoreThatLostAllItsImagesIsNotAnEmptyOne) {
  make_store();
  for (const auto& entry : fs::directory_iterator(store_ + "/segments"))
    std::ofstream(entry.path(), std::ios::binary) << std::string(fs::file_size(entry.path()), 'x');
  const Outcome outcome = report({"--html", html_});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.out, testing::AllOf(HasSubstr("no image can be read"), HasSubstr("damage: ")));
  const auto data = page_data(page());
  ASSERT_EQ(data.at("sections").size(), 1u);
  EXPECT_EQ(data.at("sections")[0].at("title"), "No image can be read");
  EXPECT_FALSE(data.at("warnings").empty());
}

TEST_F(ToolsReport, AnEmptyStoreIsNoError) {
  Options options;
  options.store = store_;
  ASSERT_TRUE(Engine::open(options).has_value());
  const Outcome outcome = report({"--html", html_});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("no images yet"));
  EXPECT_EQ(page_data(page()).at("sections").size(), 1u);
}

TEST_F(ToolsReport, WhatWasReadIsPrintedAlsoWhenThePageCannotBeWritten) {
  make_store();
  // A limit stands in for a full disk: the page does not fit, and SIGXFSZ is ignored. Standard output is a pipe.
  const Outcome outcome = run_program({.words = {"/bin/sh", "-c", R"(trap '' XFSZ; ulimit -f 1; exec "$@")", "sh",
                                                 built_program("tools/varve"), "report", store_, "--html", html_}});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, testing::AllOf(HasSubstr(html_), HasSubstr("make room")));
  EXPECT_THAT(outcome.out, testing::AllOf(HasSubstr("chain 'main'"), HasSubstr("grid")));
  EXPECT_FALSE(fs::exists(html_));
}

TEST_F(ToolsReport, WhatCannotBeDoneIsSaid) {
  const Outcome absent = report({});
  EXPECT_EQ(absent.exit_code, 1);
  EXPECT_THAT(absent.err, testing::MatchesRegex("varve report: .+: .+; .+\n"));
  EXPECT_FALSE(fs::exists(store_));
  make_store();
  const Outcome unwritable = report({"--html", directory_ / "absent/report.html"});
  EXPECT_EQ(unwritable.exit_code, 1);
  EXPECT_THAT(unwritable.err, HasSubstr("absent/report.html"));
  EXPECT_TRUE(unwritable.out.empty());
  EXPECT_EQ(report({"--html"}).exit_code, 2);
  const Outcome nameless = report({"--html", ""});
  EXPECT_EQ(nameless.exit_code, 2);
  EXPECT_THAT(nameless.err, HasSubstr("empty"));
  EXPECT_EQ(report({"--polka"}).exit_code, 2);
}

}  // namespace
}  // namespace varve::test
