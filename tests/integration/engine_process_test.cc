// SPDX-License-Identifier: Apache-2.0
//
// The engine as a guest of its process: forks of the program, other processes, signals, limits, permissions, tmpfs.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <atomic>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/integration/engine_fixture.h"
#include "varve/varve.h"

namespace varve::test {
namespace {

class EngineProcess : public ::testing::Test {
 protected:
  Engine opened(const Options& options) {
    auto engine = Engine::open(options);
    if (!engine) ADD_FAILURE() << engine.error().message();
    return std::move(engine).value();
  }
  Options options() const { return small_options(directory_ / "store"); }

  const TemporaryDirectory directory_;
};

/// The exit status of a forked child that runs this; it does not return to the test.
template <class Body>
int in_forked_child(const Body& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

template <class T>
bool is_unsupported(const Result<T>& result) {
  return !result.has_value() && result.error().code() == ErrorCode::unsupported;
}

TEST_F(EngineProcess, is_inert_in_a_forked_child_and_the_parent_is_undisturbed) {
  Pages memory(64);
  fill(memory.span(), 1);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(engine));
  const auto ticket = engine.checkpoint();
  ASSERT_OK(ticket);
  const int child = in_forked_child([&] {
    if (!is_unsupported(engine.checkpoint())) return 1;
    if (!is_unsupported(engine.protect("other", memory.begin(), 8))) return 2;
    if (!is_unsupported(engine.unprotect("memory"))) return 3;
    if (!is_unsupported(engine.exclude("memory", 0, 8))) return 4;
    if (!is_unsupported(engine.touch(memory.begin(), 8))) return 5;
    if (!is_unsupported(engine.restore("1"))) return 6;
    if (!is_unsupported(engine.restore_if_any())) return 7;
    if (!is_unsupported(engine.images())) return 8;
    if (!is_unsupported(engine.wait())) return 9;
    if (!is_unsupported(ticket->wait())) return 10;
    if (!is_unsupported(engine.close())) return 11;
    if (engine.memory_use().staging_bytes != 0) return 12;
    fill(memory.span(), 2);  // the child's own copy, protected or not
    Engine destroyed = std::move(engine);
    return 0;
  });
  EXPECT_EQ(child, 0);
  memory.page(3)[0] ^= std::byte{1};
  const auto expected = copy_of(memory.span());
  ASSERT_OK(checkpoint(engine));
  fill(memory.span(), 3);
  ASSERT_OK(engine.restore("latest"));
  EXPECT_TRUE(same(memory.span(), expected));
  ASSERT_OK(engine.close());
}

TEST_F(EngineProcess, a_child_does_not_keep_the_chain_locked) {
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  pid_t child = -1;
  {
    Engine engine = opened(options());
    child = fork();
    if (child == 0) {
      close(pipe_ends[1]);
      char byte;
      [[maybe_unused]] const auto got = read(pipe_ends[0], &byte, 1);  // until the parent is done
      _exit(0);
    }
    ASSERT_OK(engine.close());
  }
  EXPECT_OK(Engine::open(options()));
  close(pipe_ends[1]);
  close(pipe_ends[0]);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
}

int child_holds_the_chain(const std::vector<std::string>& arguments) {
  auto engine = Engine::open(small_options(arguments.at(0)));
  if (!engine) return 1;
  const int ready = open(arguments.at(1).c_str(), O_WRONLY);
  const std::string pid = std::to_string(getpid());
  if (write(ready, pid.data(), pid.size()) < 0) return 2;
  close(ready);
  pause();
  return 3;
}

TEST_F(EngineProcess, another_process_that_holds_the_chain_is_named_and_its_kill_frees_the_chain) {
  const std::string fifo = directory_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const std::string store = directory_ / "store";
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "/proc/self/exe", "--child", "hold", store.c_str(), fifo.c_str(), nullptr);
    _exit(127);
  }
  const int ready = open(fifo.c_str(), O_RDONLY);
  char text[32] = {};
  ASSERT_GT(read(ready, text, sizeof text - 1), 0);
  close(ready);
  const auto refused = Engine::open(options());
  ASSERT_ERROR(ErrorCode::busy, refused);
  EXPECT_NE(refused.error().message().find(std::to_string(child)), std::string::npos) << refused.error().message();
  Options other = options();
  other.chain = "other";
  EXPECT_OK(Engine::open(other)) << "another chain of the same store is free";
  kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_OK(Engine::open(options()));
}

