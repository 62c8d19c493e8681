// SPDX-License-Identifier: Apache-2.0
#include "engine/staging.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/huge_memory.h"
#include "base/log.h"
#include "base/os_error.h"

namespace varve {
namespace {

constexpr std::uint32_t kFewestExtents = 2;  // one to fill while the other is read

/// Content that surely fits an extent, whatever the spans: the records take at most 24 bytes per 4 KiB of scattered
/// pages, and up to one 64 KiB chunk may stay free at the end.
constexpr std::uint64_t kSureContentBytes = kExtentBytes - (std::size_t{80} << 10);

std::uint32_t extents_for(std::uint64_t bytes) {
  const std::uint64_t extents = bytes / kSureContentBytes + 1;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(extents, std::numeric_limits<std::uint32_t>::max() / 4));
}

}  // namespace

StagingPool::StagingPool(std::byte* memory, std::size_t extents)
    : owner_(getpid()), memory_(memory), reserved_extents_(extents), bound_(static_cast<std::uint32_t>(extents)) {
  free_.reserve(extents);  // so that a release never allocates
}

Result<std::shared_ptr<StagingPool>> StagingPool::create(std::uint64_t bound_bytes, std::uint64_t first_bytes) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max() / 2;
  std::uint64_t extents =
      std::clamp<std::uint64_t>((bound_bytes + kExtentBytes - 1) / kExtentBytes, kFewestExtents, kMost);
  std::byte* memory = nullptr;
  while ((memory = map_huge(extents * kExtentBytes, PROT_NONE)) == nullptr && extents > kFewestExtents) {
    extents = std::max<std::uint64_t>(extents / 2, kFewestExtents);
    log::info("engine", "staging memory: the system refuses the address range; the bound is now {} MiB",
              extents * kExtentBytes >> 20);
  }
  if (memory == nullptr) return os_error("reservation of staging memory failed", errno);
  auto pool = std::shared_ptr<StagingPool>(new StagingPool(memory, extents));
  const std::uint64_t first = std::clamp<std::uint64_t>(first_bytes / kExtentBytes, kFewestExtents, extents);
  std::uint64_t warm = 0;
  while (warm < first && pool->grow()) ++warm;
  const int grow_errno = errno;
  if (warm < kFewestExtents)
    return os_error("allocation of staging memory failed", grow_errno,
                    "raise the limit on memory of this process, or free some: at least 4 MiB are needed");
  MutexLock lock(pool->mutex_);
  pool->first_ = static_cast<std::uint32_t>(warm);
  return pool;
}

StagingPool::~StagingPool() {
  // In a child of the program the range was never mapped; something of the child's may lie there now.
  if (getpid() == owner_) munmap(memory_, reserved_extents_ * kExtentBytes);
}

/// Makes one more extent warm and free. False when the bound is reached or memory is refused, which lowers the bound.
bool StagingPool::grow() {
  std::uint32_t index = 0;
  {
    MutexLock lock(mutex_);
    if (growable() == 0) return false;
    ++growing_;
    if (cold_.empty()) {
      index = next_++;
    } else {
      index = cold_.back();
      cold_.pop_back();
    }
  }
  std::byte* const memory = memory_of(index);
  const std::uint64_t begin = monotonic_ns();
  const bool done = mprotect(memory, kExtentBytes, PROT_READ | PROT_WRITE) == 0 && populate(memory, kExtentBytes);
  const int refused = errno;
  const std::uint64_t took_ns = monotonic_ns() - begin;
  {
    MutexLock lock(mutex_);
    --growing_;
    if (done) {
      ++warm_;
      grow_ns_ = grow_ns_ == 0 ? took_ns : (3 * grow_ns_ + took_ns) / 4;
      free_.push_back(index);
      released_.notify_all();
      return true;
    }
    bound_ = warm_ + growing_;
    cold_.push_back(index);
    log::info("engine", "staging memory: {} at {} MiB, which is the bound from now on", describe_errno(refused),
              std::uint64_t{bound_} * kExtentBytes >> 20);
  }
  errno = refused;
  return false;
}

void StagingPool::expect(std::uint64_t bytes) {
  MutexLock lock(mutex_);
  need_ = std::max(need_, std::min(bound_, extents_for(bytes)));
}

