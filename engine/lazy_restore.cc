// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy_restore.h"

#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/log.h"
#include "base/os_error.h"
#include "base/signals.h"
#include "base/try.h"

namespace varve {
namespace {

Result<pthread_t> start_thread(void* (*body)(void*), void* self, const char* name) {
  const BlockedSignals blocked;  // inherited by the thread
  pthread_t thread{};
  const int refused = pthread_create(&thread, nullptr, body, self);
  if (refused != 0)
    return fail(ErrorCode::unsupported,
                {fmt::format("start of the thread {} failed", name), describe_errno(refused),
                 "raise the limit of threads (ulimit -u, the cgroup's pids.max)"},
                refused);
  pthread_setname_np(thread, name);
  return thread;
}

/// Zero pages that are put in place by one call.
constexpr std::uintptr_t kZeroBytes = std::uintptr_t{2} << 20;

}  // namespace

LazyRestore::LazyRestore(Source source, std::unique_ptr<MissingMemory> memory)
    : source_(std::move(source)), memory_(std::move(memory)) {}

Result<std::unique_ptr<LazyRestore>> LazyRestore::create(Source source) {
  VARVE_TRY_ASSIGN(auto memory, MissingMemory::open());
  std::unique_ptr<LazyRestore> made(new LazyRestore(std::move(source), std::move(memory)));
  VARVE_TRY(made->start_threads());
  return made;
}

Status LazyRestore::start_threads() {
  UniqueFd event(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid())
    return fail(ErrorCode::unsupported,
                {"preparation of a lazy restore failed", "eventfd(2) said " + describe_errno(errno),
                 "raise the limit of open files (ulimit -n)"},
                errno);
  end_faults_ = storage::GuardedFd(std::move(event));
  const auto serve_all = [](void* self) -> void* {
    static_cast<LazyRestore*>(self)->serve();
    return nullptr;
  };
  const auto stream_all = [](void* self) -> void* {
    static_cast<LazyRestore*>(self)->stream();
    return nullptr;
  };
  VARVE_TRY_ASSIGN(fault_thread_, start_thread(serve_all, this, "varve-faults"));
  VARVE_TRY_ASSIGN(stream_thread_, start_thread(stream_all, this, "varve-stream"));
  ForkWait::enter(*this);
  return {};
}

LazyRestore::~LazyRestore() {
  stop();
  release();
}

void LazyRestore::join(std::optional<pthread_t>& thread) {
  if (thread.has_value()) pthread_join(*thread, nullptr);
  thread.reset();
}

void LazyRestore::end_faults() {
  eventfd_write(end_faults_.get(), 1);
  join(fault_thread_);
}

void LazyRestore::stop() {
  {
    MutexLock lock(mutex_);
    stopping_.store(true);
    changed_.notify_all();
  }
  if (stream_thread_.has_value()) ForkWait::leave(*this);
  join(stream_thread_);
  end_faults();
}

void LazyRestore::release() {
  if (memory_->descriptor() < 0) return;
  for (const auto& piece : pieces_.all())
    memory_->give_back(piece.range, targets_[piece.target].region->traits.fork_holds_it);
  memory_->close();
  source_.held.reset();
}

void LazyRestore::end() {
  stop();
  if (!in_place()) make_inaccessible();
  release();
}

void LazyRestore::wait_before_fork() {
  MutexLock lock(mutex_);
  while (begun_ && streaming_ && !stopping_.load()) changed_.wait(mutex_);
}

// --- Taking memory

std::vector<storage::ByteRange> LazyRestore::take(std::shared_ptr<Region> region, const FillTarget& target,
                                                  std::span<const AddressRange> mappings) {
  const auto index = static_cast<std::uint32_t>(targets_.size());
  targets_.push_back({region, target.record, std::make_unique<RunLookup>(*target.record)});
  const auto zeros = long_zero_runs(target);
  const auto ranges = lazy_ranges(target, mappings);
  std::vector<storage::ByteRange> taken;
  for (const auto& range : split_at(ranges, zeros)) {
    const auto after =
        std::ranges::upper_bound(zeros, range.begin, {}, [](const AddressRange& zero) { return zero.begin; });
    const bool zero = after != zeros.begin() && range.end <= (after - 1)->end;
    const auto refused = memory_->drop(range, zero ? MissingMemory::Become::zero : MissingMemory::Become::missing);
    if (!refused.empty()) {
      if (left_why_.empty()) left_why_ = fmt::format("{}: {}", describe(*region), refused);
      continue;
    }
    insert_range(taken, {range.begin - region->address(), range.end - range.begin});
    if (!zero) pieces_.add(range, index);
  }
  if (ranges.empty() && left_why_.empty() && region->whole_pages().size_bytes() != 0)
    left_why_ = target.record->grid_offset != region->grid.grid_offset()
                    ? describe(*region) + " begins at another offset within its page than in the image"
                    : describe(*region) + " is no private anonymous memory, or excluded";
  pieces_.sort();
  return taken;
}

void LazyRestore::begin(std::function<void()> when_in_place) {
  lazy_bytes_ = pieces_.bytes();
  missing_pages_.store(lazy_bytes_ / tracker::page_bytes());
  MutexLock lock(mutex_);
  when_in_place_ = std::move(when_in_place);
  begun_ = true;
  changed_.notify_all();
}

// --- Placing

storage::ChunkRequest LazyRestore::request_of(std::uint32_t target, std::uint64_t chunk,
                                              const storage::ChunkName& name) const {
  return {name, static_cast<std::uint32_t>(targets_[target].region->grid.extent(chunk).bytes), fill_tag(target, chunk)};
}

AddressRange LazyRestore::memory_of(std::uint64_t tag) const {
  const Region& region = *targets_[target_of_tag(tag)].region;
  const auto extent = region.grid.extent(chunk_of_tag(tag));
  return {region.address() + extent.offset, region.address() + extent.offset + extent.bytes};
}

Status LazyRestore::read(std::span<const storage::ChunkRequest> requests, WhenChanging when) {
  return source_.store.read_chunks(requests, source_.threads,
                                   [this, when](std::uint64_t tag, std::span<const std::byte> content) {
                                     if (!stopping_.load(std::memory_order_relaxed)) deliver(tag, content, when);
                                   });
}

void LazyRestore::deliver(std::uint64_t tag, std::span<const std::byte> content, WhenChanging when) {
  const auto memory = memory_of(tag);
  // Chunks begin and end with pages, but for the ends of the region, which are not in pieces.
  const std::size_t page_bytes = tracker::page_bytes();
  for (std::uintptr_t page = round_up(memory.begin, page_bytes); page + page_bytes <= memory.end; page += page_bytes)
    if (const LazyPiece* piece = pieces_.find(page); piece != nullptr)
      place(*piece, page, content.data() + (page - memory.begin), when);
}

void LazyRestore::place(const LazyPiece& piece, std::uintptr_t page, const std::byte* content, WhenChanging when) {
  for (;;) {
    { MutexLock pass(turnstile_); }
    {
      const tracker::GateShared gate(gate_);
      if (piece.placed(page)) return;
      const auto done = memory_->copy(page, content);
      if (!done) {
        MutexLock lock(mutex_);
        not_placed_ = done.error();
        return;
      }
      if (*done != MissingMemory::Placed::changing) return placed(piece, page);
      if (when == WhenChanging::leave) return;
    }
    sched_yield();
  }
}

void LazyRestore::place_zeros(const Target& target, const storage::ChunkRun& run, WhenChanging when) {
  const auto extent = target.region->grid.extent(ChunkRange{run.first, run.count});
  const std::size_t page_bytes = tracker::page_bytes();
  std::uintptr_t at = round_up(target.region->address() + extent.offset, page_bytes);
  const std::uintptr_t end = round_down(target.region->address() + extent.offset + extent.bytes, page_bytes);
  while (at < end && !stopping_.load(std::memory_order_relaxed)) {
    const LazyPiece* const piece = pieces_.find(at);
    if (piece == nullptr) {
      // Dropped as a whole, or not ours: on to the next piece.
      const auto& all = pieces_.all();
      const auto after = std::ranges::upper_bound(all, at, {}, [](const LazyPiece& one) { return one.range.begin; });
      at = after == all.end() ? end : after->range.begin;
      continue;
    }
    const std::uintptr_t limit = std::min({end, piece->range.end, at + kZeroBytes});
    { MutexLock pass(turnstile_); }
    bool changing = false;
    {
      const tracker::GateShared gate(gate_);
      std::uintptr_t stop = at;
      while (stop < limit && !piece->placed(stop)) stop += page_bytes;
      std::size_t done = page_bytes;
      if (stop > at) {
        const auto zeroed = memory_->zero({at, stop}, done);
        changing = zeroed && *zeroed == MissingMemory::Placed::changing;
        if (!zeroed) {
          MutexLock lock(mutex_);
          not_placed_ = zeroed.error();
          return;
        }
        if (*zeroed != MissingMemory::Placed::now) done = changing ? 0 : page_bytes;
        for (std::uintptr_t page = at; page < at + done; page += page_bytes) placed(*piece, page);
      }
      at += done;
    }
    if (changing && when == WhenChanging::leave) return;
    if (changing) sched_yield();
  }
}

void LazyRestore::placed(const LazyPiece& piece, std::uintptr_t page) {
  if (piece.set_placed(page)) missing_pages_.fetch_sub(1, std::memory_order_relaxed);
}

std::uint64_t LazyRestore::placed_bytes() const {
  return lazy_bytes_ - missing_pages_.load(std::memory_order_relaxed) * tracker::page_bytes();
}

void LazyRestore::make_inaccessible() {
  const std::size_t page_bytes = tracker::page_bytes();
  for (const auto& piece : pieces_.all())
    for (std::uintptr_t page = piece.range.begin; page < piece.range.end; page += page_bytes) {
      if (piece.placed(page)) continue;
      std::uintptr_t end = page + page_bytes;
      while (end < piece.range.end && !piece.placed(end)) end += page_bytes;
      log::warn_once("engine", fmt::format("[{:#x}, {:#x}) of region '{}' could not be restored from image {} and is "
                                           "made inaccessible",
                                           page, end, targets_[piece.target].region->name, image()));
      if (mprotect(reinterpret_cast<void*>(page), end - page, PROT_NONE) != 0) {
        const int error = errno;
        unsigned char there = 0;
        const bool unmapped = mincore(reinterpret_cast<void*>(page), page_bytes, &there) != 0 && errno == ENOMEM;
        if (!unmapped) stop_the_program(page, os_error("making it inaccessible failed", error));
      }
      page = end - page_bytes;
    }
}

// --- How it ends

Status LazyRestore::wait() {
  MutexLock lock(mutex_);
  while (!over()) changed_.wait(mutex_);
  if (failure_.has_value()) return *failure_;
  return {};
}

std::optional<Error> LazyRestore::failure() {
  MutexLock lock(mutex_);
  return failure_;
}

Error LazyRestore::unread(std::uintptr_t page, const Error& cause) const {
  const LazyPiece* const piece = pieces_.find(page);
  VARVE_CHECK(piece != nullptr);
  const Region& region = *targets_[piece->target].region;
  const auto extent = region.grid.extent(region.grid.index_of(page - region.address()));
  return fail(
      cause.code(),
      {fmt::format("lazy restore of image {} failed: bytes {} to {} of region '{}' (at {:#x})", image(), extent.offset,
                   extent.offset + extent.bytes, region.name, region.address() + extent.offset),
       fmt::format("{}: {}", cause.what(), cause.cause()),
       "restore another image, or the newest good one (RestoreOptions::fallback, not lazily); varve verify lists "
       "what is damaged"},
      cause.os_errno());
}

void LazyRestore::stop_the_program(std::uintptr_t page, const Error& cause) {
  stop_program("stopping the program, which needs memory that can't be restored: " + unread(page, cause).message());
}

}  // namespace varve
