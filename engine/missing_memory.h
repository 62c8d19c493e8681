// SPDX-License-Identifier: Apache-2.0
//
// MissingMemory: pages of this process whose content comes later. The kernel keeps whoever touches one waiting, a
// thread of the program as well as a system call, until somebody puts the page in place (userfaultfd(2),
// UFFDIO_REGISTER_MODE_MISSING). This class knows addresses only; what comes when is LazyRestore's.
//
// It takes a full userfaultfd: with one for user mode only (what an ordinary user gets) a system call into a missing
// page, read(2) into it for one, would fail with EFAULT instead of waiting.
//
// Missing memory is MADV_DONTFORK: a child, which has no userfaultfd, lacks it instead of finding zeros there.
//
// Threads: drop(), give_back() and free_moved() by one at a time; placing and reading events by any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/mapping.h"
#include "storage/fork_guard.h"
#include "varve/result.h"

namespace varve {

class MissingMemory {
 public:
  /// `unsupported`: there is no full userfaultfd to be had, or VARVE_LAZY=off.
  static Result<std::unique_ptr<MissingMemory>> open();
  /// What is still missing becomes zero; what drop() moved away is freed.
  ~MissingMemory();
  MissingMemory(const MissingMemory&) = delete;
  MissingMemory& operator=(const MissingMemory&) = delete;

  enum class Become : std::uint8_t {
    missing,  ///< waits for its content
    zero,     ///< is zero at once, without a page
  };
  /// Drops the content of whole pages of one private anonymous mapping. Empty, or why it can't: then only its first
  /// page may have been dropped. Takes no time that grows with what was there: page tables are moved away, and freed by
  /// free_moved().
  std::string drop(AddressRange range, Become become);
  /// Frees what drop() moved away; ends early when `stop` is set.
  void free_moved(const std::atomic<bool>& stop);
  /// The range is ordinary memory again; `fork_holds_it` as it was before drop().
  void give_back(AddressRange range, bool fork_holds_it);

  /// A child may have this part of it.
  void let_fork(AddressRange range);

  enum class Placed : std::uint8_t {
    now,
    before,    ///< a page was there
    changing,  ///< another thread is changing the mapping: ask again, once the events were read
    gone,      ///< the program has unmapped it
  };
  /// `content`: a page of it. The error is one of memory (ENOMEM).
  Result<Placed> copy(std::uintptr_t page, const std::byte* content);
  /// `done` bytes were put in place; `before`: the first page was there.
  Result<Placed> zero(AddressRange range, std::size_t& done);
  /// Whoever waits for the page looks again.
  void wake(std::uintptr_t page);

  struct Event {
    bool dropped = false;  ///< false: somebody waits for the page
    AddressRange range;
  };
  /// What has happened since, without waiting. A thread that drops memory goes on once that was read here.
  void read_events(std::vector<Event>& events);
  /// No more events, and who waits for one goes on: what is missing still becomes zero.
  void close() { uffd_ = {}; }
  /// For poll(2).
  int descriptor() const { return uffd_.get(); }

 private:
  explicit MissingMemory(storage::GuardedFd uffd) : uffd_(std::move(uffd)) {}
  bool register_range(AddressRange range);
  bool unregister_range(AddressRange range);
  bool move_away(AddressRange range);

  storage::GuardedFd uffd_;
  std::vector<AddressRange> moved_;
};

}  // namespace varve
