// SPDX-License-Identifier: Apache-2.0
//
// The commands of `varve`, run as a user runs them, on a store that an engine made.
#include <signal.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/temporary_directory.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr std::size_t kGridBytes = 100'000;

// What the regions of the images held, by image number of chain `main`.
struct Expected {
  std::map<int, std::string> grid;
  std::map<int, std::string> cache;
};

std::string bytes_of(const std::vector<unsigned char>& memory) { return {memory.begin(), memory.end()}; }

void change(std::vector<unsigned char>& memory, std::size_t begin, std::size_t end, unsigned seed) {
  for (std::size_t i = begin; i < end; ++i)
    memory[i] = static_cast<unsigned char>(((i + seed * 1000003u) * 2654435761u) >> 11);
}

ImageResult checkpoint(Engine& engine, const std::string& label = {}) {
  CheckpointOptions options;
  options.sync = true;
  options.label = label;
  auto ticket = engine.checkpoint(options);
  EXPECT_TRUE(ticket.has_value()) << ticket.error().message();
  return ticket->wait().value();
}

Options options_for(const std::string& store, const std::string& chain) {
  Options options;
  options.store = store;
  options.chain = chain;
  options.staging_bytes = std::size_t{8} << 20;
  return options;
}

// Chain main: 1 full, 2 delta with a label, 3 delta. `cache` has 1000 excluded bytes, and its second half is zero.
Expected make_store(const std::string& store, bool second_chain) {
  Expected expected;
  std::vector<unsigned char> grid(kGridBytes), cache(65536);
  change(grid, 0, grid.size(), 1);
  change(cache, 0, 32768, 2);
  auto engine = Engine::open(options_for(store, "main"));
  EXPECT_TRUE(engine.has_value()) << engine.error().message();
  EXPECT_TRUE(engine->protect("grid", grid.data(), grid.size()).has_value());
  EXPECT_TRUE(engine->protect("cache", cache.data(), cache.size()).has_value());
  EXPECT_TRUE(engine->exclude("cache", 100, 1000).has_value());
  const auto remember = [&](int image) {
    expected.grid[image] = bytes_of(grid);
    expected.cache[image] = bytes_of(cache);
    std::memset(expected.cache[image].data() + 100, 0, 1000);
  };
  remember(1);
  checkpoint(*engine);
  change(grid, 50'000, 50'010, 3);
  remember(2);
  checkpoint(*engine, "before-merge");
  change(grid, 10, 20'000, 4);
  remember(3);
  checkpoint(*engine);
  EXPECT_TRUE(engine->close().has_value());
  if (!second_chain) return expected;
  std::vector<unsigned char> other(5000, 7);
  auto second = Engine::open(options_for(store, "other"));
  EXPECT_TRUE(second.has_value()) << second.error().message();
  EXPECT_TRUE(second->protect("other", other.data(), other.size()).has_value());
  checkpoint(*second);
  EXPECT_TRUE(second->close().has_value());
  return expected;
}

std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    std::string& content = files[fs::relative(entry.path(), directory).string()];
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    content.assign(std::istreambuf_iterator<char>(file), {});
  }
  return files;
}

class ToolsStore : public testing::Test {
 protected:
  Outcome varve(std::vector<std::string> words, const std::string& in_terminal = {}) {
    words.insert(words.begin(), built_program("tools/varve"));
    return run_program({.words = std::move(words), .in_terminal = in_terminal});
  }
  json varve_json(std::vector<std::string> words, int exit_code = 0) {
    words.push_back("--json");
    const Outcome outcome = varve(words);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_TRUE(json::accept(outcome.out)) << outcome.out;
    return json::parse(outcome.out, nullptr, false);
  }

  TemporaryDirectory directory_;
  const std::string store_ = directory_ / "store";
};

// "varve COMMAND: what: cause; remedy"
constexpr const char* kErrorForm = "varve [a-z]+: .+: .+; .+\n";

