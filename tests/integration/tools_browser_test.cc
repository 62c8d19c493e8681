// SPDX-License-Identifier: Apache-2.0
//
// The pages of `varve report` and `ckpt-bench --html` in a real browser: they open without network and without a word
// on the console, and draw what they hold. `.ci/run browser` installs the browser.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/program.h"
#include "tests/support/report_page.h"
#include "tests/support/temporary_directory.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

std::string browser() {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    for (const char* name : {"chromium", "chromium-browser", "google-chrome"})
      if (access((folder + "/" + name).c_str(), X_OK) == 0) return folder + "/" + name;
  return {};
}

class ToolsBrowser : public testing::Test {
 protected:
  void SetUp() override {
    if (browser().empty()) GTEST_SKIP() << "install chromium to open reports in a browser";
  }

  std::string run(std::vector<std::string> words) {
    words[0] = built_program(words[0]);
    const Outcome outcome = run_program({.words = std::move(words)});
    EXPECT_THAT(outcome.exit_code, testing::AnyOf(0, 1)) << outcome.err;
    return outcome.err;
  }
  void write_page(const std::string& content) { std::ofstream(page_) << content; }

  struct Opened {
    std::string dom;
    std::vector<std::string> console;  // lines that the page put there, refused requests among them
  };
  // No name resolves, so that a request would fail, and say so on the console.
  Opened open_page() {
    const Outcome outcome = run_program(
        {.words = {browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--user-data-dir=" + (directory_ / "profile"), "--host-resolver-rules=MAP * ~NOTFOUND",
                   "--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom", "file://" + page_},
         .environment = {{"HOME", directory_ / "home"}}});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    Opened opened{.dom = outcome.out, .console = {}};
    std::istringstream lines(outcome.err);
    for (std::string line; std::getline(lines, line);)
      if (line.find("CONSOLE") != std::string::npos) opened.console.push_back(line);
    return opened;
  }
  Opened open_whole_page() {
    auto opened = open_page();
    EXPECT_THAT(opened.console, testing::IsEmpty());
    EXPECT_THAT(opened.dom, HasSubstr("data-drawn=")) << "the script did not come to its end";
    EXPECT_THAT(opened.dom, Not(testing::ContainsRegex("=\"[^\"]*(NaN|Infinity|undefined)[^\"]*\"")));
    return opened;
  }
  static std::size_t plots(const Opened& opened, const std::string& type) {
    return count(opened.dom, "data-plot=\"" + type + "\"");
  }

  TemporaryDirectory directory_;
  const std::string page_ = directory_ / "report.html";
  const std::string store_ = directory_ / "store";
};

TEST_F(ToolsBrowser, SeesWhatIsWrongWithAPage) {
  write_page("<!DOCTYPE html><script>nowhere()</script>");
  EXPECT_THAT(open_page().console, testing::Contains(HasSubstr("nowhere")));
  write_page(
      "<!DOCTYPE html><html><head><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"></head>"
      "<body><img src='http://example.org/y.png'></body></html>");
  EXPECT_THAT(open_page().console, testing::Contains(HasSubstr("y.png"))) << "what the policy of a page refuses";
}

