// SPDX-License-Identifier: Apache-2.0
//
// Capture by fork, seen from the engine: a child process holds the memory as of the cut while the background reads it.
//
//     ForkHolders::start(spans)   within the stall: clone, wait until the child has closed its descriptors
//     holder->ask(spans)          background: what the child is to give
//     holder->next()              background: the next extent of a ring in shared memory, which the child fills
//     ~ForkHolder                 kills and reaps the child; the program's own wait never sees it
//
// The child copies, rather than that we read its memory: process_vm_readv(2) pins the pages, and pinning a page that
// two processes share copies it first (FAULT_FLAG_UNSHARE, since Linux 5.19), so that all that was read would be there
// twice; it took twice as long, needs a process that may be traced, and here the child works on another processor.
//
// The child has exit signal 0: it sends no SIGCHLD, and only waits with __WALL or __WCLONE see it. A program that waits
// for any child with one of these (debuggers do) may reap it; the image then fails if it was not read yet.
//
// Threads: start() by one thread at a time; a ForkHolder by one thread at a time.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "engine/capture_extent.h"
#include "engine/fork_holder_child.h"
#include "varve/result.h"

namespace varve {

class ForkHolder {
 public:
  ~ForkHolder();
  ForkHolder(const ForkHolder&) = delete;
  ForkHolder& operator=(const ForkHolder&) = delete;

  const std::vector<MemorySpan>& spans() const { return spans_; }
  /// What next() gives, in this order: all or part of spans(), cut at chunk boundaries. Once. `unsupported` when the
  /// memory is, other than its span says, of a kind that a fork does not hold. Looking costs some 6 ms a GiB of small
  /// pages, since the kernel counts them.
  Status ask(std::vector<MemorySpan> spans);
  /// The next extent, valid until the next call; empty at the end. `io` when the holder is gone.
  Result<std::optional<Extent>> next();
  /// Gives up the ring and ends the child; destruction reaps it. Its memory goes meanwhile, which takes some 15 ms a
  /// GiB of small pages. Nothing but destruction may follow.
  void let_go();
  pid_t pid() const { return pid_; }
  std::uint64_t clone_ns() const { return clone_ns_; }

 private:
  friend class ForkHolders;
  using SharedBytes = std::atomic<std::uint64_t>;
  ForkHolder(std::vector<MemorySpan> spans, std::uint32_t chunk_bytes, std::shared_ptr<SharedBytes> shared_bytes);
  /// Makes the child.
  Status launch(int niceness);
  Status map_shared();
  void wait_until_ready();
  /// Whether the holder's memory is what the spans were at the cut; what the program did to a mapping since protect()
  /// shows here.
  Status check_mappings();
  /// False when there is nothing left to ask for.
  bool ask_next();
  /// Why reading failed: the holder's end.
  Error failed();
  /// The child's end in words, if it has ended.
  std::optional<std::string> how_it_ended();
  /// waitid(2) for the child; its return value.
  int wait_for_child(siginfo_t& ended, int options) const;
  void kill() const;
  void unmap_shared();
  std::byte* slots() const { return shared_ + kSlotsOffset; }
  HolderControl* control() const { return reinterpret_cast<HolderControl*>(shared_); }

  static constexpr std::size_t kSlotsOffset = round_up(sizeof(HolderControl), std::size_t{4096});
  static constexpr std::size_t kSharedBytes = kSlotsOffset + kRingSlots * kExtentBytes;

  const pid_t owner_;
  const std::vector<MemorySpan> spans_;
  const std::size_t chunk_bytes_;
  const std::shared_ptr<SharedBytes> counted_;

  pid_t pid_ = -1;
  UniqueFd pidfd_;  // of the child; invalid before Linux 5.2
  UniqueFd pipe_;   // write end: the holder goes when it is closed
  std::byte* shared_ = nullptr;
  std::uint64_t clone_ns_ = 0;

  std::vector<MemorySpan> wanted_;
  std::size_t asked_spans_ = 0;  // of these
  std::uint32_t asked_ = 0;      // questions
  std::uint32_t taken_ = 0;      // slots handed out
  bool slot_in_use_ = false;
};

/// Starts holders, and remembers what works here.
class ForkHolders {
 public:
  /// `niceness`: the least that holders have, while they copy; empty: that of the thread that calls start().
  explicit ForkHolders(std::uint32_t chunk_bytes, std::optional<int> niceness = {});

  /// REQUIRES: all spans are private, inherited memory, and no thread writes it. `io` or `unsupported` when no process
  /// can be made: copy instead.
  Result<std::unique_ptr<ForkHolder>> start(std::vector<MemorySpan> spans);
  /// What is known: "works", "fails: ...", "not tried yet".
  std::string describe() const;
  /// Shared memory of the holders that live.
  std::uint64_t shared_bytes() const { return shared_bytes_->load(); }

 private:
  void remember(std::string finding);

  const std::uint32_t chunk_bytes_;
  const int niceness_;
  const std::shared_ptr<ForkHolder::SharedBytes> shared_bytes_;
  mutable Mutex mutex_;
  std::string finding_ VARVE_GUARDED_BY(mutex_) = "not tried yet";
};

}  // namespace varve
