// SPDX-License-Identifier: Apache-2.0
#include "engine/live_reader.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/huge_memory.h"
#include "engine/capture_extent.h"
#include "engine/raw_copy.h"

namespace varve {
namespace {

/// What is looked at together.
constexpr std::size_t kWindowBytes = std::size_t{2} << 20;
/// Of memory that is marked in one system call: some 0.8 ms; and 0.1 ms while the reader's thread sets itself up, with
/// pauses in which it can be woken.
constexpr std::size_t kLargeSlice = std::size_t{64} << 20;
constexpr std::size_t kSmallSlice = std::size_t{8} << 20;
constexpr std::uint64_t kPauseNs = 30'000;
constexpr std::uint64_t kMakeWayNs = 10'000'000;

/// Whether ascending ranges cover all of this one.
bool cover(std::span<const AddressRange> ranges, AddressRange wanted) {
  for (const AddressRange& range : ranges) {
    if (range.end <= wanted.begin) continue;
    if (range.begin > wanted.begin) return false;
    wanted.begin = range.end;
    if (wanted.begin >= wanted.end) return true;
  }
  return false;
}

}  // namespace

void LiveReader::watch(std::span<const MemorySpan> held) {
  for (const MemorySpan& span : held) regions_[span.region].watched = true;
}

void LiveReader::end_stall() {
  const std::uint64_t begin_ns = monotonic_ns();
  for (Watched& watched : regions_)
    if (watched.watched && watched.region->tracking != nullptr)
      watched.told = watch_region(*watched.region->tracking, begin_ns);
  stalled_.exchange(false, std::memory_order_acq_rel);  // whoever found it true has read before what comes from here on
}

// A thread that is about to change mappings is woken when a slice is done, and would find the next one begun: the
// kernel lets it wait for some ten slices. Marking without end would leave it, and the disk, without work for all of
// the time.
bool LiveReader::watch_region(tracker::Tracking& tracking, std::uint64_t begin_ns) {
  const tracker::PageRange range = tracking.range();
  for (std::uintptr_t at = range.begin; at < range.end;) {
    const bool make_way = beside_ == Beside::reader && !reading_.load(std::memory_order_relaxed) &&
                          monotonic_ns() - begin_ns < kMakeWayNs;
    // An end within a huge page would split it.
    const std::uintptr_t end = round_down(at + (make_way ? kSmallSlice : kLargeSlice), kHugePageBytes);
    const tracker::PageRange slice{at, std::min(range.end, end)};
    if (!tracking.watch_fork(epoch_, slice)) return false;
    at = slice.end;
    if (!make_way || at == range.end) continue;
    for (const std::uint64_t done_ns = monotonic_ns(); monotonic_ns() - done_ns < kPauseNs;) {
    }
  }
  return true;
}

bool LiveReader::within_stall() const {
  // Written again: so that end_stall() takes what was read before from here.
  bool stalled = true;
  return stalled_.compare_exchange_strong(stalled, true, std::memory_order_acq_rel, std::memory_order_acquire);
}

void LiveReader::begin(std::vector<MemorySpan> held) {
  spans_ = std::move(held);
  // Against what the program should not do: a region that can't be read any more is the holder's.
  const auto mappings = private_anonymous_mappings();
  for (Watched& watched : regions_) {
    const std::uintptr_t begin = watched.region->address();
    watched.readable = mappings && cover(mappings.value(), {begin, begin + watched.region->bytes()});
  }
}

bool LiveReader::read(Block& block) {
  block.pieces.clear();
  while (block.pieces.empty()) {
    if (window_at_ < window_.size())
      read_block(block);
    else if (!open_window())
      return false;
  }
  reading_.store(true, std::memory_order_relaxed);
  return true;
}

bool LiveReader::open_window() {
  if (span_ < spans_.size() && done_ == spans_[span_].bytes) {
    ++span_;
    done_ = 0;
  }
  if (span_ == spans_.size()) return false;
  current_ = spans_[span_];
  const std::size_t bytes = piece_bytes(current_, done_, kWindowBytes, chunk_bytes_);
  const auto begin = reinterpret_cast<std::uintptr_t>(current_.begin) + done_;
  const Part part{begin, begin + bytes};
  done_ += bytes;
  window_.clear();
  window_at_ = 0;
  {
    MutexLock lock(touching_);
    look_at(part);
  }
  divide(part, [this](const Part& unchanged) { window_.push_back(unchanged); });
  return true;
}

void LiveReader::read_block(Block& block) {
  copied_.clear();
  MutexLock lock(touching_);
  if (regions_[current_.region].region->ended) {
    for (; window_at_ < window_.size(); ++window_at_) leave_to_holder(window_[window_at_]);
    return;
  }
  for (std::size_t used = 0; window_at_ < window_.size();) {
    Part& part = window_[window_at_];
    const MemorySpan whole{current_.region, reinterpret_cast<const std::byte*>(part.begin), part.end - part.begin,
                           current_.grid, true};
    const std::size_t bytes = piece_bytes(whole, 0, kBlockBytes - used, chunk_bytes_);
    if (bytes == 0) break;
    std::byte* const to = block.memory + used;
    raw_copy(to, whole.begin, bytes);
    copied_.push_back({part.begin, {to, bytes}});
    used += bytes;
    part.begin += bytes;
    if (part.begin == part.end) ++window_at_;
  }
  const Copied& last = copied_.back();
  look_at({copied_.front().begin, last.begin + last.content.size()});
  for (const Copied& copied : copied_)
    divide({copied.begin, copied.begin + copied.content.size()}, [this, &block, &copied](const Part& unchanged) {
      block.pieces.push_back({current_.region, unchanged.begin,
                              copied.content.subspan(unchanged.begin - copied.begin, unchanged.end - unchanged.begin)});
    });
}

void LiveReader::look_at(const Part& cover) {
  first_chunk_ = (cover.begin - current_.grid) / chunk_bytes_;
  const std::uint64_t chunks = (cover.end - 1 - current_.grid) / chunk_bytes_ - first_chunk_ + 1;
  const Watched& watched = regions_[current_.region];
  const Region& region = *watched.region;
  chunk_changed_.assign(chunks, true);
  if (!watched.readable || region.ended) return;
  if (within_stall()) {
    chunk_changed_.assign(chunks, false);
    return;
  }
  if (!watched.told || region.tracking == nullptr) return;
  const tracker::PageRange tracked = region.tracking->range();
  const tracker::PageRange pages{std::max(cover.begin, tracked.begin), std::min(cover.end, tracked.end)};
  if (pages.begin >= pages.end) return;
  chunk_changed_.assign(chunks, false);
  mark(cover.begin, pages.begin);  // pages that others have a part of are not tracked
  mark(pages.end, cover.end);
  region.tracking->changed_since_fork(epoch_, pages, changes_);
  for (const tracker::PageRange& run : changes_) mark(run.begin, run.end);
}

void LiveReader::mark(std::uintptr_t begin, std::uintptr_t end) {
  if (begin >= end) return;
  const std::uint64_t last = (end - 1 - current_.grid) / chunk_bytes_ - first_chunk_;
  for (std::uint64_t chunk = (begin - current_.grid) / chunk_bytes_ - first_chunk_; chunk <= last; ++chunk)
    chunk_changed_[chunk] = true;
}

template <class Unchanged>
void LiveReader::divide(const Part& part, Unchanged unchanged) {
  for (std::uintptr_t at = part.begin; at < part.end;) {
    std::uint64_t chunk = (at - current_.grid) / chunk_bytes_;
    const bool changed = chunk_changed_[chunk - first_chunk_];
    std::uintptr_t end = at;
    while (end < part.end && chunk_changed_[chunk - first_chunk_] == changed)
      end = std::min(part.end, current_.grid + ++chunk * chunk_bytes_);
    if (changed)
      leave_to_holder({at, end});
    else
      unchanged(Part{at, end});
    at = end;
  }
}

void LiveReader::leave_to_holder(const Part& part) {
  rest_.push_back(
      {current_.region, reinterpret_cast<const std::byte*>(part.begin), part.end - part.begin, current_.grid, true});
}

std::vector<MemorySpan> LiveReader::take_rest() {
  std::sort(rest_.begin(), rest_.end(), [](const MemorySpan& one, const MemorySpan& other) {
    return one.region != other.region ? one.region < other.region : one.begin < other.begin;
  });
  std::vector<MemorySpan> joined;
  for (const MemorySpan& span : rest_) {
    if (!joined.empty() && joined.back().region == span.region &&
        joined.back().begin + joined.back().bytes == span.begin)
      joined.back().bytes += span.bytes;
    else
      joined.push_back(span);
  }
  rest_.clear();
  return joined;
}

}  // namespace varve