TEST_F(ToolsBrowser, DrawsTheHistoryOfAStore) {
  std::vector<unsigned char> memory(200'000, 3);
  const std::string nasty = directory_ / "<img src=x onerror=nowhere()>&lt;";  // it is in the title
  Options options;
  options.store = nasty;
  auto engine = Engine::open(options);
  ASSERT_TRUE(engine.has_value()) << engine.error().message();
  ASSERT_TRUE(engine->protect("grid", memory.data(), memory.size()).has_value());
  for (unsigned i = 0; i < 4; ++i) {
    memory[i * 40'000] = static_cast<unsigned char>(i + 10);
    CheckpointOptions sync;
    sync.sync = true;
    if (i == 2) sync.label = "third";
    ASSERT_TRUE(engine->checkpoint(sync).has_value());
  }
  ASSERT_TRUE(engine->close().has_value());
  run({"tools/varve", "report", nasty, "--html", page_});
  const auto opened = open_whole_page();
  EXPECT_EQ(plots(opened, "points"), 1u);
  EXPECT_EQ(plots(opened, "heatmap"), 1u);
  EXPECT_EQ(plots(opened, "columns"), 2u);
  EXPECT_EQ(plots(opened, "table"), 2u);
  EXPECT_EQ(count(opened.dom, "<canvas"), 1u);
  EXPECT_EQ(count(opened.dom, "<circle"), 3u) << "a delta each";
  EXPECT_EQ(count(opened.dom, "<img"), 0u) << "a name became markup";
  EXPECT_THAT(opened.dom, HasSubstr("third"));
}

TEST_F(ToolsBrowser, DrawsDamageAndEmptyStores) {
  Options options;
  options.store = store_;
  ASSERT_TRUE(Engine::open(options).has_value());
  run({"tools/varve", "report", store_, "--html", page_});
  EXPECT_THAT(open_whole_page().dom, HasSubstr("No images yet"));
  std::vector<unsigned char> memory(200'000, 3);
  auto engine = Engine::open(options);
  ASSERT_TRUE(engine.has_value());
  ASSERT_TRUE(engine->protect("grid", memory.data(), memory.size()).has_value());
  CheckpointOptions sync;
  sync.sync = true;
  ASSERT_TRUE(engine->checkpoint(sync).has_value());
  ASSERT_TRUE(engine->close().has_value());
  for (const auto& entry : fs::directory_iterator(store_ + "/segments")) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4200);
    file.write("damage", 6);
  }
  run({"tools/varve", "report", store_, "--verify", "--html", page_});
  const auto opened = open_whole_page();
  EXPECT_THAT(opened.dom, HasSubstr("class=\"warnings\""));
  EXPECT_THAT(opened.dom, HasSubstr("class=\"bad\"")) << "the cross on the time line";
}

TEST_F(ToolsBrowser, DrawsTheBenchmark) {
  run({"tools/ckpt-bench", "stall", "--size", "4MiB", "--epochs", "3", "--full-writes", "1", "--store", store_,
       "--html", page_});
  const auto opened = open_whole_page();
  for (const char* type : {"distribution", "stages", "bars", "heatmap", "columns"})
    EXPECT_GE(plots(opened, type), 1u) << type;
  EXPECT_GE(count(opened.dom, "<svg"), 5u);
  EXPECT_GE(count(opened.dom, "<rect"), 3u * 2);
}

TEST_F(ToolsBrowser, DrawsEverythingInOneReport) {
  run({"tools/ckpt-bench", "all", "--quick", "--size", "4MiB", "--store", store_, "--html", page_});
  const auto opened = open_whole_page();
  EXPECT_EQ(plots(opened, "heatmap"), 5u) << "of each kind of program";
  EXPECT_EQ(plots(opened, "stages"), 2u);
  EXPECT_EQ(plots(opened, "distribution"), 1u);
  EXPECT_GE(plots(opened, "bars"), 10u);
  for (const char* name : {"varve, delta", "fork", "key-value", "particles"}) EXPECT_THAT(opened.dom, HasSubstr(name));
}

TEST_F(ToolsBrowser, DrawsAComparisonInWhichAPeerFails) {
  run({"tools/ckpt-bench", "compare", "--size", "4MiB", "--repetitions", "2", "--store", store_, "--html", page_,
       "--peer", "saves <b>=head -c 100000 /dev/zero > {dir}/image; : {pid}", "--peer",
       "breaks=echo '</script><img src=x>' >&2; exit 3; {pid}"});
  const auto opened = open_whole_page();
  EXPECT_EQ(plots(opened, "bars"), 4u);
  EXPECT_EQ(plots(opened, "table"), 2u);
  EXPECT_THAT(opened.dom, HasSubstr("exit status 3"));
  EXPECT_THAT(opened.dom, HasSubstr("without a checkpoint")) << "the floor of a peer's stall";
  EXPECT_EQ(count(opened.dom, "<img"), 0u) << "what a peer says became markup";
  EXPECT_EQ(count(opened.dom, "<b>"), 0u) << "a peer's name became markup";
}

}  // namespace
}  // namespace varve::test
