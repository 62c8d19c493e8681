// SPDX-License-Identifier: Apache-2.0
//
// The holder is a good guest: the program notices nothing of it, and it outlives nothing.
#include "engine/fork_holder.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>

#include "base/clock.h"
#include "engine/capture_tuning.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

using capture_test::fill;
using capture_test::in_a_child;
using capture_test::Mapped;

constexpr std::size_t kMiB = std::size_t{1} << 20;

MemorySpan span_of(const Mapped& memory) {
  return {0, memory.get(), memory.bytes(), reinterpret_cast<std::uintptr_t>(memory.get()), true};
}

/// Reads the holder to its end and compares with what was held; in words what differs.
std::string compare(ForkHolder& holder, const std::byte* memory, const std::vector<std::byte>& held) {
  std::size_t bytes = 0;
  if (const Status asked = holder.ask(holder.spans()); !asked) return asked.error().message();
  while (true) {
    auto extent = holder.next();
    if (!extent) return extent.error().message();
    if (!extent->has_value()) break;
    for (std::uint32_t i = 0; i < (*extent)->pieces; ++i) {
      const PieceRecord& piece = *(*extent)->record(i);
      const std::size_t at = piece.begin - reinterpret_cast<std::uintptr_t>(memory);
      if (std::memcmp((*extent)->memory + piece.offset, held.data() + at, piece.bytes) != 0) return "content differs";
      bytes += piece.bytes;
    }
  }
  return bytes == held.size() ? "" : "got " + std::to_string(bytes) + " bytes";
}

