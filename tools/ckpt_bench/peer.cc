// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/peer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <new>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tools/ckpt_bench/setup.h"

namespace varve::tools {
namespace {

constexpr std::size_t kMaxOutput = 64 << 10;  // kept of what a peer says

Error peer_refused(const std::string& text, const std::string& cause) {
  return fail(ErrorCode::invalid_argument,
              {"peer '" + text + "' refused", cause, "write --peer NAME='COMMAND with {pid}'"});
}

std::string replaced(std::string text, std::string_view mark, const std::string& by) {
  for (auto at = text.find(mark); at != std::string::npos; at = text.find(mark, at + by.size()))
    text.replace(at, mark.size(), by);
  return text;
}

std::string last_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  const auto begin = text.find_last_of('\n');
  return begin == std::string::npos ? text : text.substr(begin + 1);
}

std::string failure_of(int status, const std::string& output) {
  std::string text;
  if (WIFSIGNALED(status)) text = fmt::format("ended by signal {}", WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) text = fmt::format("exit status {}", WEXITSTATUS(status));
  const std::string said = last_line(output);
  return text.empty() || said.empty() ? text : text + ": " + said;
}

// In a child: it ends with the process that started it, also when that one is already gone.
void end_with(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
}

struct Running {
  pid_t pid = -1;
  UniqueFd output;
};

Result<Running> start(const std::string& command, const std::string& directory) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return os_error("pipe for a peer failed", errno);
  Running running{.pid = -1, .output = UniqueFd(ends[0])};
  const UniqueFd theirs(ends[1]);
  const pid_t benchmark = getpid(), pid = fork();
  if (pid < 0) return os_error("start of a peer failed", errno);
  if (pid == 0) {
    end_with(benchmark);
    setpgid(0, 0);
    const int null = open("/dev/null", O_RDWR);
    if (null >= 0) dup2(null, STDIN_FILENO);
    fcntl(theirs.get(), F_SETFL, 0);
    dup2(theirs.get(), STDOUT_FILENO);
    dup2(theirs.get(), STDERR_FILENO);
    if (chdir(directory.c_str()) == 0) execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  running.pid = pid;
  setpgid(pid, pid);  // in both, so that neither is late
  return running;
}

// As much as a pipe holds at most, so that it comes back also from one that never stops talking.
void take_output(const Running& running, std::string& output) {
  char piece[4096];
  for (unsigned i = 0; i < 16; ++i) {
    const ssize_t got = read(running.output.get(), piece, sizeof piece);
    if (got <= 0) return;
    if (output.size() < kMaxOutput) output.append(piece, static_cast<std::size_t>(got));
  }
}

// It stays a zombie, so that its number, which is that of its group, can't be another's.
bool has_ended(pid_t pid) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

// Reads what it says until it ends. False: it was killed, since the time was over or the benchmark is to end. What it
// left behind in its process group is killed in any case, so that it is not there while others are measured.
bool wait_for(const Running& running, unsigned seconds, int& status, std::string& output) {
  const std::uint64_t until = monotonic_ns() + std::uint64_t{seconds} * 1'000'000'000;
  bool ended = false;
  while (!(ended = has_ended(running.pid)) && monotonic_ns() <= until && check_interrupted()) {
    take_output(running, output);
    pollfd end = {running.output.get(), POLLIN, 0};
    poll(&end, 1, 1);
    if ((end.revents & (POLLIN | POLLHUP)) == POLLHUP) usleep(1000);  // it closed its output, and goes on
  }
  kill(-running.pid, SIGKILL);
  take_output(running, output);  // its last words
  waitpid(running.pid, &status, 0);
  return ended;
}

}  // namespace

Result<Peer> parse_peer(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0) return peer_refused(text, "it has no name");
  Peer peer{.name = text.substr(0, equals), .command = text.substr(equals + 1)};
  if (peer.command.find("{pid}") == std::string::npos)
    return peer_refused(text, "its command does not say {pid}, the process to be checkpointed");
  return peer;
}

struct Victim::Shared {
  std::atomic<std::uint64_t> longest_gap_ns{0};
  std::atomic<bool> ready{false};
};

Result<Victim> Victim::create(std::span<std::byte> memory) {
  void* page = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return os_error("mapping for a process to be checkpointed failed", errno);
  Victim victim;
  victim.shared_ = new (page) Shared;
  Shared& shared = *victim.shared_;
  const pid_t benchmark = getpid();
  victim.pid_ = fork();
  if (victim.pid_ < 0) return os_error("start of a process to be checkpointed failed", errno);
  if (victim.pid_ == 0) {
    end_with(benchmark);
    setsid();
    const int null = open("/dev/null", O_RDWR);
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, fd);
    syscall(SYS_close_range, 3U, ~0U, 0U);
    for (std::size_t at = 0; at < memory.size(); at += 4096) {  // pages of its own, rather than the parent's
      auto* byte = reinterpret_cast<volatile std::byte*>(memory.data() + at);
      *byte = *byte;
    }
    shared.ready = true;
    for (std::uint64_t last = monotonic_ns();;) {
      const timespec tenth = {0, 100'000};
      nanosleep(&tenth, nullptr);
      const std::uint64_t now = monotonic_ns();
      if (now - last > shared.longest_gap_ns) shared.longest_gap_ns = now - last;
      last = now;
    }
  }
  while (!shared.ready && victim.alive()) usleep(1000);
  if (!shared.ready)
    return fail(ErrorCode::io, {"start of a process to be checkpointed failed", "it ended while it took its memory",
                                "choose a smaller --size"});
  return victim;
}

Victim::Victim(Victim&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), shared_(std::exchange(other.shared_, nullptr)) {}

Victim::~Victim() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    kill(pid_, SIGCONT);
    waitpid(pid_, nullptr, 0);
  }
  if (shared_ != nullptr) munmap(shared_, sizeof(Shared));
}

bool Victim::alive() {
  if (pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
  return pid_ > 0;
}

void Victim::forget_gaps() { shared_->longest_gap_ns = 0; }

std::uint64_t Victim::longest_gap_ns() const { return shared_->longest_gap_ns; }

Result<PeerRun> run_peer(const Peer& peer, pid_t pid, const std::string& directory, unsigned seconds) {
  const std::string command = replaced(replaced(peer.command, "{pid}", std::to_string(pid)), "{dir}", directory);
  const UniqueFd folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return os_error("open of " + directory + " failed", errno);
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(const Running running, start(command, directory));
  int status = 0;
  std::string output;
  PeerRun run;
  if (!wait_for(running, seconds, status, output)) {
    VARVE_TRY(check_interrupted());
    run.failure = fmt::format("killed: it took more than {} s", seconds);
    return run;
  }
  run.failure = failure_of(status, output);
  if (run.failure.empty() && syncfs(folder.get()) != 0) return os_error("flush behind a peer failed", errno);
  run.ns = monotonic_ns() - begin_ns;
  return run;
}

}  // namespace varve::tools
