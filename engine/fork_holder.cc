// SPDX-License-Identifier: Apache-2.0
#include "engine/fork_holder.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/os_error.h"
#include "base/try.h"
#include "engine/mapping.h"
#include "engine/staging.h"

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

HolderBuffers::HolderBuffers() : owner_(getpid()) {}

HolderBuffers::~HolderBuffers() {
  if (getpid() != owner_) return;  // not inherited: MADV_DONTFORK
  for (std::byte* const buffer : spare_) munmap(buffer, kExtentBytes);
}

std::byte* HolderBuffers::take() {
  {
    MutexLock lock(mutex_);
    if (!spare_.empty()) {
      std::byte* const buffer = spare_.back();
      spare_.pop_back();
      return buffer;
    }
  }
  std::byte* const buffer = map_extents(kExtentBytes, PROT_READ | PROT_WRITE);
  if (buffer == nullptr || !populate(buffer, kExtentBytes)) {
    const int refused = errno;
    if (buffer != nullptr) munmap(buffer, kExtentBytes);
    errno = refused;
    return nullptr;
  }
  MutexLock lock(mutex_);
  ++made_;
  return buffer;
}

void HolderBuffers::give_back(std::byte* buffer) {
  MutexLock lock(mutex_);
  spare_.push_back(buffer);
}

std::uint64_t HolderBuffers::bytes() const {
  MutexLock lock(mutex_);
  return std::uint64_t{made_} * kExtentBytes + shared_bytes_;
}

ForkHolder::ForkHolder(std::vector<MemorySpan> spans, std::uint32_t chunk_bytes, std::shared_ptr<HolderBuffers> buffers)
    : owner_(getpid()), spans_(std::move(spans)), chunk_bytes_(chunk_bytes), buffers_(std::move(buffers)) {}

ForkHolder::~ForkHolder() {
  if (getpid() != owner_) return;  // in a child of the program: the holder is the parent's
  end();
  if (buffer_ != nullptr) buffers_->give_back(buffer_);
}