std::string file_text(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Whether the condition comes true in time; far longer than it should take, for machines under load.
bool within_seconds(double seconds, const std::function<bool()>& condition) {
  const std::uint64_t begin = monotonic_ns();
  while (!condition()) {
    if (static_cast<double>(monotonic_ns() - begin) > seconds * 1e9) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// Returns when it has ended, still to be reaped.
void kill_and_wait(pid_t pid) {
  kill(pid, SIGKILL);
  siginfo_t ended{};
  EXPECT_EQ(waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT | __WALL), 0);
}

/// The error with which reading ends, or asking already.
std::string read_to_the_error(ForkHolder& holder, bool asked = false) {
  if (!asked)
    if (const Status done = holder.ask(holder.spans()); !done)
      return std::string(to_string(done.error().code())) + ": " + done.error().message();
  while (true) {
    auto next = holder.next();
    if (!next) return std::string(to_string(next.error().code())) + ": " + next.error().message();
    if (!next->has_value()) return "no error";
  }
}

class Holder : public testing::Test {
 protected:
  // More than the ring takes at once, so that a holder is not done before it is read.
  Holder() : holders_(4096), memory_(12 * kMiB) {
    fill(memory_.get(), memory_.bytes(), 42);
    held_.assign(memory_.get(), memory_.get() + memory_.bytes());
  }
  std::unique_ptr<ForkHolder> start() {
    auto holder = holders_.start({span_of(memory_)});
    EXPECT_TRUE(holder) << holder.error().message();
    return holder ? std::move(holder).value() : nullptr;
  }
  std::string compare_all(ForkHolder& holder) { return compare(holder, memory_.get(), held_); }
  std::string proc(const ForkHolder& holder, const char* file) {
    return file_text("/proc/" + std::to_string(holder.pid()) + "/" + file);
  }

  ForkHolders holders_;
  Mapped memory_;
  std::vector<std::byte> held_;
};

std::atomic<int> child_signals = 0;
std::atomic<int> fork_handlers = 0;

TEST_F(Holder, is_not_seen_by_the_programs_waits_and_sends_no_signal) {
  struct sigaction before {};
  struct sigaction count {};
  count.sa_handler = [](int) { ++child_signals; };
  sigaction(SIGCHLD, &count, &before);
  child_signals = 0;
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  EXPECT_EQ(wait(nullptr), -1);
  EXPECT_EQ(errno, ECHILD);
  kill_and_wait(holder->pid());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);  // nor when it has ended
  EXPECT_EQ(errno, ECHILD);
  const pid_t pid = holder->pid();
  holder.reset();
  EXPECT_EQ(kill(pid, 0), -1) << "it was not reaped";
  EXPECT_EQ(child_signals, 0);
  sigaction(SIGCHLD, &before, nullptr);
}

TEST_F(Holder, leaves_the_programs_own_children_alone) {
  const pid_t child = fork();
  if (child == 0) _exit(7);
  { auto holder = start(); }
  int status = 0;
  EXPECT_EQ(waitpid(-1, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST_F(Holder, is_reaped_where_the_program_ignores_the_end_of_its_children) {
  struct sigaction before {};
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGCHLD, &ignore, &before);
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  const pid_t pid = holder->pid();
  EXPECT_EQ(compare_all(*holder), "");
  holder.reset();
  EXPECT_EQ(kill(pid, 0), -1);
  sigaction(SIGCHLD, &before, nullptr);
}

TEST_F(Holder, runs_no_fork_handlers) {
  static const int registered =
      pthread_atfork([] { ++fork_handlers; }, [] { ++fork_handlers; }, [] { ++fork_handlers; });
  ASSERT_EQ(registered, 0);
  fork_handlers = 0;
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_EQ(compare_all(*holder), "");
  EXPECT_EQ(fork_handlers, 0);
}

TEST_F(Holder, holds_no_descriptor_of_the_program) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, 0), 0);
  const UniqueFd lock_file(open("/tmp", O_TMPFILE | O_RDWR, 0600));
  ASSERT_TRUE(lock_file.valid());
  const std::string path = "/proc/self/fd/" + std::to_string(lock_file.get());
  UniqueFd flocked(open(path.c_str(), O_RDWR));
  UniqueFd locked(open(path.c_str(), O_RDWR));
  ASSERT_EQ(flock(flocked.get(), LOCK_EX), 0);
  struct flock whole {};
  whole.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(locked.get(), F_OFD_SETLK, &whole), 0);
  auto holder = start();
  ASSERT_NE(holder, nullptr);

  close(ends[1]);
  pollfd closed{ends[0], POLLIN, 0};
  EXPECT_EQ(poll(&closed, 1, 0), 1) << "the pipe's other end is still open somewhere";
  EXPECT_NE(closed.revents & POLLHUP, 0);
  close(ends[0]);
  flocked.reset();
  locked.reset();
  EXPECT_EQ(flock(lock_file.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(fcntl(lock_file.get(), F_OFD_SETLK, &whole), 0);

  std::set<std::string> open_files;
  const std::string directory = "/proc/" + std::to_string(holder->pid()) + "/fd";
  DIR* const listing = opendir(directory.c_str());
  ASSERT_NE(listing, nullptr);
  while (const dirent* entry = readdir(listing))
    if (entry->d_name[0] != '.') open_files.insert(entry->d_name);
  closedir(listing);
  EXPECT_LE(open_files.size(), 2U + 1U);  // the pipe, the parent's pidfd; for a moment its oom_score_adj
  EXPECT_EQ(open_files.count("0") + open_files.count("1") + open_files.count("2"), 0U);
  EXPECT_EQ(compare_all(*holder), "");
}

TEST_F(Holder, closes_descriptors_one_by_one_where_close_range_is_refused) {
  std::thread([&] {
    ASSERT_TRUE(capture_test::refuse_in_this_thread(436, ENOSYS));  // close_range
    int ends[2];
    ASSERT_EQ(pipe2(ends, 0), 0);
    auto holder = start();
    ASSERT_NE(holder, nullptr);
    close(ends[1]);
    pollfd closed{ends[0], POLLIN, 0};
    // Counting up to a high limit may take longer than start() waits.
    EXPECT_EQ(poll(&closed, 1, 20'000), 1);
    close(ends[0]);
    EXPECT_EQ(compare_all(*holder), "");
  }).join();
}

TEST_F(Holder, blocks_all_signals_and_says_its_name) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_TRUE(within_seconds(10, [&] { return proc(*holder, "comm") == "varve-holder\n"; }));
  const std::string status = proc(*holder, "status");
  EXPECT_NE(status.find("SigBlk:\tfffffffffffbfeff\n"), std::string::npos) << status;  // all but SIGKILL and SIGSTOP
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGALRM}) kill(holder->pid(), number);
  EXPECT_EQ(compare_all(*holder), "");
}