TEST_F(ToolsStore, ListShowsEveryImageOfEveryChainToPeopleAndToScripts) {
  make_store(store_, true);
  const auto images = varve_json({"list", store_}).at("images");
  ASSERT_EQ(images.size(), 4u);
  EXPECT_EQ(images[0].at("image"), 1);
  EXPECT_EQ(images[0].at("chain"), "main");
  EXPECT_EQ(images[0].at("kind"), "full");
  EXPECT_TRUE(images[0].at("parent").is_null());
  EXPECT_TRUE(images[0].at("label").is_null());
  EXPECT_EQ(images[1].at("kind"), "delta");
  EXPECT_EQ(images[1].at("parent"), 1);
  EXPECT_EQ(images[1].at("label"), "before-merge");
  EXPECT_EQ(images[1].at("region_bytes"), kGridBytes + 65536);
  EXPECT_GT(images[1].at("written_bytes"), 0);
  EXPECT_LT(images[1].at("written_bytes"), images[0].at("written_bytes"));
  EXPECT_THAT(images[1].at("time").get<std::string>(), MatchesRegex("20..-..-..T..:..:..\\.......Z"));
  EXPECT_EQ(images[3].at("chain"), "other");

  const Outcome text = varve({"list", store_, "--chain", "main"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("before-merge"));
  EXPECT_THAT(text.out, testing::Not(HasSubstr("other")));
  EXPECT_EQ(varve({"list", store_, "--chain", "none"}).exit_code, 1);
}

TEST_F(ToolsStore, ShowCountsTheChunksOfEachRegion) {
  make_store(store_, false);
  const auto full = varve_json({"show", store_, "1"});
  ASSERT_EQ(full.at("regions").size(), 2u);
  const auto region = [](const json& image, const std::string& name) {
    for (const auto& one : image.at("regions"))
      if (one.at("name") == name) return one;
    return json::object();
  };
  EXPECT_EQ(region(full, "grid").at("bytes"), kGridBytes);
  EXPECT_EQ(region(full, "grid").at("changed_chunks"), region(full, "grid").at("chunks"));
  EXPECT_EQ(region(full, "grid").at("zero_chunks"), 0);
  EXPECT_GE(region(full, "cache").at("zero_chunks"), 7);
  EXPECT_EQ(region(full, "cache").at("excluded"), json::array({{{"offset", 100}, {"bytes", 1000}}}));
  EXPECT_EQ(full.at("ancestry"), json::array({1}));

  const auto delta = varve_json({"show", store_, "before-merge"});
  EXPECT_EQ(delta.at("image"), 2);
  EXPECT_EQ(region(delta, "grid").at("changed_chunks"), 1);  // ten bytes
  EXPECT_EQ(region(delta, "cache").at("changed_chunks"), 0);
  EXPECT_EQ(delta.at("ancestry"), json::array({2, 1}));
  EXPECT_EQ(varve_json({"show", store_, "latest"}).at("image"), 3);
  EXPECT_EQ(varve_json({"show", store_, "main/1"}).at("image"), 1);

  const Outcome text = varve({"show", store_, "latest"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("grid"));
  const Outcome none = varve({"show", store_, "17"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, MatchesRegex(kErrorForm));
}

TEST_F(ToolsStore, DiffTellsWhichRangesDifferBetweenTwoImages) {
  const Expected expected = make_store(store_, true);
  const auto diff = varve_json({"diff", store_, "1", "before-merge"});
  EXPECT_EQ(diff.at("a").at("image"), 1);
  EXPECT_EQ(diff.at("b").at("image"), 2);
  EXPECT_EQ(diff.at("identical"), false);
  ASSERT_EQ(diff.at("regions").size(), 2u);
  EXPECT_EQ(diff.at("regions")[0].at("name"), "cache");
  EXPECT_EQ(diff.at("regions")[0].at("difference"), "none");
  const auto& grid = diff.at("regions")[1];
  EXPECT_EQ(grid.at("difference"), "content");
  EXPECT_EQ(grid.at("differing_chunks"), 1);
  EXPECT_EQ(grid.at("compared_bytes"), kGridBytes);
  ASSERT_EQ(grid.at("ranges").size(), 1u);
  const auto offset = grid.at("ranges")[0].at("offset").get<std::size_t>();
  const auto bytes = grid.at("ranges")[0].at("bytes").get<std::size_t>();
  EXPECT_LE(offset, 50'000u);
  EXPECT_GE(offset + bytes, 50'010u);
  EXPECT_EQ(diff.at("differing_bytes"), bytes);
  // Outside of the ranges the bytes are the same.
  std::string mended = expected.grid.at(2);
  mended.replace(offset, bytes, expected.grid.at(1), offset, bytes);
  EXPECT_EQ(mended == expected.grid.at(1), true);

  EXPECT_EQ(varve_json({"diff", store_, "latest", "main/3"}).at("identical"), true);
  const auto chains = varve_json({"diff", store_, "main/1", "other/latest"});
  EXPECT_EQ(chains.at("identical"), false);
  EXPECT_EQ(chains.at("regions")[2].at("name"), "other");
  EXPECT_EQ(chains.at("regions")[2].at("difference"), "only in B");
  EXPECT_TRUE(chains.at("regions")[2].at("a").is_null());

  const Outcome text = varve({"diff", store_, "1", "3"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, MatchesRegex("A: image main/1 .*\nB: image main/3 .*\n.*grid: bytes 0 to .*\n"
                                     "different: 1 of 2 regions, .*\n"));
  EXPECT_THAT(varve({"diff", store_, "3", "3"}).out, testing::EndsWith("\nidentical\n"));
  const Outcome none = varve({"diff", store_, "1", "17"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_EQ(none.out, "");
  EXPECT_THAT(none.err, MatchesRegex(kErrorForm));
}

TEST_F(ToolsStore, ExportGivesTheBytesOfAnyImageAndSaysWhatWasExcluded) {
  const Expected expected = make_store(store_, true);
  for (const int image : {1, 2, 3}) {
    const Outcome grid = varve({"export", store_, "main/" + std::to_string(image), "grid"});
    EXPECT_EQ(grid.exit_code, 0) << grid.err;
    EXPECT_TRUE(grid.out == expected.grid.at(image)) << "image " << image;
    EXPECT_EQ(grid.err, "");
    const Outcome cache = varve({"export", store_, std::to_string(image), "cache"});
    EXPECT_TRUE(cache.out == expected.cache.at(image)) << "image " << image;
    EXPECT_THAT(cache.err, HasSubstr("bytes 100 to 1100 were excluded"));
  }
}

TEST_F(ToolsStore, ExportRefusesATerminalAndAnUnknownRegion) {
  make_store(store_, false);
  const Outcome terminal = varve({"export", store_, "latest", "grid"}, "out");
  EXPECT_EQ(terminal.exit_code, 2);
  EXPECT_EQ(terminal.out, "");
  EXPECT_THAT(terminal.err, MatchesRegex(kErrorForm));
  const Outcome unknown = varve({"export", store_, "latest", "nonsense"});
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_EQ(unknown.out, "");
  EXPECT_THAT(unknown.err, HasSubstr("choose one of:"));
  EXPECT_THAT(unknown.err, HasSubstr("grid"));
}

TEST_F(ToolsStore, VerifyFindsAnIntactStoreGood) {
  make_store(store_, true);
  const Outcome text = varve({"verify", store_});
  EXPECT_EQ(text.exit_code, 0) << text.out << text.err;
  const auto report = varve_json({"verify", store_});
  EXPECT_EQ(report.at("findings"), json::array());
}

TEST_F(ToolsStore, DamageIsNamedByVerifyAndNeverExported) {
  make_store(store_, false);
  // Every region byte of image 1 is in the first frames of the only segment.
  for (const auto& entry : fs::directory_iterator(store_ + "/segments")) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(8192);
    const char byte = static_cast<char>(file.get());
    file.seekp(8192);
    file.put(static_cast<char>(byte ^ 0x20));
  }
  const Outcome text = varve({"verify", store_});
  EXPECT_EQ(text.exit_code, 1) << text.out << text.err;
  const auto report = varve_json({"verify", store_}, 1);
  ASSERT_FALSE(report.at("findings").empty());
  EXPECT_THAT(report.at("findings")[0].dump(), HasSubstr(".seg"));

  const Outcome grid = varve({"export", store_, "1", "grid"});
  EXPECT_EQ(grid.exit_code, 1);
  EXPECT_THAT(grid.err, MatchesRegex(kErrorForm));
  EXPECT_THAT(grid.err, HasSubstr(".seg"));

  for (const auto& entry : fs::directory_iterator(store_ + "/segments")) {
    const Outcome inspected = varve({"inspect", entry.path().string()});
    EXPECT_EQ(inspected.exit_code, 1);
    EXPECT_THAT(inspected.out, HasSubstr("DAMAGED"));
  }
}

TEST_F(ToolsStore, ScrubReadsAtItsRateAndFindsWhatVerifyFinds) {
  make_store(store_, true);
  const auto began = std::chrono::steady_clock::now();
  const auto report = varve_json({"scrub", store_, "--rate", "200KiB/s"});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  EXPECT_EQ(report.at("status"), "good");
  EXPECT_EQ(report.at("interrupted"), false);
  EXPECT_EQ(report.at("good").size(), 4u);
  // The last piece that is read is not waited for, and none is longer than a segment here.
  EXPECT_GE(took.count(), report.at("bytes_read").get<double>() / (200 << 10) / 4);
  EXPECT_LE(took.count(), 60);

  const std::string segment = fs::directory_iterator(store_ + "/segments")->path().string();
  std::fstream file(segment, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(8192);
  const char byte = static_cast<char>(file.get());
  file.seekp(8192);
  file.put(static_cast<char>(byte ^ 0x20));
  file.close();
  const auto found = varve_json({"scrub", store_}, 1);
  EXPECT_EQ(found.at("status"), "damage");
  EXPECT_EQ(found.at("findings"), varve_json({"verify", "--deep", store_}, 1).at("findings"));

  const Outcome zero = varve({"scrub", store_, "--rate", "0"});
  EXPECT_EQ(zero.exit_code, 2);
  EXPECT_THAT(zero.err, MatchesRegex(kErrorForm));
  EXPECT_EQ(varve({"scrub", store_, "--rate", "fast"}).exit_code, 2);
}

TEST_F(ToolsStore, AnInterruptedScrubEndsWithWhatItFound) {
  make_store(store_, false);
  RunningProgram scrub({.words = {built_program("tools/varve"), "scrub", store_, "--rate", "1KiB", "--json"}});
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // a first piece was read; the next is minutes away
  kill(scrub.pid(), SIGINT);
  const Outcome outcome = scrub.wait();
  EXPECT_EQ(outcome.exit_code, 4) << outcome.out << outcome.err;
  const auto report = json::parse(outcome.out, nullptr, false);
  EXPECT_EQ(report.at("interrupted"), true);
  EXPECT_EQ(report.at("status"), "interrupted");
  EXPECT_EQ(report.at("findings"), json::array());
}

TEST_F(ToolsStore, InspectPrintsEveryFileOfAStore) {
  make_store(store_, false);
  std::size_t segments = 0;
  for (const auto& entry : fs::recursive_directory_iterator(store_)) {
    if (!entry.is_regular_file()) continue;
    const std::string path = entry.path().string();
    const Outcome text = varve({"inspect", path});
    EXPECT_EQ(text.exit_code, 0) << path << ": " << text.err;
    const auto file = varve_json({"inspect", path});
    if (entry.path().extension() != ".seg") continue;
    ++segments;
    EXPECT_EQ(file.at("kind"), "segment");
    EXPECT_EQ(file.at("chain"), "main");
    EXPECT_EQ(file.at("sealed"), true);
    std::map<std::string, int> types;
    for (const auto& record : file.at("records")) {
      ++types[record.at("type").get<std::string>()];
      EXPECT_EQ(record.at("offset").get<std::uint64_t>() % 64, 0u);
    }
    EXPECT_EQ(types["manifest"], 3);
    EXPECT_GE(types["frame"], 3);
    EXPECT_EQ(types["footer"], 1);
    EXPECT_EQ(types.count("no record"), 0u);
    EXPECT_THAT(text.out, HasSubstr("before-merge"));
  }
  EXPECT_EQ(segments, 1u);
  EXPECT_EQ(varve_json({"inspect", store_ + "/varve.store"}).at("chunk_bytes"), 4096);
  EXPECT_EQ(varve_json({"inspect", store_ + "/inventory"}).at("chains")[0].at("newest"), 3);

  std::ofstream(directory_ / "letter.txt") << "Dear reader,";
  const Outcome letter = varve({"inspect", directory_ / "letter.txt"});
  EXPECT_EQ(letter.exit_code, 1);
  EXPECT_THAT(letter.err, MatchesRegex(kErrorForm));
  EXPECT_EQ(varve({"inspect", store_}).exit_code, 1) << "a directory is no file";
}

TEST_F(ToolsStore, ReadingChangesNothing) {
  make_store(store_, true);
  const auto before = contents(store_);
  const std::string segment = fs::directory_iterator(store_ + "/segments")->path().string();
  for (const auto& words : std::vector<std::vector<std::string>>{{"list", store_},
                                                                 {"show", store_, "latest"},
                                                                 {"diff", store_, "main/1", "latest"},
                                                                 {"export", store_, "main/2", "grid"},
                                                                 {"verify", store_},
                                                                 {"scrub", store_},
                                                                 {"inspect", segment},
                                                                 {"doctor", store_}})
    EXPECT_EQ(varve(words).exit_code, 0) << words[0];
  EXPECT_EQ(contents(store_), before);
}

TEST_F(ToolsStore, AStoreCanBeReadWhileAnEngineWritesIt) {
  std::vector<unsigned char> grid(kGridBytes, 1);
  auto engine = Engine::open(options_for(store_, "main"));
  ASSERT_TRUE(engine.has_value()) << engine.error().message();
  ASSERT_TRUE(engine->protect("grid", grid.data(), grid.size()).has_value());
  checkpoint(*engine);
  change(grid, 0, 100, 9);
  checkpoint(*engine);
  EXPECT_EQ(varve_json({"list", store_}).at("images").size(), 2u);
  EXPECT_TRUE(varve({"export", store_, "latest", "grid"}).out == bytes_of(grid));
  change(grid, 0, 100, 10);
  checkpoint(*engine);  // no reader has its lock
  EXPECT_EQ(varve_json({"list", store_}).at("images").size(), 3u);
  EXPECT_TRUE(engine->close().has_value());
}

TEST_F(ToolsStore, ADirectoryWithoutAStoreIsAnErrorAndStaysAsItIs) {
  for (const std::string& place : {directory_ / "missing", directory_.path()})
    for (const auto& words : std::vector<std::vector<std::string>>{{"list", place},
                                                                   {"show", place, "1"},
                                                                   {"diff", place, "1", "2"},
                                                                   {"verify", place},
                                                                   {"scrub", place},
                                                                   {"export", place, "1", "grid"}}) {
      const Outcome outcome = varve(words);
      EXPECT_EQ(outcome.exit_code, 1) << words[0];
      EXPECT_EQ(outcome.out, "");
      EXPECT_THAT(outcome.err, MatchesRegex(kErrorForm));
    }
  EXPECT_TRUE(fs::is_empty(directory_.path()));
}

TEST_F(ToolsStore, WrongCommandLinesExitWith2AndSayWhatToDo) {
  for (const auto& words : std::vector<std::vector<std::string>>{{},
                                                                 {"list"},
                                                                 {"nonsense"},
                                                                 {"list", store_, "surplus"},
                                                                 {"show", store_},
                                                                 {"diff", store_, "1"},
                                                                 {"list", store_, "--nonsense"},
                                                                 {"export", store_, "1"}}) {
    const Outcome outcome = varve(words);
    EXPECT_EQ(outcome.exit_code, 2) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, HasSubstr("--help"));
  }
}

TEST_F(ToolsStore, EveryHelpHasExamplesAndExitCodes) {
  for (const std::string command : {"", "list", "show", "diff", "verify", "scrub", "export", "inspect", "doctor"}) {
    std::vector<std::string> words = {"--help"};
    if (!command.empty()) words.insert(words.begin(), command);
    const Outcome outcome = varve(words);
    EXPECT_EQ(outcome.exit_code, 0) << command;
    EXPECT_EQ(outcome.err, "");
    EXPECT_THAT(outcome.out, HasSubstr("Examples:")) << command;
    EXPECT_THAT(outcome.out, HasSubstr("Exit codes:")) << command;
  }
  EXPECT_THAT(varve({"--version"}).out, MatchesRegex("varve [0-9.]+ \\(.+\\)\n"));
}

TEST_F(ToolsStore, DoctorNamesWhatWorksAndWhatIsChosen) {
  const auto report = varve_json({"doctor", directory_.path()});
  EXPECT_TRUE(report.at("chosen").contains("tracker"));
  EXPECT_TRUE(report.at("chosen").contains("capture"));
  EXPECT_TRUE(report.at("chosen").contains("io"));
  EXPECT_FALSE(report.at("kernel").get<std::string>().empty());
  EXPECT_TRUE(report.at("file_system").contains("durable"));
  const Outcome forced = run_program({.words = {built_program("tools/varve"), "doctor", directory_.path(), "--json"},
                                      .environment = {{"VARVE_TRACKER", "hash"}, {"VARVE_IO", "posix"}}});
  EXPECT_EQ(forced.exit_code, 0) << forced.err;
  EXPECT_EQ(json::parse(forced.out).at("chosen").at("tracker"), "hash");
  EXPECT_EQ(json::parse(forced.out).at("chosen").at("io"), "posix");
  const Outcome wrong = run_program({.words = {built_program("tools/varve"), "doctor", directory_.path()},
                                     .environment = {{"VARVE_IO", "carrier-pigeon"}}});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.out, HasSubstr("VARVE_IO"));
}

}  // namespace
}  // namespace varve::test
