// SPDX-License-Identifier: Apache-2.0
//
// The examples: killed with SIGKILL at random moments, started again, and compared with runs that nobody disturbed, for
// each tracker, capture and io that works here; and the demo script itself, that it can fail.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

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
using namespace std::chrono_literals;

struct Setting {
  std::string variable;  ///< empty: nothing forced
  std::string value;
};

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Whether `varve doctor` finds that this back end works here.
bool works(const Setting& setting) {
  const Outcome doctor = run_program({.words = {built_program("tools/varve"), "doctor", "--json"}});
  const auto report = json::parse(doctor.out, nullptr, false);
  if (report.is_discarded()) return false;
  for (const auto& row : report.at("back_ends"))
    if (row.at("name") == setting.value) return row.at("works").get<bool>();
  return false;
}

class ToolsExamples : public testing::TestWithParam<Setting> {
 protected:
  Invocation example(const std::string& name, std::vector<std::string> words) {
    words.insert(words.begin(), built_program("examples/" + name));
    Invocation invocation{.words = std::move(words)};
    if (!GetParam().variable.empty()) invocation.environment = {{GetParam().variable, GetParam().value}};
    return invocation;
  }

  // Runs it until `durable` images of this run were reported, and a random while longer. False: it ended before.
  bool run_and_kill(const Invocation& invocation, int durable) {
    RunningProgram program(invocation);
    std::string line;
    int seen = 0;
    while (seen < durable) {
      if (!program.next_line(line, 60s)) return false;
      if (line.starts_with("durable ") || line.starts_with("written ")) ++seen;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 30'000));
    return program.kill_and_wait().signal == SIGKILL;
  }

  void kill_resume_compare(const std::string& name, const std::vector<std::string>& base) {
    const std::string reference = directory_ / "reference", out = directory_ / "out", store = directory_ / "store";
    auto plain = base;
    plain.insert(plain.end(), {"--out", reference, "--quiet"});
    ASSERT_EQ(run_program(example(name, plain)).exit_code, 0);

    auto words = base;
    words.insert(words.end(), {"--store", store, "--out", out, "--quiet", "--stats", directory_ / "stats"});
    for (const int durable : {2, 1}) ASSERT_TRUE(run_and_kill(example(name, words), durable)) << "seed " << seed_;
    const Outcome last = run_program(example(name, words));
    ASSERT_EQ(last.exit_code, 0) << last.err << "\nseed " << seed_;
    EXPECT_THAT(last.out, testing::ContainsRegex("resumed from image [0-9]+ at step [0-9]+\n"));
    EXPECT_TRUE(content(out) == content(reference)) << "not the same bits; seed " << seed_;
    EXPECT_THAT(content(directory_ / "stats"), HasSubstr("kind=delta"));
  }

  TemporaryDirectory directory_;
  const unsigned seed_ = std::random_device{}();
  std::mt19937 random_{seed_};
};

TEST_P(ToolsExamples, GrayScottEndsWithTheSameBitsAfterKills) {
  if (!GetParam().variable.empty() && !works(GetParam()))
    GTEST_SKIP() << GetParam().variable << "=" << GetParam().value << " does not work on this machine";
  kill_resume_compare("gray_scott", {"--size", "128", "--steps", "120", "--every", "8", "--delay-ms", "4"});
}

TEST_P(ToolsExamples, SparseLifeEndsWithTheSameBitsAfterKills) {
  if (!GetParam().variable.empty() && !works(GetParam()))
    GTEST_SKIP() << GetParam().variable << "=" << GetParam().value << " does not work on this machine";
  kill_resume_compare("sparse_life",
                      {"--size", "1024", "--steps", "120", "--every", "8", "--gliders", "40", "--delay-ms", "4"});
}

INSTANTIATE_TEST_SUITE_P(BackEnds, ToolsExamples,
                         testing::Values(Setting{}, Setting{"VARVE_TRACKER", "uffd"},
                                         Setting{"VARVE_TRACKER", "soft-dirty"}, Setting{"VARVE_TRACKER", "mprotect"},
                                         Setting{"VARVE_TRACKER", "hash"}, Setting{"VARVE_CAPTURE", "copy"},
                                         Setting{"VARVE_CAPTURE", "fork"}, Setting{"VARVE_IO", "uring"},
                                         Setting{"VARVE_IO", "posix"}),
                         [](const testing::TestParamInfo<Setting>& setting) {
                           std::string name = setting.param.value.empty() ? "automatic" : setting.param.value;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ToolsExamplesAlone, HelpTellsEveryOptionAndWrongOnesExitWith2) {
  for (const std::string name : {"gray_scott", "sparse_life"}) {
    const std::string program = built_program("examples/" + name);
    const Outcome help = run_program({.words = {program, "--help"}});
    EXPECT_EQ(help.exit_code, 0);
    for (const char* option : {"--store", "--size", "--steps", "--every", "--out", "--stats", "--chain", "--delay-ms"})
      EXPECT_THAT(help.out, HasSubstr(option)) << name;
    for (const auto& words : std::vector<std::vector<std::string>>{
             {"--nonsense"}, {"--size"}, {"--size", "0"}, {"--size", "many"}, {"surplus"}}) {
      auto all = words;
      all.insert(all.begin(), program);
      const Outcome outcome = run_program({.words = all});
      EXPECT_EQ(outcome.exit_code, 2) << name << " " << words[0];
      EXPECT_THAT(outcome.err, testing::MatchesRegex(name + ": .+: .+; .+\n"));
    }
  }
}

TEST(ToolsExamplesAlone, AnOutputThatCanNotBeWrittenIsAnError) {
  const Outcome outcome = run_program(
      {.words = {built_program("examples/gray_scott"), "--size", "16", "--steps", "1", "--out", "/nonexistent/file"}});
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("/nonexistent/file"));
}

TEST(ToolsExamplesAlone, GrayScottPaintsAPicture) {
  TemporaryDirectory directory;
  const std::string picture = directory / "v.png";
  const Outcome outcome = run_program(
      {.words = {built_program("examples/gray_scott"), "--size", "64", "--steps", "10", "--png", picture, "--quiet"}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(content(picture).starts_with("\x89PNG"));
}

TEST(ToolsExamplesAlone, AFixedBoundaryStaysAsItWas) {
  TemporaryDirectory directory;
  const std::string out = directory / "state";
  const Outcome outcome = run_program({.words = {built_program("examples/gray_scott"), "--size", "32", "--steps", "200",
                                                 "--boundary", "fixed", "--out", out, "--quiet"}});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const std::string state = content(out);
  ASSERT_EQ(state.size(), 2u * 32 * 32 * sizeof(double));
  const auto* u = reinterpret_cast<const double*>(state.data());
  bool changed = false;
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(u[i], 1.0);
    EXPECT_EQ(u[31 * 32 + i], 1.0);
    EXPECT_EQ(u[i * 32], 1.0);
    EXPECT_EQ(u[i * 32 + 31], 1.0);
    changed = changed || u[16 * 32 + i] != 1.0;
  }
  EXPECT_TRUE(changed);
}

std::string demo_script() { return built_program("examples/demo.sh"); }

TEST(ToolsExamplesDemo, TheQuickDemoEndsWithIdentical) {
  TemporaryDirectory directory;
  const Outcome outcome = run_program({.words = {"/bin/bash", demo_script(), built_program(""), "--quick"},
                                       .environment = {{"TMPDIR", directory.path()}}});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("identical: both programs"));
  EXPECT_TRUE(fs::is_empty(directory.path())) << "stores were left behind";
}

TEST(ToolsExamplesDemo, TheDemoNeverSaysIdenticalWhenAResumedRunEndsWithOtherBits) {
  TemporaryDirectory directory;
  // A build whose gray_scott computes something else when it has a store, as if a restore were wrong.
  const std::string build = directory / "build";
  fs::create_directories(build + "/examples");
  std::ofstream(build + "/examples/gray_scott")
      << "#!/bin/bash\ncase \" $* \" in *' --store '*) set -- \"$@\" --boundary fixed ;; esac\nexec '"
      << built_program("examples/gray_scott") << "' \"$@\"\n";
  fs::create_symlink(built_program("examples/sparse_life"), build + "/examples/sparse_life");
  fs::permissions(build + "/examples/gray_scott", fs::perms::owner_all);
  const Outcome outcome = run_program(
      {.words = {"/bin/bash", demo_script(), build, "--quick"}, .environment = {{"TMPDIR", directory.path()}}});
  EXPECT_EQ(outcome.exit_code, 1) << outcome.out << outcome.err;
  EXPECT_THAT(outcome.out, testing::Not(HasSubstr("identical")));
  EXPECT_THAT(outcome.err, HasSubstr("differs from the undisturbed one"));
}

}  // namespace
}  // namespace varve::test