TEST_F(Holder, leaves_the_signal_mask_of_the_program_as_it_was) {
  sigset_t before;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  auto holder = start();
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int number = 1; number < 65; ++number) EXPECT_EQ(sigismember(&before, number), sigismember(&after, number));
}

TEST_F(Holder, that_was_killed_fails_its_own_capture_only_and_says_so) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  ASSERT_TRUE(holder->ask(holder->spans()));
  ASSERT_TRUE(holder->next());
  kill_and_wait(holder->pid());
  const std::string said = read_to_the_error(*holder, true);
  EXPECT_EQ(said.find("io: "), 0U) << said;
  EXPECT_NE(said.find("was killed by signal 9"), std::string::npos) << said;
  holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_EQ(compare_all(*holder), "");
}

TEST_F(Holder, that_somebody_else_reaped_is_an_error_too) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  kill(holder->pid(), SIGKILL);
  EXPECT_EQ(waitpid(holder->pid(), nullptr, __WALL), holder->pid());
  const std::string said = read_to_the_error(*holder);
  EXPECT_NE(said.find("reaped by somebody else"), std::string::npos) << said;
}

TEST_F(Holder, fails_with_an_error_where_part_of_the_memory_is_not_there) {
  ASSERT_EQ(munmap(memory_.get() + kMiB, 4096), 0);
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  const std::string said = read_to_the_error(*holder);
  EXPECT_EQ(said.find("io: "), 0U) << said;
  EXPECT_NE(said.find("killed by signal 11"), std::string::npos) << said;
}

TEST_F(Holder, refuses_memory_that_became_of_a_kind_that_it_does_not_hold) {
  ASSERT_EQ(madvise(memory_.get() + kMiB, 4096, MADV_WIPEONFORK), 0);
  auto wiped = start();
  ASSERT_NE(wiped, nullptr);
  std::string said = read_to_the_error(*wiped);
  EXPECT_EQ(said.find("unsupported: "), 0U) << said;
  EXPECT_NE(said.find("MADV_WIPEONFORK"), std::string::npos) << said;

  ASSERT_EQ(madvise(memory_.get() + kMiB, 4096, MADV_KEEPONFORK), 0);
  ASSERT_NE(mmap(memory_.get() + kMiB, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  auto shared = start();
  ASSERT_NE(shared, nullptr);
  said = read_to_the_error(*shared);
  EXPECT_NE(said.find("became shared"), std::string::npos) << said;
}

TEST_F(Holder, is_not_touched_when_a_child_of_the_program_drops_it) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_EQ(in_a_child([&] {
              holder.reset();
              return std::string("dropped");
            }),
            "dropped");
  EXPECT_EQ(compare_all(*holder), "");
}

/// A process between the test and the holder. This process becomes the one that orphans are given to, and so learns
/// the holder's end by waiting for it.
void expect_holder_goes_with(const std::function<void(pid_t parent)>& end_parent, bool heir,
                             const std::function<void()>& in_parent, bool asked = true) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    ForkHolders holders(4096);
    Mapped memory(16 * kMiB);  // more than the ring takes, so that the holder is not done
    fill(memory.get(), memory.bytes(), 1);
    auto holder = holders.start({span_of(memory)});
    if (asked && holder) [[maybe_unused]]
      const Status done = (*holder)->ask((*holder)->spans());
    pid_t pids[2] = {holder ? (*holder)->pid() : -1, -1};
    if (heir && (pids[1] = fork()) == 0) {  // inherits the write end of the holder's pipe
      while (true) pause();
    }
    [[maybe_unused]] const auto written = write(ends[1], pids, sizeof pids);
    in_parent();
    while (true) pause();
  }
  close(ends[1]);
  pid_t pids[2] = {-1, -1};
  EXPECT_EQ(read(ends[0], pids, sizeof pids), static_cast<ssize_t>(sizeof pids));
  close(ends[0]);
  ASSERT_GT(pids[0], 0);
  end_parent(parent);
  EXPECT_TRUE(within_seconds(5, [&] {
    // Given to us, or ended and left to a parent that does not wait for it.
    if (waitpid(pids[0], nullptr, WNOHANG | __WALL) == pids[0]) return true;
    const std::string stat = file_text("/proc/" + std::to_string(pids[0]) + "/stat");
    return stat.empty() || stat.find(") Z ") != std::string::npos;
  }));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  if (pids[1] > 0) {
    kill(pids[1], SIGKILL);
    waitpid(pids[1], nullptr, __WALL);
  }
  waitpid(pids[0], nullptr, WNOHANG | __WALL);
  prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
}

TEST_F(Holder, that_nobody_asked_goes_when_the_program_is_killed) {
  expect_holder_goes_with([](pid_t parent) { kill(parent, SIGKILL); }, false, [] {}, false);
}

TEST_F(Holder, gives_what_it_was_asked_for_in_that_order) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  std::memset(memory_.get(), 0, memory_.bytes());
  std::vector<MemorySpan> wanted;  // more than one question; from the end to the begin
  for (std::size_t page = memory_.bytes() / 4096; page-- > 0;) {
    MemorySpan span = span_of(memory_);
    span.begin += page * 4096;
    span.bytes = 4096;
    for (int times = 0; times < 16; ++times) wanted.push_back(span);
  }
  ASSERT_GT(wanted.size(), kAskedSpans);
  ASSERT_TRUE(holder->ask(wanted));
  std::size_t piece = 0;
  while (true) {
    const auto extent = holder->next();
    ASSERT_TRUE(extent) << extent.error().message();
    if (!extent->has_value()) break;
    for (std::uint32_t i = 0; i < (*extent)->pieces; ++i, ++piece) {
      const PieceRecord& record = *(*extent)->record(i);
      ASSERT_EQ(record.begin, reinterpret_cast<std::uintptr_t>(wanted[piece].begin));
      ASSERT_EQ(record.bytes, 4096U);
      const auto at = static_cast<std::size_t>(wanted[piece].begin - memory_.get());
      ASSERT_EQ(std::memcmp((*extent)->memory + record.offset, held_.data() + at, 4096), 0);
    }
  }
  EXPECT_EQ(piece, wanted.size());
}

TEST_F(Holder, goes_when_the_program_is_killed) {
  expect_holder_goes_with([](pid_t parent) { kill(parent, SIGKILL); }, false, [] {});
}

TEST_F(Holder, goes_when_the_program_is_killed_though_a_child_inherited_its_pipe) {
  expect_holder_goes_with([](pid_t parent) { kill(parent, SIGKILL); }, true, [] {});
}

TEST_F(Holder, goes_when_the_program_executes_another) {
  expect_holder_goes_with([](pid_t) {}, false, [] { execl("/bin/sleep", "sleep", "60", nullptr); });
}

TEST_F(Holder, goes_where_there_are_no_pidfds) {
  std::thread([&] {
    ASSERT_TRUE(capture_test::refuse_in_this_thread(SYS_pidfd_open, ENOSYS));
    expect_holder_goes_with([](pid_t parent) { kill(parent, SIGKILL); }, true, [] {});
  }).join();
}

TEST_F(Holder, stays_while_the_thread_that_made_it_ends) {
  std::unique_ptr<ForkHolder> holder;
  std::thread([&] { holder = start(); }).join();
  ASSERT_NE(holder, nullptr);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(compare_all(*holder), "");
}

TEST_F(Holder, is_reaped_though_the_program_closed_descriptors_that_are_not_its_own) {
  EXPECT_EQ(in_a_child([&]() -> std::string {
              ForkHolders holders(4096);
              Mapped memory(16 * kMiB);
              fill(memory.get(), memory.bytes(), 1);
              auto holder = holders.start({span_of(memory)});
              if (!holder) return holder.error().message();
              const pid_t pid = (*holder)->pid();
              for (int fd = 0; fd < 256; ++fd) {
                char target[64] = {};
                const std::string link = "/proc/self/fd/" + std::to_string(fd);
                if (readlink(link.c_str(), target, sizeof target - 1) > 0 && std::strstr(target, "pidfd") != nullptr)
                  close(fd);
              }
              holder->reset();
              return kill(pid, 0) == -1 ? "" : "it lives, or is a zombie";
            }),
            "");
}

