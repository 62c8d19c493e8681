// SPDX-License-Identifier: Apache-2.0
//
// The pieces of a report: what is data stays data, and whatever the store is like, the page stays small.
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/report_page.h"
#include "tests/support/temporary_directory.h"
#include "tools/report/change_map.h"
#include "tools/report/page.h"
#include "tools/report/plots.h"

namespace varve::tools {
namespace {

namespace fs = std::filesystem;
using test::count;
using test::page_data;
using test::read_text;
using testing::HasSubstr;
using testing::Not;

Report report_named(const std::string& name) {
  Report report;
  report.title = name;
  report.facts = {{name, name}};
  report.warnings = {name};
  report.sections.push_back({.title = name, .text = name});
  report.figures = {{"name", name}};
  return report;
}

TEST(ReportPage, NamesCanNeitherEndTheirElementNorBecomeMarkup) {
  const std::string nasty = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&\"'";
  const std::string plain = report_page(report_named("plain")), page = report_page(report_named(nasty));
  for (const char* part : {"<script", "</script", "<!--", "<img"})
    EXPECT_EQ(count(page, part), count(plain, part)) << part;
  EXPECT_EQ(page_data(page).at("title"), nasty) << "and comes back as it was";
  EXPECT_EQ(page_data(page).at("sections")[0].at("title"), nasty);
}

TEST(ReportPage, BytesThatAreNoUtf8AreReplaced) {
  const auto data = page_data(report_page(report_named("caf\xe9 \xff")));
  EXPECT_THAT(data.at("title").get<std::string>(), HasSubstr("caf"));
}

TEST(ReportPage, MarksOfTheTemplateInNamesStayNames) {
  EXPECT_EQ(page_data(report_page(report_named("@SCRIPT@ @DATA@ @STYLE@"))).at("title"), "@SCRIPT@ @DATA@ @STYLE@");
}

TEST(ReportPage, LoadsNothing) {
  const std::string page = report_page(report_named("plain"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  for (const char* part : {"src=\"", "@import", "url(", "https:", "fetch(", "XMLHttpRequest", "import("})
    EXPECT_THAT(page, Not(HasSubstr(part)));
  EXPECT_EQ(count(page, "http:"), 1u) << "the name space of SVG";
}

TEST(ReportFile, IsWholeAndForItsOwnerOnly) {
  test::TemporaryDirectory directory;
  const std::string path = directory / "report.html";
  std::ofstream(path) << "the last one";
  ASSERT_TRUE(check_report_path(path).has_value());
  EXPECT_EQ(read_text(path), "the last one") << "looking whether it can be written changes nothing";
  ASSERT_TRUE(write_report(path, report_named("new")).has_value());
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory / ""), fs::directory_iterator()), 1) << "nothing else stays";
}

TEST(ReportFile, ThatCannotBeWrittenSaysSo) {
  test::TemporaryDirectory directory;
  for (const std::string& path : {directory / "absent/report.html", directory / ""}) {
    const auto refused = check_report_path(path);
    ASSERT_FALSE(refused.has_value()) << path;
    EXPECT_THAT(refused.error().message(), HasSubstr(path));
  }
  EXPECT_FALSE(check_report_path("").has_value());
  EXPECT_FALSE(write_report("", report_named("new")).has_value());
}

TEST(ReportFile, WhatIsNoRegularFileIsRefusedAndStays) {
  test::TemporaryDirectory directory;
  const std::string fifo = directory / "fifo", dangling = directory / "dangling", loop = directory / "loop";
  const std::string to_fifo = directory / "to-fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  fs::create_symlink(directory / "absent", dangling);
  fs::create_symlink(loop, loop);
  fs::create_symlink(fifo, to_fifo);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string pipe_end = "/proc/self/fd/" + std::to_string(ends[1]);  // as /dev/stdout often is
  for (const auto& path : {fifo, dangling, loop, to_fifo, pipe_end}) {
    for (const auto& refused : {check_report_path(path), write_report(path, report_named("new"))}) {
      ASSERT_FALSE(refused.has_value()) << path;
      EXPECT_THAT(refused.error().message(), HasSubstr(path));
    }
  }
  EXPECT_TRUE(fs::is_fifo(fifo));
  for (const auto& link : {dangling, loop, to_fifo}) EXPECT_TRUE(fs::is_symlink(link)) << link;
  EXPECT_EQ(std::distance(fs::directory_iterator(directory / ""), fs::directory_iterator()), 4) << "nothing else stays";
  close(ends[0]);
  close(ends[1]);
}

TEST(ReportFile, IsWrittenToWhereALinkLeads) {
  test::TemporaryDirectory directory;
  const std::string link = directory / "link.html", file = directory / "elsewhere/report.html";
  fs::create_directory(directory / "elsewhere");
  std::ofstream(file) << "the last one";
  fs::create_symlink("elsewhere/report.html", link);
  ASSERT_TRUE(check_report_path(link).has_value());
  ASSERT_TRUE(write_report(link, report_named("new")).has_value());
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(page_data(read_text(file)).at("title"), "new");
}

TEST(ReportFile, TouchesNoOtherFile) {
  test::TemporaryDirectory directory;
  const std::string path = directory / "report.html", theirs = directory / "thesis.txt";
  std::ofstream(theirs) << "years of work";
  std::ofstream(path + ".new") << "the user's own";
  const auto write = [&] {
    ASSERT_TRUE(check_report_path(path).has_value());
    ASSERT_TRUE(write_report(path, report_named("new")).has_value());
  };
  write();
  EXPECT_EQ(read_text(path + ".new"), "the user's own");
  fs::remove(path + ".new");
  fs::create_symlink(theirs, path + ".new");
  write();
  EXPECT_EQ(read_text(theirs), "years of work");
  EXPECT_TRUE(fs::is_symlink(path + ".new"));
}

TEST(ReportFile, ThatFindsNoRoomSaysSoAndLeavesTheLastOne) {
  test::TemporaryDirectory directory;
  const std::string path = directory / "report.html";
  std::ofstream(path) << "the last one";
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 1000, .rlim_max = before.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto refused = write_report(path, report_named("new"));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message(), HasSubstr("make room"));
  EXPECT_EQ(read_text(path), "the last one");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory / ""), fs::directory_iterator()), 1) << "nothing else stays";
}

