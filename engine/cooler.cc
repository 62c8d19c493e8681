// SPDX-License-Identifier: Apache-2.0
#include "engine/cooler.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/clock.h"
#include "base/log.h"
#include "engine/raw_copy.h"
#include "storage/chunk_name.h"

namespace varve {
namespace {

/// What is read from a region at once: large enough for the system call not to count, small enough for the cache.
constexpr std::uint64_t kCompareBytes = 256 * 1024;

}  // namespace

bool read_racing_memory(const std::byte* from, std::span<std::byte> into) {
  // The kernel copies: no data race in our code, and EFAULT instead of a signal where memory is gone. Through
  // syscall(2), since sanitizers wrap the library's function.
  const iovec local{into.data(), into.size()};
  const iovec remote{const_cast<std::byte*>(from), into.size()};
  const long got = syscall(SYS_process_vm_readv, getpid(), &local, 1UL, &remote, 1UL, 0UL);
  if (got == static_cast<long>(into.size())) return true;
  if (got >= 0 || (errno != EPERM && errno != ENOSYS)) return false;
  // Refused by a filter: the region's owner promises that it is mapped. A torn read differs from the committed content,
  // or the page is written again afterwards, and then it is a suspect whatever is said here.
  raw_copy(into.data(), from, into.size());
  return true;
}

tracker::PageRuns pages_of_chunks(const Region& region, const tracker::PageRuns& pages,
                                  std::span<const ChunkRange> chunks) {
  tracker::PageRuns common;
  const std::uintptr_t grid = region.grid_address();
  const std::uintptr_t chunk_bytes = region.grid.chunk_bytes();
  std::size_t next = 0;
  for (const auto& run : chunks) {
    const std::uintptr_t begin = grid + run.first * chunk_bytes;
    const std::uintptr_t end = grid + run.end() * chunk_bytes;
    while (next < pages.size() && pages[next].end <= begin) ++next;
    for (std::size_t i = next; i < pages.size() && pages[i].begin < end; ++i) {
      const tracker::PageRange part{std::max(begin, pages[i].begin), std::min(end, pages[i].end)};
      if (!common.empty() && common.back().end == part.begin)
        common.back().end = part.end;
      else
        common.push_back(part);
    }
  }
  return common;
}

double measure_hash_page_ns() {
  constexpr int kRounds = 32;
  const std::vector<std::byte> page(tracker::page_bytes(), std::byte{7});
  const storage::HashSecret secret{};
  std::uint64_t least_ns = std::numeric_limits<std::uint64_t>::max();  // the others were disturbed
  [[maybe_unused]] volatile std::uint64_t sink = 0;
  for (int i = 0; i < kRounds; ++i) {
    const std::uint64_t begin_ns = monotonic_ns();
    sink = storage::name_chunk(page, secret).low;
    least_ns = std::min(least_ns, monotonic_ns() - begin_ns);
  }
  return static_cast<double>(least_ns);
}

Cooler::Cooler(storage::Store& store, Mutex& cooling_mutex, const std::atomic<std::uint64_t>& newest_epoch)
    : store_(store),
      cooling_mutex_(cooling_mutex),
      newest_epoch_(newest_epoch),
      hash_page_ns_(measure_hash_page_ns()) {}

/// What keeping a page writable cost at this cut; 0 where too few were copied to tell.
double Cooler::visit_ns(ImageJob& job) const {
  constexpr std::uint64_t kFewestPages = 256;
  const auto stall = job.stall.wait();
  const std::uint64_t pages = stall.copied_bytes / tracker::page_bytes();
  if (pages < kFewestPages) return 0;
  return static_cast<double>(stall.copy_ns) / static_cast<double>(pages) + hash_page_ns_;
}

void Cooler::after_commit(ImageJob& job, std::span<const ReducedRegion> reduced) {
  const double page_visit_ns = visit_ns(job);
  for (std::size_t i = 0; i < job.regions.size(); ++i) {
    const RegionCut& cut = job.regions[i];
    Region& region = *cut.region;
    MutexLock lock(cooling_mutex_);  // for one region at a time: unprotect() waits for no more than that
    if (region.ended || region.tracking == nullptr) continue;
    region.tracking->committed(job.epoch);
    const auto unchanged = pages_of_chunks(region, cut.suspects, reduced[i].unchanged);
    region.tracking->reduced(job.epoch, {.suspects = cut.suspects, .unchanged = unchanged, .visit_ns = page_visit_ns});
    cool(region, *cut.exclusions, job.epoch, Content::may_differ);
  }
}

void Cooler::after_restore(Region& region, Content content) {
  MutexLock lock(cooling_mutex_);
  if (region.ended || region.tracking == nullptr) return;
  region.committed.cooled.clear();
  cool(region, *region.exclusions, newest_epoch_.load(), content);
}

void Cooler::cool(Region& region, const Exclusions& exclusions, std::uint64_t resolved_epoch, Content content) {
  CommittedRegion& committed = region.committed;
  if (committed.cooled.empty()) {
    if (const auto cooled = region.tracking->cool(committed.cooled); !cooled) {
      // What was protected before the failure is pending in the tracker: it stays suspect, and nothing is lost.
      log::warn_once("engine", cooled.error().message());
      committed.cooled.clear();
      return;
    }
    // Sequentially consistent, as the cutter's store is: a cut that this load misses lists after the protection.
    committed.cooled_after_epoch = newest_epoch_.load();
  }
  if (committed.cooled.empty() || committed.cooled_after_epoch > resolved_epoch) return;
  std::vector<ChunkRange> chunks;
  for (const auto& pages : committed.cooled) {
    const std::uint64_t at = pages.begin - region.address();
    append_run(chunks, region.grid.touching({at, pages.size_bytes()}));
  }
  chunks = subtract(chunks, exclusions.whole_chunks);
  const auto equal = content == Content::committed ? known(region, chunks) : compare(region, exclusions, chunks);
  region.tracking->settled(pages_of_chunks(region, committed.cooled, equal));
  committed.cooled.clear();
}

std::vector<ChunkRange> Cooler::known(const Region& region, std::span<const ChunkRange> chunks) {
  std::vector<ChunkRange> known;
  for (const auto& run : chunks)
    for (std::uint64_t index = run.first; index < run.end(); ++index)
      if (region.committed.names.known(index)) append_run(known, {index, 1});
  return known;
}

std::vector<ChunkRange> Cooler::compare(const Region& region, const Exclusions& exclusions,
                                        std::span<const ChunkRange> chunks) {
  std::vector<ChunkRange> equal;
  const std::uint64_t at_once = std::max<std::uint64_t>(1, kCompareBytes / region.grid.chunk_bytes());
  for (const auto& run : chunks) {
    for (std::uint64_t first = run.first; first < run.end(); first += at_once) {
      // A newer cut has listed what is pending, and its commit ends that: reading on would spare nothing. And what is
      // read is pinned, which makes a fork copy it, or copied if it is shared with a holder (fork_holder.h).
      if (newest_epoch_.load() != region.committed.cooled_after_epoch) return equal;
      const ChunkRange part{first, std::min(at_once, run.end() - first)};
      const auto extent = region.grid.extent(part);
      buffer_.resize(extent.bytes);
      if (!read_racing_memory(region.begin + extent.offset, buffer_)) continue;
      for (std::uint64_t index = part.first; index < part.end(); ++index) {
        const auto chunk = region.grid.extent(index);
        const auto content = std::span(buffer_).subspan(chunk.offset - extent.offset, chunk.bytes);
        if (equal_in_place(region, exclusions, index, content)) append_run(equal, {index, 1});
      }
    }
  }
  return equal;
}

bool Cooler::equal_in_place(const Region& region, const Exclusions& exclusions, std::uint64_t index,
                            std::span<std::byte> content) const {
  const NameTable& names = region.committed.names;
  if (!names.known(index)) return false;
  zero_ranges(exclusions.ranges, region.grid.extent(index).offset, content);
  if (storage::is_zero(content)) return names.zero(index);
  return names.is(index, store_.name_of(content));
}

}  // namespace varve