/// Of what it has in memory, the bytes that nobody else has.
/// Of the mapping that holds `address`, from /proc/PID/smaps; empty: it is not there.
std::optional<std::uint64_t> private_bytes(const std::string& smaps, const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::istringstream lines(smaps);
  std::optional<std::uint64_t> kilobytes;
  for (std::string line; std::getline(lines, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      if (kilobytes) break;
      if (begin <= wanted && wanted < end) kilobytes = 0;
    } else if (kilobytes && line.starts_with("Private_")) {
      *kilobytes += std::strtoull(line.c_str() + line.find(':') + 1, nullptr, 10);
    }
  }
  if (!kilobytes) return {};
  return *kilobytes << 10;
}

// Of the one mapping: under a sanitizer its own memory is private to the holder.
TEST_F(Holder, that_is_read_has_no_second_copy_of_what_nobody_wrote) {
  auto holder = start();
  ASSERT_NE(holder, nullptr);
  EXPECT_EQ(compare_all(*holder), "");
  const std::string smaps = proc(*holder, "smaps");
  if (smaps.empty()) GTEST_SKIP() << "no /proc/PID/smaps here";
  const auto bytes = private_bytes(smaps, memory_.get() + memory_.bytes() / 2);
  ASSERT_TRUE(bytes.has_value()) << smaps;
  EXPECT_LT(*bytes, memory_.bytes() / 4) << smaps;
}

TEST_F(Holder, copies_at_least_at_the_niceness_that_was_asked_for) {
  ForkHolders nice(4096, 19);
  auto holder = nice.start({span_of(memory_)});
  ASSERT_TRUE(holder) << holder.error().message();
  EXPECT_EQ(compare_all(**holder), "");
  EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>((*holder)->pid())), 19);
  auto as_we_are = start();
  ASSERT_NE(as_we_are, nullptr);
  EXPECT_EQ(compare_all(*as_we_are), "");
  EXPECT_EQ(getpriority(PRIO_PROCESS, static_cast<id_t>(as_we_are->pid())), getpriority(PRIO_PROCESS, 0));
}

std::string hold_and_compare(ForkHolders& holders) {
  Mapped memory(3 * kMiB);
  fill(memory.get(), memory.bytes(), 9);
  const std::vector<std::byte> held(memory.get(), memory.get() + memory.bytes());
  auto holder = holders.start({span_of(memory)});
  if (!holder) return holder.error().message();
  std::memset(memory.get(), 0, memory.bytes());
  return compare(**holder, memory.get(), held);
}

TEST(ForkHolders, say_that_they_work) {
  ForkHolders holders(4096);
  EXPECT_EQ(holders.describe(), "not tried yet");
  EXPECT_EQ(hold_and_compare(holders), "");
  EXPECT_EQ(holders.describe(), "works");
}

TEST(ForkHolders, serve_an_ordinary_user_whose_process_may_not_be_looked_into) {
  EXPECT_EQ(in_a_child([]() -> std::string {
              if (!capture_test::become_ordinary_user()) return "";
              ForkHolders holders(4096);
              for (const unsigned long dumpable : {1UL, 0UL}) {
                if (prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0) != 0) return "prctl failed";
                if (auto said = hold_and_compare(holders); !said.empty()) return said;
              }
              return "";
            }),
            "");
}

TEST(ForkHolders, say_which_limit_was_met) {
  EXPECT_EQ(in_a_child([]() -> std::string {
              if (!capture_test::become_ordinary_user()) return "";
              const rlimit none{0, 0};
              setrlimit(RLIMIT_NPROC, &none);
              ForkHolders holders(4096);
              Mapped memory(kMiB);
              const auto holder = holders.start({span_of(memory)});
              if (holder) return "a process was made";
              return holder.error().os_errno() == EAGAIN && holder.error().cause().find("EAGAIN") == 0
                         ? ""
                         : holder.error().message();
            }),
            "");
}

TEST(ForkHolders, leave_no_descriptors_and_no_memory_behind) {
  ForkHolders holders(4096);
  const auto open_descriptors = [] {
    int count = 0;
    for (int fd = 0; fd < 256; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    return count;
  };
  ASSERT_EQ(hold_and_compare(holders), "");
  const int before = open_descriptors();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(hold_and_compare(holders), "");
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(holders.shared_bytes(), 0U);
}

}  // namespace
}  // namespace varve
