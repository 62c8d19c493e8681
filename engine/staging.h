// SPDX-License-Identifier: Apache-2.0
//
// Staging: a bounded pool of extents, faulted in before they are needed and reused.
//
// One address range is reserved for the whole bound; extents of it become usable one by one and are *warm* from then
// on: faulted in, in huge pages where the kernel has them. A cut takes warm extents that are free. It faults new ones
// in only when none is free, and waits for the consumer only when the bound is reached. After a cut that had to do
// either, warm_up() makes more warm in the consumer's thread, so that the next cut of that size stalls for the copy
// alone. What no cut has needed for long (kDisusePeriod cuts, twice) goes back to the system.
//
// MADV_DONTFORK: neither the holder nor a child of the program inherits it. In a child that the program forks the pool
// is gone: nothing may be called but the destructor, which then does nothing.
//
// Threads: acquire() and begin_cut() by one thread at a time, all else by any.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "engine/capture_extent.h"
#include "varve/result.h"

namespace varve {

/// What a cut paid for its extents, within the stall.
struct StagingStall {
  std::uint64_t waited_ns = 0;  ///< for the consumer
  std::uint64_t grown_ns = 0;   ///< faulting in
};

class StagingPool {
 public:
  static constexpr std::uint32_t kDisusePeriod = 64;  ///< cuts

  /// `bound_bytes` is rounded up to whole extents, at least two; `first_bytes` of it are faulted in now. A bound that
  /// the system refuses is halved until it fits, saying so. `io` when not even two extents can be had.
  static Result<std::shared_ptr<StagingPool>> create(std::uint64_t bound_bytes, std::uint64_t first_bytes);
  ~StagingPool();
  StagingPool(const StagingPool&) = delete;
  StagingPool& operator=(const StagingPool&) = delete;

  /// A cut of this many bytes will come: warm_up() aims at it.
  void expect(std::uint64_t bytes);
  /// A cut of this many bytes begins. Likewise.
  void begin_cut(std::uint64_t bytes);
  /// Whether acquire() would fault in memory: none is free, and the bound is not reached.
  bool must_grow() const;
  /// An empty extent. Waits for release() when the bound is reached.
  Extent acquire(StagingStall& stall);
  /// One that is warm and free now, if any. Any thread.
  std::optional<Extent> try_acquire();
  void release(const Extent& extent);
  /// Background: faults in what recent cuts needed, at most for about `budget_ns`; gives back what none needed for
  /// long. False when there is nothing more to do.
  bool warm_up(std::uint64_t budget_ns);

  /// How many bytes of content can be acquired now without waiting (with room left for cutting at chunk boundaries).
  std::uint64_t room_bytes() const;
  /// The same without faulting anything in.
  std::uint64_t warm_room_bytes() const;
  /// What faulting in will take for a cut of this many bytes, as far as it may: by how long it took lately.
  std::uint64_t growing_ns(std::uint64_t bytes) const;
  bool in_use() const;
  std::uint64_t bound_bytes() const;
  std::uint64_t warm_bytes() const;
  std::uint64_t in_use_bytes() const;

 private:
  StagingPool(std::byte* memory, std::size_t extents);
  std::byte* memory_of(std::uint32_t index) const { return memory_ + std::size_t{index} * kExtentBytes; }
  std::uint32_t growable() const VARVE_REQUIRES(mutex_) { return bound_ - warm_ - growing_; }
  bool grow() VARVE_EXCLUDES(mutex_);
  void give_back() VARVE_EXCLUDES(mutex_);

  const pid_t owner_;
  std::byte* const memory_;
  const std::size_t reserved_extents_;

  mutable Mutex mutex_;
  Condition released_;
  std::uint32_t bound_ VARVE_GUARDED_BY(mutex_);              // extents, all in this block
  std::uint32_t warm_ VARVE_GUARDED_BY(mutex_) = 0;           // faulted in: free or in use
  std::uint32_t growing_ VARVE_GUARDED_BY(mutex_) = 0;        // being faulted in or given back
  std::uint32_t next_ VARVE_GUARDED_BY(mutex_) = 0;           // extents from here on were never used
  std::vector<std::uint32_t> free_ VARVE_GUARDED_BY(mutex_);  // warm; the last released is taken first
  std::vector<std::uint32_t> cold_ VARVE_GUARDED_BY(mutex_);  // given back
  std::uint64_t grow_ns_ VARVE_GUARDED_BY(mutex_) = 0;        // faulting in an extent: a moving average

  std::uint32_t first_ VARVE_GUARDED_BY(mutex_) = 0;  // kept warm always
  std::uint32_t cuts_ VARVE_GUARDED_BY(mutex_) = 0;   // in this period
  std::uint32_t need_ VARVE_GUARDED_BY(mutex_) = 0;   // the most that was needed at once in this period
  std::uint32_t need_before_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve
