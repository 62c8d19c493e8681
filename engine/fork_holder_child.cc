// SPDX-License-Identifier: Apache-2.0
#include "engine/fork_holder_child.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "engine/raw_copy.h"

// Everything in this file: system calls by number, plain memory, nothing else. See the head of the header.

#ifndef SYS_close_range
#define SYS_close_range 436  // since Linux 5.9, the same number on every architecture
#endif

namespace varve {
namespace {

constexpr long kLookMs = 200;  // how often the parent is looked for where nothing announces its end

[[noreturn]] VARVE_HOLDER_SAFE void leave() noexcept {
  while (true) syscall(SYS_exit_group, 0);
}

VARVE_HOLDER_SAFE bool close_between(unsigned first, unsigned last) noexcept {
  return first > last || syscall(SYS_close_range, first, last, 0) == 0;
}

/// Else locks, pipes and sockets of the program would outlive it, or their closing by it.
VARVE_HOLDER_SAFE void close_descriptors(int keep, int keep_too) noexcept {
  if (keep_too < 0) keep_too = keep;
  const auto low = static_cast<unsigned>(keep < keep_too ? keep : keep_too);
  const auto high = static_cast<unsigned>(keep < keep_too ? keep_too : keep);
  if ((low == 0 || close_between(0, low - 1)) && (low == high || close_between(low + 1, high - 1)) &&
      close_between(high + 1, ~0U))
    return;
  // No close_range (before 5.9, or filtered): one by one up to the limit. Descriptors above a limit that was lowered
  // later stay; a bound keeps limits of a milliard from taking minutes.
  constexpr rlim_t kMost = 1U << 20;
  rlimit limit{};
  if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, &limit) != 0 || limit.rlim_cur > kMost) limit.rlim_cur = kMost;
  for (int fd = 0; fd < static_cast<int>(limit.rlim_cur); ++fd)
    if (fd != keep && fd != keep_too) syscall(SYS_close, fd);
}

/// If memory runs short the holder goes before the program: only an image is lost then.
VARVE_HOLDER_SAFE void offer_to_oom_killer() noexcept {
  const auto file = static_cast<int>(syscall(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (file < 0) return;
  syscall(SYS_write, file, "1000", 4);
  syscall(SYS_close, file);
}

/// Waits for the parent's end, at most `timeout_ms` (-1: for ever), and leaves when it has come.
VARVE_HOLDER_SAFE void look_for_parent(const HolderTask& task, long timeout_ms) noexcept {
  pollfd ends[2] = {{task.pipe, POLLIN, 0}, {task.parent_pidfd, POLLIN, 0}};
  timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000};
  const nfds_t count = task.parent_pidfd >= 0 ? 2 : 1;
  if (syscall(SYS_ppoll, ends, count, timeout_ms < 0 ? nullptr : &timeout, nullptr, 0) > 0) leave();
  // Nobody writes into the pipe: readable means closed. A parent in another pid namespace shows as 0, always.
  const long parent = syscall(SYS_getppid);
  if (parent != 0 && parent != task.parent) leave();
}

VARVE_HOLDER_SAFE void announce(const HolderTask& task) noexcept {
  __atomic_fetch_add(&task.control->events, 1, __ATOMIC_RELEASE);
  futex_wake(&task.control->events);
}

VARVE_HOLDER_SAFE void hand_over(const HolderTask& task, std::uint32_t number, const Extent& extent) noexcept {
  HolderControl::Slot& slot = task.control->slot[number % kRingSlots];
  slot.used = extent.used;
  slot.pieces = extent.pieces;
  __atomic_store_n(&task.control->produced, number + 1, __ATOMIC_RELEASE);
  announce(task);
}

/// The next slot of the ring that the engine has given back.
VARVE_HOLDER_SAFE Extent free_slot(const HolderTask& task, std::uint32_t number) noexcept {
  while (true) {
    const std::uint32_t consumed = __atomic_load_n(&task.control->consumed, __ATOMIC_ACQUIRE);
    if (number - consumed < kRingSlots) return {task.slots + (number % kRingSlots) * kExtentBytes, 0, 0};
    futex_wait(&task.control->consumed, consumed, kLookMs);
    look_for_parent(task, 0);
  }
}

/// Answers one question; `number` is the next slot's.
VARVE_HOLDER_SAFE void fill_ring(const HolderTask& task, std::uint32_t& number) noexcept {
  Extent extent = free_slot(task, number);
  for (std::size_t i = 0; i < task.control->span_count; ++i) {
    const MemorySpan& span = task.control->span[i];
    for (std::size_t done = 0; done < span.bytes;) {
      const Placed placed = place(extent, span, done, task.chunk_bytes);
      if (placed.bytes == 0) {
        hand_over(task, number++, extent);
        extent = free_slot(task, number);
        continue;
      }
      raw_copy(placed.to, span.begin + done, placed.bytes);
      done += placed.bytes;
    }
  }
  if (extent.pieces > 0) hand_over(task, number++, extent);
  __atomic_fetch_add(&task.control->answered, 1, __ATOMIC_RELEASE);
  announce(task);
}

[[noreturn]] VARVE_HOLDER_SAFE void answer_questions(const HolderTask& task) noexcept {
  std::uint32_t number = 0;
  for (std::uint32_t answered = 0;;) {
    if (__atomic_load_n(&task.control->asked, __ATOMIC_ACQUIRE) == answered) {
      futex_wait(&task.control->asked, answered, kLookMs);
      look_for_parent(task, 0);
      continue;
    }
    fill_ring(task, number);
    ++answered;
  }
}

}  // namespace

VARVE_HOLDER_SAFE void futex_wait(std::uint32_t* word, std::uint32_t seen, long timeout_ms) noexcept {
  const timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000};
  syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

VARVE_HOLDER_SAFE void futex_wake(std::uint32_t* word) noexcept {
  syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

VARVE_HOLDER_SAFE void hold(const HolderTask& task) noexcept {
  close_descriptors(task.pipe, task.parent_pidfd);
  __atomic_store_n(&task.control->ready, 1, __ATOMIC_RELEASE);
  futex_wake(&task.control->ready);
  syscall(SYS_prctl, PR_SET_NAME, "varve-holder", 0, 0, 0);
  syscall(SYS_chdir, "/");  // holds no file system busy
  const rlimit no_core{0, 0};
  syscall(SYS_prlimit64, 0, RLIMIT_CORE, &no_core, nullptr);
  offer_to_oom_killer();
  // The system call counts downwards, from 40 to 1: getpriority(2), "C library/kernel differences".
  if (20 - syscall(SYS_getpriority, PRIO_PROCESS, 0) < task.niceness)
    syscall(SYS_setpriority, PRIO_PROCESS, 0, task.niceness);
  answer_questions(task);
}

}  // namespace varve