std::atomic<int> signals_elsewhere{0};
pthread_t main_thread;

TEST_F(EngineProcess, engine_threads_take_no_signals_of_the_program) {
  Pages memory(16);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  main_thread = pthread_self();
  struct sigaction action = {};
  action.sa_handler = [](int) {
    if (!pthread_equal(pthread_self(), main_thread)) ++signals_elsewhere;
  };
  action.sa_flags = SA_RESTART;
  struct sigaction before = {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  sigset_t usr1;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &usr1, nullptr);  // so that the kernel would look for another thread
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(kill(getpid(), SIGUSR1), 0);
    fill(memory.span(), static_cast<std::uint64_t>(i));
    ASSERT_OK(checkpoint(engine));
  }
  EXPECT_EQ(signals_elsewhere, 0);
  pthread_sigmask(SIG_UNBLOCK, &usr1, nullptr);
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  ASSERT_OK(engine.close());
}

int child_fills_its_disk(const std::vector<std::string>& arguments) {
  signal(SIGXFSZ, SIG_IGN);
  Pages memory(1024);
  Options options = small_options(arguments.at(0));
  options.compress = false;
  auto engine = Engine::open(options);
  if (!engine || !engine->protect("memory", memory.begin(), memory.bytes())) return 1;
  fill(memory.span(), 1);
  if (!checkpoint(*engine)) return 2;
  rlimit limit = {};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlim_t unlimited = limit.rlim_cur;
  limit.rlim_cur = 4096;
  setrlimit(RLIMIT_FSIZE, &limit);
  fill(memory.span(), 2);
  const auto failed = checkpoint(*engine);
  if (failed || failed.error().code() != ErrorCode::io) return 3;
  memory.page(9)[0] ^= std::byte{1};
  const auto expected = copy_of(memory.span());
  limit.rlim_cur = unlimited;
  setrlimit(RLIMIT_FSIZE, &limit);
  const auto good = checkpoint(*engine);
  if (!good || good->changed_chunks != 1024) return 4;
  fill(memory.span(), 3);
  if (!engine->restore("latest") || !same(memory.span(), expected)) return 5;
  return engine->close() ? 0 : 6;
}

/// What the program does to a mapping after protect() is seen, at the latest when its image is read.
TEST_F(EngineProcess, memory_that_forks_stop_holding_fails_one_image_and_is_copied_from_then_on) {
  for (const int advice : {MADV_WIPEONFORK, MADV_DONTFORK}) {
    Options forked = options();
    forked.chain = "advice-" + std::to_string(advice);
    forked.capture = Capture::fork;
    Pages memory(32);
    fill(memory.span(), 7);
    Engine engine = opened(forked);
    ASSERT_OK(engine.protect("grid", memory.begin(), memory.bytes()));
    ASSERT_OK(checkpoint(engine));

    ASSERT_EQ(madvise(memory.begin(), memory.bytes(), advice), 0);
    fill(memory.span(), 8);
    const auto failed = checkpoint(engine);
    ASSERT_FALSE(failed.has_value()) << "advice " << advice;
    memory.page(3)[5] ^= std::byte{1};
    const auto expected = copy_of(memory.span());
    const auto copied = checkpoint(engine);
    ASSERT_OK(copied);
    EXPECT_EQ(copied->capture, Capture::copy);
    EXPECT_EQ(copied->changed_chunks, 32U);
    fill(memory.span(), 9);
    ASSERT_OK(engine.restore("latest"));
    EXPECT_TRUE(same(memory.span(), expected)) << "advice " << advice;
    ASSERT_OK(engine.close());
  }
}

TEST_F(EngineProcess, a_file_size_limit_fails_the_image_and_not_the_program) {
  EXPECT_EQ(run_child("fill-disk", {directory_ / "store"}).exit_status, 0);
}

