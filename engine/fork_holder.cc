// SPDX-License-Identifier: Apache-2.0
#include "engine/fork_holder.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/niceness.h"
#include "base/os_error.h"
#include "base/try.h"
#include "engine/mapping.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000  // since Linux 5.2: include/uapi/linux/sched.h
#endif

namespace varve {
namespace {

constexpr std::uint64_t kReadyNs = 2'000'000'000;  // for the holder to close its descriptors
constexpr long kLookMs = 100;                      // how often a silent holder is looked at
constexpr int kFewestDescriptor = 3;               // never in place of a closed standard stream

/// Every signal, those that the C library keeps for itself too, which its own functions leave out.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    const std::uint64_t all = ~std::uint64_t{0};
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof all);
  }
  ~AllSignalsBlocked() { syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof before_); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  std::uint64_t before_ = 0;
};

UniqueFd above_standard_streams(int fd) {
  if (fd < 0 || fd >= kFewestDescriptor) return UniqueFd(fd);
  const UniqueFd low(fd);
  return UniqueFd(fcntl(low.get(), F_DUPFD_CLOEXEC, kFewestDescriptor));
}

/// clone(2) as fork(2) makes it, but: exit signal 0 (no SIGCHLD, no autoreaping, unseen by ordinary waits), no atfork
/// handlers, and CLONE_UNTRACED, since a debugger would take it for a thread. Returns twice; the child must not return.
VARVE_HOLDER_SAFE long clone_holder(int* pidfd, const HolderTask& task) {
  const long pid = syscall(SYS_clone, CLONE_PIDFD | CLONE_UNTRACED, nullptr, pidfd, nullptr, nullptr);
  if (pid == 0) hold(task);
  return pid;
}

Error cannot_fork(std::string cause_of, int os_errno) {
  return os_error("capture by fork failed: " + std::move(cause_of), os_errno,
                  "raise the limit that was met (processes, descriptors or memory), or capture by copy");
}

}  // namespace

ForkHolder::ForkHolder(std::vector<MemorySpan> spans, std::uint32_t chunk_bytes,
                       std::shared_ptr<SharedBytes> shared_bytes)
    : owner_(getpid()), spans_(std::move(spans)), chunk_bytes_(chunk_bytes), counted_(std::move(shared_bytes)) {}

ForkHolder::~ForkHolder() {
  if (getpid() != owner_) return;  // in a child of the program: the holder is the parent's
  let_go();
  siginfo_t ended{};
  if (pid_ >= 0) wait_for_child(ended, WEXITED);  // ECHILD: reaped by somebody else, which is as good
}

Status ForkHolder::map_shared() {
  void* const shared = mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return cannot_fork("shared memory was refused", errno);
  shared_ = static_cast<std::byte*>(shared);
  *counted_ += kSharedBytes;
  return {};
}

Status ForkHolder::launch(int niceness) {
  VARVE_TRY(map_shared());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return cannot_fork("a pipe was refused", errno);
  const UniqueFd read_end = above_standard_streams(ends[0]);
  pipe_ = above_standard_streams(ends[1]);
  if (!read_end.valid() || !pipe_.valid()) return cannot_fork("a pipe was refused", errno);
  // The pipe alone is not enough: a child that the program forked may have inherited its write end.
  const UniqueFd self = above_standard_streams(static_cast<int>(syscall(SYS_pidfd_open, owner_, 0)));

  HolderTask task;
  task.parent = owner_;
  task.pipe = read_end.get();
  task.parent_pidfd = self.get();
  task.control = control();
  task.slots = slots();
  task.niceness = niceness;
  task.chunk_bytes = chunk_bytes_;
  int pidfd = -1;
  long pid = -1;
  int refused = 0;
  {
    const AllSignalsBlocked blocked;
    const std::uint64_t begin = monotonic_ns();
    pid = clone_holder(&pidfd, task);
    refused = errno;
    clone_ns_ = monotonic_ns() - begin;
  }
  madvise(shared_, kSharedBytes, MADV_DONTFORK);  // nobody else's child needs it
  if (pid < 0) return cannot_fork("no process could be made", refused);
  pid_ = static_cast<pid_t>(pid);
  pidfd_ = above_standard_streams(pidfd);
  wait_until_ready();
  return {};
}

/// Bounded: the closing of a descriptor may wait for a file server. The holder holds the memory from the clone on.
void ForkHolder::wait_until_ready() {
  const std::uint64_t begin = monotonic_ns();
  while (__atomic_load_n(&control()->ready, __ATOMIC_ACQUIRE) == 0) {
    if (monotonic_ns() - begin > kReadyNs || how_it_ended()) return;
    futex_wait(&control()->ready, 0, kLookMs);
  }
}

/// From the holder's own mappings, which are as of the clone; where they can't be read, from ours.
Status ForkHolder::check_mappings() {
  auto ranges = mappings_not_held_by_fork(std::to_string(pid_));
  if (!ranges) {
    if (how_it_ended()) return failed();
    ranges = mappings_not_held_by_fork("self");
  }
  if (!ranges) return ranges.error();
  for (const MemorySpan& span : spans_) {
    const auto begin = reinterpret_cast<std::uintptr_t>(span.begin);
    for (const AddressRange& range : ranges.value())
      if (range.begin < begin + span.bytes && begin < range.end)
        return fail(ErrorCode::unsupported,
                    {"reading of the memory captured by fork failed",
                     fmt::format("the mapping [{:#x}, {:#x}) became shared or MADV_WIPEONFORK after protect()",
                                 range.begin, range.end),
                     "nothing needs to be done: the next image copies this memory"});
  }
  return {};
}

