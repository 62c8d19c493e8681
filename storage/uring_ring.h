// SPDX-License-Identifier: Apache-2.0
//
// Ring: one io_uring and the writes in it. The rest of a short write, and what the kernel puts off or can't do in the
// background, is done by pwrite. So is everything, once what is in flight has ended, if the kernel stops to take
// submissions while the ring is in use (a seccomp filter that the program installed since, no memory): no write is
// lost.
//
// RingPool keeps rings that are not in use, so that a file has one only while it has writes in flight.
//
// The ring's memory is MADV_DONTFORK and its descriptor is closed in forked children: a child could submit to and take
// completions from its parent's ring.
//
// Threads: a Ring by one thread at a time; RingPool by any.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "storage/fork_guard.h"
#include "storage/open_file.h"
#include "varve/result.h"

namespace varve::storage {

class Ring {
 public:
  struct Write {
    const OpenFile* file = nullptr;
    std::span<const std::byte> bytes;
    std::uint64_t offset = 0;
    std::uint64_t tag = 0;  ///< the caller's own
  };
  struct Ended {
    Write write;
    int os_errno = 0;
  };

  /// Sets up a ring and completes a no-op in it. The error's cause says why the kernel refuses.
  static Result<std::unique_ptr<Ring>> create(unsigned depth);
  /// REQUIRES: nothing in flight. In a forked child it touches nothing.
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  bool full() const { return free_slots_.empty(); }
  bool idle() const { return free_slots_.size() == slots_.size() && ended_.empty(); }
  /// False once the kernel has refused the ring: it still works, by other calls, but is not worth keeping.
  bool healthy() const { return !refused_; }

  /// REQUIRES: !full(). Queues it; submit() tells the kernel.
  void add(const Write& write);
  void submit();
  /// Takes what has ended. With `wait`, waits for at least one. REQUIRES: !wait or !idle().
  std::vector<Ended> take(bool wait);

 private:
  struct Slot {
    Write write;
    std::size_t done = 0;  // a prefix of it
  };
  explicit Ring(unsigned depth);
  Status set_up(unsigned depth);
  Status complete_no_op();
  void prepare(std::uint32_t index);
  void reap();
  void wait_for_completion();
  void complete(std::uint32_t index, int result);
  int write_rest(const Slot& slot);
  void end(std::uint32_t index, int os_errno);
  void serve_by_other_calls();

  io_uring ring_{};
  GuardedFd fd_;
  bool made_ = false;
  OwnerProcess owner_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::uint32_t> queued_;  // in the submission queue, not yet taken by the kernel; in order
  std::size_t in_kernel_ = 0;
  std::vector<Ended> ended_;
  bool refused_ = false;
};

class RingPool {
 public:
  /// In a forked child the last owner leaks it.
  static std::shared_ptr<RingPool> share(unsigned depth);
  explicit RingPool(unsigned depth) : depth_(depth) {}

  /// Empty when no ring can be had (descriptors, memory): the caller uses other calls.
  std::unique_ptr<Ring> get();
  /// REQUIRES: ring->idle().
  void put(std::unique_ptr<Ring> ring);

 private:
  const unsigned depth_;
  OwnerProcess owner_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Ring>> rings_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::storage