int child_opens_a_read_only_directory(const std::vector<std::string>& arguments) {
  constexpr uid_t kNobody = 65534;
  if (geteuid() == 0 && (setgid(kNobody) != 0 || setuid(kNobody) != 0)) return 77;
  Options options = small_options(arguments.at(0) + "/store");
  options.tracker = Tracker::hash;  // others need /proc/self, which a process that changed its user may not read
  auto engine = Engine::open(options);
  if (engine) return 1;
  if (engine.error().code() != ErrorCode::io) return 2;
  return engine.error().message().find("EACCES") == std::string::npos ? 3 : 0;
}

TEST_F(EngineProcess, a_directory_that_may_not_be_written_gives_a_clear_error) {
  ASSERT_EQ(chmod(directory_.path().c_str(), 0555), 0);
  const auto end = run_child("read-only", {directory_.path()});
  ASSERT_EQ(chmod(directory_.path().c_str(), 0700), 0);
  if (end.exit_status == 77) GTEST_SKIP() << "root here may not become another user";
  EXPECT_EQ(end.exit_status, 0);
}

TEST_F(EngineProcess, images_on_tmpfs_are_written_and_never_durable) {
  constexpr long kTmpfsMagic = 0x01021994;  // linux/magic.h
  struct statfs traits = {};
  if (statfs("/dev/shm", &traits) != 0 || traits.f_type != kTmpfsMagic || access("/dev/shm", W_OK) != 0)
    GTEST_SKIP() << "/dev/shm is no tmpfs that may be written";
  std::string path = "/dev/shm/varve-engine-XXXXXX";
  ASSERT_NE(mkdtemp(path.data()), nullptr);
  Pages memory(4);
  ::testing::internal::CaptureStderr();
  {
    Engine engine = opened(small_options(path));
    ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
    const auto result = checkpoint(engine);
    ASSERT_OK(result);
    EXPECT_FALSE(result->durable);
    EXPECT_EQ(engine.choices().file_system, "tmpfs");
    ASSERT_OK(engine.close());
  }
  { EXPECT_OK(Engine::open(small_options(path))); }
  const std::string shown = ::testing::internal::GetCapturedStderr();
  const auto first = shown.find("never durable");
  EXPECT_NE(first, std::string::npos) << shown;
  EXPECT_EQ(shown.find("never durable", first + 1), std::string::npos) << "it warns once:\n" << shown;
  std::filesystem::remove_all(path);
}

/// So that the first image, which holds everything, does not have it in its stall.
TEST_F(EngineProcess, staging_for_the_first_image_is_made_before_it) {
  Options roomy = options();
  roomy.staging_bytes = std::size_t{128} << 20;
  roomy.capture = Capture::copy;
  Engine engine = opened(roomy);
  ASSERT_LE(engine.memory_use().staging_bytes, std::size_t{64} << 20);
  Pages memory((std::size_t{100} << 20) / Pages::page_bytes());
  ASSERT_OK(engine.protect("grid", memory.begin(), memory.bytes()));
  for (int i = 0; i < 3000 && engine.memory_use().staging_bytes < memory.bytes(); ++i) usleep(10'000);
  EXPECT_GE(engine.memory_use().staging_bytes, memory.bytes());
  ASSERT_OK(engine.close());
}

TEST_F(EngineProcess, says_what_serves_it) {
  Pages memory(16);
  Engine engine = opened(options());
  ASSERT_OK(engine.protect("memory", memory.begin(), memory.bytes()));
  ASSERT_OK(checkpoint(engine));
  const Choices choices = engine.choices();
  EXPECT_FALSE(choices.tracker.empty());
  EXPECT_FALSE(choices.capture.empty());
  EXPECT_FALSE(choices.io.empty());
  EXPECT_FALSE(choices.file_system.empty());
  RecordProperty("tracker", choices.tracker);
  const MemoryUse use = engine.memory_use();
  EXPECT_GT(use.staging_bytes, 0U);
  EXPECT_GE(use.other_bytes, 16U * 16);
  ASSERT_OK(engine.close());
}

}  // namespace
}  // namespace varve::test

int main(int argc, char** argv) {
  return varve::test::run_tests_or_child(argc, argv,
                                         {{"hold", varve::test::child_holds_the_chain},
                                          {"fill-disk", varve::test::child_fills_its_disk},
                                          {"read-only", varve::test::child_opens_a_read_only_directory}});
}