Status ForkHolder::map_shared() {
  shared_bytes_ = kSlotsOffset + (access_ == HolderAccess::ring ? kRingSlots * kExtentBytes : 0);
  void* const shared = mmap(nullptr, shared_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return cannot_fork("shared memory was refused", errno);
  shared_ = static_cast<std::byte*>(shared);
  buffers_->add_shared(shared_bytes_);
  return {};
}

Status ForkHolder::launch(HolderAccess access) {
  access_ = access;
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
  task.slots = access == HolderAccess::ring ? slots() : nullptr;
  task.spans = spans_.data();
  task.span_count = spans_.size();
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
  madvise(shared_, shared_bytes_, MADV_DONTFORK);  // nobody else's child needs it
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

/// Probes by doing, at every start: a program may become undumpable at any time. errno says why not.
bool ForkHolder::memory_is_readable() {
  pid_t there = 0;  // any memory of the child serves, its copy of this object too
  const iovec local{&there, sizeof there};
  const iovec remote{const_cast<pid_t*>(&owner_), sizeof owner_};
  return process_vm_readv(pid_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(sizeof there) && there == owner_;
}

Result<std::optional<Extent>> ForkHolder::next() {
  if (!mappings_checked_) {
    VARVE_TRY(check_mappings());
    mappings_checked_ = true;
  }
  return access_ == HolderAccess::memory ? next_from_memory() : next_from_ring();
}

/// From the holder's own mappings, which are as of the clone; where they can't be read, from ours.
Status ForkHolder::check_mappings() {
  const std::string holder = access_ == HolderAccess::memory ? std::to_string(pid_) : "self";
  auto ranges = mappings_not_held_by_fork(holder);
  if (!ranges) return how_it_ended() ? failed(ESRCH) : ranges.error();
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

Result<std::optional<Extent>> ForkHolder::next_from_memory() {
  if (buffer_ == nullptr && (buffer_ = buffers_->take()) == nullptr)
    return os_error("reading of the captured memory failed: no memory for a buffer of 2 MiB", errno);
  Extent extent{buffer_, 0, 0};
  while (span_ < spans_.size() && extent.pieces < IOV_MAX) {
    const MemorySpan& span = spans_[span_];
    if (done_ == span.bytes) {
      ++span_;
      done_ = 0;
      continue;
    }
    const Placed placed = place(extent, span, done_, chunk_bytes_);
    if (placed.bytes == 0) break;
    done_ += placed.bytes;
  }
  if (extent.pieces == 0) return std::optional<Extent>();
  VARVE_TRY(read_pieces(extent));
  return std::optional<Extent>(extent);
}

Status ForkHolder::read_pieces(const Extent& extent) {
  std::array<iovec, IOV_MAX> local;
  std::array<iovec, IOV_MAX> remote;
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < extent.pieces; ++i) {
    const PieceRecord& record = *extent.record(i);
    local[i] = {extent.memory + record.offset, record.bytes};
    remote[i] = {reinterpret_cast<void*>(record.begin), record.bytes};
    bytes += record.bytes;
  }
  const ssize_t read = process_vm_readv(pid_, local.data(), extent.pieces, remote.data(), extent.pieces, 0);
  if (read < 0) return failed(errno);
  // Less comes only when the next byte can't be read: process_vm_readv(2).
  if (static_cast<std::size_t>(read) != bytes) return failed(EFAULT);
  return {};
}

Result<std::optional<Extent>> ForkHolder::next_from_ring() {
  if (slot_in_use_) {
    __atomic_store_n(&control()->consumed, ++taken_, __ATOMIC_RELEASE);
    futex_wake(&control()->consumed);
    slot_in_use_ = false;
  }
  while (true) {
    const std::uint32_t events = __atomic_load_n(&control()->events, __ATOMIC_ACQUIRE);
    // The order counts: nothing is produced after `finished`.
    const bool finished = __atomic_load_n(&control()->finished, __ATOMIC_ACQUIRE) != 0;
    if (__atomic_load_n(&control()->produced, __ATOMIC_ACQUIRE) != taken_) break;
    if (finished) return std::optional<Extent>();
    if (how_it_ended()) return failed(ESRCH);
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

Error ForkHolder::failed(int os_errno) {
  const auto ended = how_it_ended();
  return fail(ErrorCode::io,
              {"reading of the memory captured by fork failed", ended ? *ended : describe_errno(os_errno),
               "the next image holds these pages; if the system runs short of memory (see its log), capture by copy"},
              os_errno);
}

void ForkHolder::end() {
  if (pid_ >= 0) {
    siginfo_t ended{};
    if (!pidfd_.valid() || syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0) != 0) {
      // Not a stranger's number: the child is still ours to reap, or nothing is done.
      if (waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0)
        kill(pid_, SIGKILL);
    }
    wait_for_child(ended, WEXITED);  // ECHILD: reaped by somebody else, which is as good
    pid_ = -1;
  }
  if (shared_ == nullptr) return;
  munmap(shared_, shared_bytes_);
  buffers_->remove_shared(shared_bytes_);
  shared_ = nullptr;
}

ForkHolders::ForkHolders(std::uint32_t chunk_bytes, std::optional<HolderAccess> access)
    : chunk_bytes_(chunk_bytes), wanted_(access), buffers_(std::make_shared<HolderBuffers>()) {}

Result<std::unique_ptr<ForkHolder>> ForkHolders::start(std::vector<MemorySpan> spans) {
  std::unique_ptr<ForkHolder> holder(new ForkHolder(std::move(spans), chunk_bytes_, buffers_));
  const HolderAccess first = wanted_.value_or(memory_refused_ ? HolderAccess::ring : HolderAccess::memory);
  Status launched = holder->launch(first);
  if (launched && first == HolderAccess::memory) {
    if (holder->memory_is_readable() || wanted_) {
      remember("works");
    } else {
      const std::string refused = describe_errno(errno);
      memory_refused_ = true;
      log::info("engine", "the holder's memory can't be read ({}): it copies into a shared ring", refused);
      holder->end();
      launched = holder->launch(HolderAccess::ring);
      if (launched) remember("works by a shared ring: reading the holder's memory is refused, " + refused);
    }
  }
  if (launched) return holder;
  remember("fails: " + launched.error().cause());
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
