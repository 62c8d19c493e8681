// SPDX-License-Identifier: Apache-2.0
//
// LazyRestore: one restore whose content comes while the program runs (RestoreOptions::lazy). Its threads:
// lazy_restore_threads.cc.
//
//     create()      userfaultfd, threads; nothing is changed          -> `unsupported`: restore eagerly
//     take()        pages of the regions become missing; the caller fills the rest
//     begin()       from here on the program may run
//       varve-faults   waits for faults, reads what is asked for, with what lies beside it, and puts it in place
//       varve-stream   reads everything else in the order in which it lies in the store
//     in place      memory is ordinary again; `when_in_place` adopts the regions; wait() returns
//
// Damage. What the stream can't read it leaves out, remembers, and goes on beside it. A fault on such a page is read
// once more; if that fails too, the program is stopped with a message: it never sees anything but what the image holds.
// Pages that are still missing at the engine's end become inaccessible.
//
// What these two threads must not do: touch missing memory, or wait for a lock that a thread of the program may hold
// while it waits for a page. So they use the store (which never touches regions), the heap, and locks of their own; the
// engine's api_mutex_ they never take. They read into buffers of their own and block signals.
//
// Ownership: from begin() until over(), the regions' tracking and committed names belong to this; the engine's calls
// that use them wait first.
//
// Threads: create() to begin() and the destruction by one; the rest by any.
#pragma once

#include <pthread.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/chain.h"
#include "engine/fork_wait.h"
#include "engine/lazy_pieces.h"
#include "engine/missing_memory.h"
#include "storage/store.h"
#include "tracker/gate.h"
#include "varve/engine.h"

namespace varve {

class LazyRestore final : private ForkWaiter {
 public:
  struct Source {
    storage::Store& store;
    std::shared_ptr<const ResolvedImage> image;
    std::shared_ptr<storage::Lock> held;  ///< of the store: nothing of the image is collected meanwhile
    unsigned threads = 1;                 ///< Options::threads: to unpack and check beside the program
  };
  /// `unsupported` says why nothing can be restored lazily here.
  static Result<std::unique_ptr<LazyRestore>> create(Source source);
  ~LazyRestore() override;

  /// Makes missing what it can of the target's region, which is as good as restored then: returns those bytes of it,
  /// ascending. What it can't is the caller's to fill. `mappings`: private_anonymous_mappings().
  std::vector<storage::ByteRange> take(std::shared_ptr<Region> region, const FillTarget& target,
                                       std::span<const AddressRange> mappings);
  /// Why a whole region, or a part of it, was not taken; empty: nothing but edges and excluded bytes was left.
  const std::string& left_why() const { return left_why_; }
  std::uint64_t lazy_bytes() const { return lazy_bytes_; }

  /// `when_in_place` is called once by the stream's thread, when all is in place and before over(); not when something
  /// could not be read, nor after stop().
  void begin(std::function<void()> when_in_place) VARVE_EXCLUDES(mutex_);

  /// Whether the regions are the engine's again, or never will be whole.
  bool over() const { return over_.load(std::memory_order_acquire); }
  /// Waits for that. The error: what could not be read.
  Status wait() VARVE_EXCLUDES(mutex_);
  /// Ends both threads, wherever they are.
  void stop() VARVE_EXCLUDES(mutex_);
  /// Whether all came.
  bool in_place() const { return in_place_.load(); }
  /// The regions are to be restored anew: what is missing becomes zero. REQUIRES: stop().
  void release();
  /// What could not be read becomes inaccessible. REQUIRES: over(). Destruction without it is stop() and release().
  void end();

  std::uint64_t placed_bytes() const;
  std::uint64_t faults() const { return faults_.load(std::memory_order_relaxed); }
  /// What could not be read so far.
  std::optional<Error> failure() VARVE_EXCLUDES(mutex_);
  std::string image() const {
    return to_string(ImageName{source_.image->manifest.chain, source_.image->manifest.number});
  }

 private:
  struct Target {
    std::shared_ptr<Region> region;
    const storage::RegionRecord* record = nullptr;
    std::unique_ptr<RunLookup> runs;
  };
  struct Lost {
    storage::ChunkRequest request;
    Error error;
  };

  /// While a thread of the program drops memory, nothing can be placed until its event was read. By varve-faults: who
  /// is that must not wait for it, but leave the page and wake its waiter, who faults again.
  enum class WhenChanging : std::uint8_t { wait, leave };

  LazyRestore(Source source, std::unique_ptr<MissingMemory> memory);
  void wait_before_fork() override;
  Status start_threads();

  // The thread varve-faults.
  void serve();
  void serve_faults(std::vector<std::uintptr_t>& pages);
  void serve_again(std::uintptr_t page);
  void serve_alone(const LazyPiece& piece, std::uintptr_t page);
  void want_around(const LazyPiece& piece, std::uintptr_t page, std::vector<storage::ChunkRequest>& requests);
  [[noreturn]] void stop_the_program(std::uintptr_t page, const Error& cause);

  // The thread varve-stream.
  void stream();
  void stream_target(std::uint32_t index, std::vector<storage::ChunkRequest>& requests);
  void read_apart(std::span<storage::ChunkRequest> requests);
  void lost(const storage::ChunkRequest& request, const Error& error) VARVE_EXCLUDES(mutex_);
  bool too_much_lost() VARVE_EXCLUDES(mutex_);
  void end_stream();
  void end_badly() VARVE_REQUIRES(mutex_);

  /// Reads, and puts in place what comes.
  Status read(std::span<const storage::ChunkRequest> requests, WhenChanging when);
  // Any of the store's threads.
  void deliver(std::uint64_t tag, std::span<const std::byte> content, WhenChanging when);
  void place(const LazyPiece& piece, std::uintptr_t page, const std::byte* content, WhenChanging when);
  void place_zeros(const Target& target, const storage::ChunkRun& run, WhenChanging when);
  void placed(const LazyPiece& piece, std::uintptr_t page);

  storage::ChunkRequest request_of(std::uint32_t target, std::uint64_t chunk, const storage::ChunkName& name) const;
  AddressRange memory_of(std::uint64_t tag) const;
  Error unread(std::uintptr_t page, const Error& cause) const;
  void join(std::optional<pthread_t>& thread);
  void end_faults();
  void make_inaccessible();

  Source source_;
  const std::unique_ptr<MissingMemory> memory_;
  std::vector<Target> targets_;
  LazyPieces pieces_;
  std::string left_why_;
  std::uint64_t lazy_bytes_ = 0;
  std::atomic<std::uint64_t> missing_pages_{0};
  std::atomic<std::uint64_t> faults_{0};

  // Placing holds the gate shared, reading events alone: so content that the program drops does not come back. Who
  // wants it alone is not kept waiting by a stream of others: all pass the turnstile first.
  Mutex turnstile_;
  tracker::Gate gate_;

  storage::GuardedFd end_faults_;  // an eventfd
  std::optional<pthread_t> fault_thread_;
  std::optional<pthread_t> stream_thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> in_place_{false};
  std::atomic<bool> over_{false};

  Mutex mutex_;
  Condition changed_;
  bool begun_ VARVE_GUARDED_BY(mutex_) = false;
  bool streaming_ VARVE_GUARDED_BY(mutex_) = true;  // memory may be missing that is still to come
  std::function<void()> when_in_place_ VARVE_GUARDED_BY(mutex_);
  std::vector<Lost> lost_ VARVE_GUARDED_BY(mutex_);
  std::optional<Error> not_placed_ VARVE_GUARDED_BY(mutex_);  // no memory for a page
  std::optional<Error> failure_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve
