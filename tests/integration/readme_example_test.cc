// SPDX-License-Identifier: Apache-2.0
//
// The program that the README shows, word for word (CMakeLists.txt cuts it out): killed at moments that differ from run
// to run, resumed, and compared with a run that nobody disturbed.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "storage/io.h"
#include "storage/store.h"
#include "tests/support/program.h"
#include "tests/support/temporary_directory.h"

namespace varve {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class ReadmeExample : public testing::Test {
 protected:
  void TearDown() override {
    if (child_ > 0) stop();
  }

  fs::path folder(const std::string& name) {
    const fs::path place = root_ / name;
    fs::create_directory(place);
    return place;
  }

  /// Starts the example in a directory of its own; what it says goes to the file `said`.
  void start(const fs::path& place) {
    const std::string program = test::built_program("tests/integration/readme_example");
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ > 0) return;
    const int said = open((place / "said").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (chdir(place.c_str()) != 0 || said < 0) _exit(126);
    dup2(said, STDOUT_FILENO);
    dup2(said, STDERR_FILENO);
    execl(program.c_str(), program.c_str(), nullptr);
    _exit(127);
  }

  int finish() {
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    child_ = -1;
    return status;
  }

  int stop() {
    kill(child_, SIGKILL);
    return finish();
  }

  bool running() const {
    siginfo_t ended = {};
    return waitid(P_PID, static_cast<id_t>(child_), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
  }

  static std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  /// How many images the store shows; 0 while there is none.
  static std::size_t images(const fs::path& place) {
    storage::IoOptions options;
    options.create = false;
    auto io = storage::open_io((place / "ckpt").string(), options);
    if (!io) return 0;
    storage::StoreOptions existing;
    existing.create = false;
    auto store = storage::Store::open(std::move(io).value(), existing);
    return store ? (*store)->images().size() : 0;
  }

  void wait_for_more_images(const fs::path& place, std::size_t than) {
    while (running() && images(place) <= than) std::this_thread::sleep_for(1ms);
  }

  test::TemporaryDirectory root_;
  pid_t child_ = -1;
};

TEST_F(ReadmeExample, ends_in_the_same_state_when_killed_and_resumed) {
  const auto plain = folder("plain");
  ASSERT_NO_FATAL_FAILURE(start(plain));
  ASSERT_EQ(finish(), 0) << content(plain / "said");
  const std::string expected = content(plain / "rod.bin");
  ASSERT_FALSE(expected.empty());

  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto killed = folder("killed");
  int kills = 0;
  for (std::size_t seen = 0; kills < 3; seen = images(killed)) {
    ASSERT_NO_FATAL_FAILURE(start(killed));
    wait_for_more_images(killed, seen);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    if (!running()) break;
    const int status = stop();
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << content(killed / "said");
    ++kills;
  }
  ASSERT_GE(kills, 1) << "the example ended before it could be killed";
  if (child_ < 0) {
    ASSERT_NO_FATAL_FAILURE(start(killed));
  }
  ASSERT_EQ(finish(), 0) << content(killed / "said");
  EXPECT_NE(content(killed / "said").find("resumed at step "), std::string::npos) << content(killed / "said");
  EXPECT_EQ(content(killed / "rod.bin"), expected) << "the final state differs from that of a run without kills";
}

TEST_F(ReadmeExample, says_what_is_wrong_when_the_store_is_in_use) {
  const auto place = folder("busy");
  ASSERT_NO_FATAL_FAILURE(start(place));
  wait_for_more_images(place, 0);
  if (!running()) GTEST_SKIP() << "the first run had ended before the second began";
  const pid_t first = child_;
  ASSERT_NO_FATAL_FAILURE(start(place));
  const int status = finish();
  child_ = first;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1);
  EXPECT_NE(content(place / "said").find("pid " + std::to_string(first)), std::string::npos) << content(place / "said");
}

}  // namespace
}  // namespace varve