void StagingPool::begin_cut(std::uint64_t bytes) {
  MutexLock lock(mutex_);
  const auto in_use = warm_ - static_cast<std::uint32_t>(free_.size());
  need_ = std::max(need_, std::min(bound_, in_use + extents_for(bytes)));
  if (++cuts_ < kDisusePeriod) return;
  need_before_ = need_;
  need_ = 0;
  cuts_ = 0;
}

bool StagingPool::must_grow() const {
  MutexLock lock(mutex_);
  return free_.empty() && growable() > 0;
}

Extent StagingPool::acquire(StagingStall& stall) {
  while (true) {
    {
      MutexLock lock(mutex_);
      if (free_.empty() && growable() == 0) {
        const std::uint64_t begin = monotonic_ns();
        while (free_.empty() && growable() == 0) released_.wait(mutex_);
        stall.waited_ns += monotonic_ns() - begin;
      }
      if (!free_.empty()) {
        const std::uint32_t index = free_.back();
        free_.pop_back();
        return {memory_of(index), 0, 0};
      }
    }
    const std::uint64_t begin = monotonic_ns();
    grow();
    stall.grown_ns += monotonic_ns() - begin;
  }
}

std::optional<Extent> StagingPool::try_acquire() {
  MutexLock lock(mutex_);
  if (free_.empty()) return {};
  const std::uint32_t index = free_.back();
  free_.pop_back();
  return Extent{memory_of(index), 0, 0};
}

void StagingPool::release(const Extent& extent) {
  const auto index = static_cast<std::size_t>(extent.memory - memory_) / kExtentBytes;
  VARVE_CHECK(index < reserved_extents_);
  MutexLock lock(mutex_);
  VARVE_CHECK(free_.size() < warm_);
  free_.push_back(static_cast<std::uint32_t>(index));
  released_.notify_all();
}

bool StagingPool::warm_up(std::uint64_t budget_ns) {
  const std::uint64_t begin = monotonic_ns();
  do {
    bool too_many = false;
    {
      MutexLock lock(mutex_);
      const std::uint32_t aim = std::max({first_, need_, need_before_});
      too_many = warm_ > aim && !free_.empty();
      if (!too_many && warm_ + growing_ >= aim) return false;
    }
    if (too_many) {
      give_back();
    } else if (!grow()) {
      return false;
    }
  } while (monotonic_ns() - begin <= budget_ns);
  return true;
}

void StagingPool::give_back() {
  std::uint32_t index = 0;
  {
    MutexLock lock(mutex_);
    if (free_.empty()) return;
    index = free_.front();  // the longest unused
    free_.erase(free_.begin());
    --warm_;
    ++growing_;  // counted there while it is neither warm nor cold
  }
  madvise(memory_of(index), kExtentBytes, MADV_DONTNEED);
  MutexLock lock(mutex_);
  --growing_;
  cold_.push_back(index);
  released_.notify_all();
}

std::uint64_t StagingPool::room_bytes() const {
  MutexLock lock(mutex_);
  return (free_.size() + growable()) * kSureContentBytes;
}

std::uint64_t StagingPool::warm_room_bytes() const {
  MutexLock lock(mutex_);
  return free_.size() * kSureContentBytes;
}

std::uint64_t StagingPool::growing_ns(std::uint64_t bytes) const {
  MutexLock lock(mutex_);
  const std::uint64_t extents = extents_for(bytes);
  const std::uint64_t more = extents - std::min<std::uint64_t>(extents, free_.size());
  return std::min<std::uint64_t>(more, growable()) * grow_ns_;
}

bool StagingPool::in_use() const {
  MutexLock lock(mutex_);
  return free_.size() < warm_;
}

std::uint64_t StagingPool::bound_bytes() const {
  MutexLock lock(mutex_);
  return std::uint64_t{bound_} * kExtentBytes;
}

std::uint64_t StagingPool::warm_bytes() const {
  MutexLock lock(mutex_);
  return std::uint64_t{warm_} * kExtentBytes;
}

std::uint64_t StagingPool::in_use_bytes() const {
  MutexLock lock(mutex_);
  return (warm_ - free_.size()) * kExtentBytes;
}

}  // namespace varve