Status ForkHolder::ask(std::vector<MemorySpan> spans) {
  VARVE_CHECK(asked_ == 0 && wanted_.empty());
  if (spans.empty()) return {};
  VARVE_TRY(check_mappings());
  wanted_ = std::move(spans);
  ask_next();
  return {};
}

bool ForkHolder::ask_next() {
  const std::size_t count = std::min(wanted_.size() - asked_spans_, kAskedSpans);
  if (count == 0) return false;
  std::copy_n(wanted_.begin() + static_cast<std::ptrdiff_t>(asked_spans_), count, control()->span);
  control()->span_count = static_cast<std::uint32_t>(count);
  asked_spans_ += count;
  __atomic_store_n(&control()->asked, ++asked_, __ATOMIC_RELEASE);
  futex_wake(&control()->asked);
  return true;
}

Result<std::optional<Extent>> ForkHolder::next() {
  if (slot_in_use_) {
    __atomic_store_n(&control()->consumed, ++taken_, __ATOMIC_RELEASE);
    futex_wake(&control()->consumed);
    slot_in_use_ = false;
  }
  while (true) {
    const std::uint32_t events = __atomic_load_n(&control()->events, __ATOMIC_ACQUIRE);
    // The order counts: nothing is produced after `answered`.
    const bool answered = __atomic_load_n(&control()->answered, __ATOMIC_ACQUIRE) == asked_;
    if (__atomic_load_n(&control()->produced, __ATOMIC_ACQUIRE) != taken_) break;
    if (answered && !ask_next()) return std::optional<Extent>();
    if (answered) continue;
    if (how_it_ended()) return failed();
    futex_wait(&control()->events, events, kLookMs);
  }
  slot_in_use_ = true;
  const HolderControl::Slot& slot = control()->slot[taken_ % kRingSlots];
  return std::optional<Extent>({slots() + (taken_ % kRingSlots) * kExtentBytes, slot.used, slot.pieces});
}

/// By pidfd where there is one: should somebody else have reaped the child, its number may be another process's by now.
/// __WALL: it has no exit signal.
int ForkHolder::wait_for_child(siginfo_t& ended, int options) const {
  constexpr auto kByPidfd = static_cast<idtype_t>(3);  // P_PIDFD, since Linux 5.4: include/uapi/linux/wait.h
  bool by_pidfd = pidfd_.valid();
  while (true) {
    const auto child = static_cast<id_t>(by_pidfd ? pidfd_.get() : pid_);
    if (waitid(by_pidfd ? kByPidfd : P_PID, child, &ended, options | __WALL) == 0) return 0;
    if (errno == EINTR) continue;
    if (!by_pidfd || errno == ECHILD) return -1;
    by_pidfd = false;  // older kernel, or the program has closed our descriptor
  }
}

std::optional<std::string> ForkHolder::how_it_ended() {
  siginfo_t ended{};
  if (wait_for_child(ended, WEXITED | WNOHANG | WNOWAIT) != 0)
    return fmt::format("the holder process {} was reaped by somebody else", pid_);
  if (ended.si_pid == 0) return {};
  if (ended.si_code == CLD_EXITED) return fmt::format("the holder process {} ended too early", pid_);
  return fmt::format("the holder process {} was killed by signal {}", pid_, ended.si_status);
}

Error ForkHolder::failed() {
  return fail(ErrorCode::io,
              {"reading of the memory captured by fork failed", how_it_ended().value_or(describe_errno(ESRCH)),
               "the next image holds these pages; if the system runs short of memory (see its log), capture by copy"});
}

void ForkHolder::kill() const {
  if (pidfd_.valid() && syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0) == 0) return;
  // Not a stranger's number: the child is still ours to reap, or nothing is done.
  siginfo_t ended{};
  if (waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0) ::kill(pid_, SIGKILL);
}

void ForkHolder::let_go() {
  if (pid_ >= 0) kill();
  unmap_shared();
}

void ForkHolder::unmap_shared() {
  if (shared_ == nullptr) return;
  munmap(shared_, kSharedBytes);
  *counted_ -= kSharedBytes;
  shared_ = nullptr;
}

ForkHolders::ForkHolders(std::uint32_t chunk_bytes, std::optional<int> niceness)
    : chunk_bytes_(chunk_bytes),
      niceness_(niceness.value_or(kLeastNice)),
      shared_bytes_(std::make_shared<ForkHolder::SharedBytes>(0)) {}

Result<std::unique_ptr<ForkHolder>> ForkHolders::start(std::vector<MemorySpan> spans) {
  std::unique_ptr<ForkHolder> holder(new ForkHolder(std::move(spans), chunk_bytes_, shared_bytes_));
  const Status launched = holder->launch(niceness_);
  remember(launched ? "works" : "fails: " + launched.error().cause());
  if (launched) return holder;
  return launched.error();
}

void ForkHolders::remember(std::string finding) {
  MutexLock lock(mutex_);
  finding_ = std::move(finding);
}

std::string ForkHolders::describe() const {
  MutexLock lock(mutex_);
  return finding_;
}

}  // namespace varve