TEST(Plots, SamplesAreThinnedByRankAndKeepTheirEnds) {
  std::vector<double> values;
  for (int i = 100'000; i > 0; --i) values.push_back(i);
  const auto kept = plot::thinned(values, 101);
  ASSERT_EQ(kept.size(), 101u);
  EXPECT_EQ(kept.front(), 1);
  EXPECT_EQ(kept[50], 50'000);
  EXPECT_EQ(kept.back(), 100'000);
  EXPECT_EQ(plot::thinned({3, 1, 2}, 101), (std::vector<double>{1, 2, 3}));
}

TEST(Plots, TooManyColumnsAreAddedUp) {
  std::vector<std::string> names;
  for (std::size_t i = 1; i <= 1001; ++i) names.push_back(std::to_string(i));
  const auto json = plot::columns({"sizes"}, names, {{"bytes", std::vector<double>(1001, 2.0)}});
  ASSERT_LE(json.at("names").size(), plot::kMaxColumns);
  EXPECT_EQ(json.at("names")[0], "1 to 5");
  EXPECT_EQ(json.at("names").back(), "1001 to 1001");
  double sum = 0;
  for (const double value : json.at("series")[0].at("values")) sum += value;
  EXPECT_EQ(sum, 2002);
}

int cell(const nlohmann::json& map, std::size_t column, std::size_t row) {
  const std::size_t at = 2 * (column * map.at("rows").get<std::size_t>() + row);
  return std::stoi(map.at("cells").get<std::string>().substr(at, 2), nullptr, 16);
}

TEST(ChangeMap, ShowsWhatChangedWhere) {
  ChangeMap map(3);
  constexpr std::uint64_t kBytes = 1 << 20;
  map.add(0, "image 1", "grid", kBytes, {{0, kBytes}});
  map.add(1, "image 2", "grid", kBytes, {{0, 1}, {kBytes / 2, kBytes / 2}});
  map.skip(2, "image 3 (damaged)");
  const auto json = map.plot({"map"});
  ASSERT_EQ(json.at("columns"), 3);
  const auto rows = json.at("rows").get<std::size_t>();
  ASSERT_EQ(json.at("cells").get<std::string>().size(), 2 * 3 * rows);
  for (std::size_t row = 0; row < rows; ++row) {
    EXPECT_EQ(cell(json, 0, row), 254);
    EXPECT_EQ(cell(json, 1, row), row == 0 ? 1 : row < rows / 2 ? 0 : 254) << "one byte is not nothing; row " << row;
    EXPECT_EQ(cell(json, 2, row), 255);
  }
  EXPECT_EQ(json.at("column_names")[2], "image 3 (damaged)");
}

TEST(ChangeMap, HasRowsByTheRegionsSizesAndAColumnForSeveralImagesOfALongChain) {
  ChangeMap map(10 * ChangeMap::kColumns);
  for (std::size_t i = 0; i < 10 * ChangeMap::kColumns; ++i) {
    const bool changed = i == 5;
    map.add(i, "image " + std::to_string(i + 1), "large", 1 << 30, {{0, changed ? std::uint64_t{1} << 30 : 0}});
    map.add(i, "image " + std::to_string(i + 1), "small", 8, {});
  }
  const auto json = map.plot({"map"});
  ASSERT_EQ(json.at("columns"), ChangeMap::kColumns);
  EXPECT_EQ(json.at("column_names")[0], "image 1 to image 10");
  EXPECT_EQ(cell(json, 0, 0), 254) << "one image of the ten changed everything";
  EXPECT_EQ(cell(json, 1, 0), 0);
  const auto& bands = json.at("bands");
  ASSERT_EQ(bands.size(), 2u);
  EXPECT_GT(bands[0].at("rows"), 100);
  EXPECT_EQ(bands[1].at("rows"), 1);
}

TEST(ChangeMap, StaysSmallWithManyRegions) {
  ChangeMap map(300);
  for (std::size_t i = 0; i < 300; ++i)
    for (int region = 0; region < 400; ++region)
      map.add(i, "image " + std::to_string(i), "region " + std::to_string(region), 4096, {{0, 4096}});
  EXPECT_LT(map.plot({"map"}).dump().size(), 200'000u);
}

TEST(ChangeMap, TheLargestRegionsHaveBandsWheneverTheyCame) {
  constexpr int kSmall = 300, kLarge = ChangeMap::kRegions;
  constexpr std::uint64_t kSmallBytes = 4096, kLargeBytes = 1 << 20;
  ChangeMap map(2);
  for (int i = 0; i < kSmall; ++i)
    map.add(0, "image 1", "a small one " + std::to_string(i), kSmallBytes, {{0, i == 7 ? kSmallBytes : 0}});
  for (int i = 0; i < kLarge; ++i) map.add(1, "image 2", "large " + std::to_string(i), kLargeBytes, {});
  map.add(1, "image 2", "a small one 0", kSmallBytes, {});
  const auto json = map.plot({"map"});
  const auto& bands = json.at("bands");
  ASSERT_EQ(bands.size(), ChangeMap::kRegions + 1);
  for (std::size_t i = 0; i < ChangeMap::kRegions; ++i) {
    EXPECT_THAT(bands[i].at("name").get<std::string>(), testing::StartsWith("large"));
    EXPECT_EQ(bands[i].at("bytes"), kLargeBytes);
  }
  EXPECT_THAT(bands.back().at("name").get<std::string>(), HasSubstr("300 other regions"));
  EXPECT_EQ(bands.back().at("bytes"), kSmall * kSmallBytes) << "of all of them";
  const auto others = bands.back().at("first").get<std::size_t>();
  EXPECT_EQ(cell(json, 0, others), 254) << "the most that any of them changed";
  EXPECT_EQ(cell(json, 1, others), 0);
  EXPECT_EQ(cell(json, 0, 0), 255) << "the large ones came later";
}

TEST(ChangeMap, ARegionMayBeNamedLikeTheOthers) {
  ChangeMap map(1);
  for (int i = 0; i < 200; ++i) map.add(0, "image 1", "region " + std::to_string(i), 4096, {});
  map.add(0, "image 1", "(other regions)", 1 << 20, {{0, 1 << 20}});
  const auto json = map.plot({"map"});
  EXPECT_EQ(json.at("bands")[0].at("bytes"), 1 << 20);
  EXPECT_EQ(json.at("bands").back().at("bytes"), (200 - (ChangeMap::kRegions - 1)) * 4096);
  EXPECT_EQ(cell(json, 0, json.at("bands").back().at("first")), 0) << "none of its changes are theirs";
}

}  // namespace
}  // namespace varve::tools
