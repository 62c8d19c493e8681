// SPDX-License-Identifier: Apache-2.0
//
// What the two threads of a LazyRestore do. See lazy_restore.h for what they must not.
#include <poll.h>

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/log.h"
#include "engine/lazy_restore.h"

namespace varve {
namespace {

/// What is read at a fault: the chunk and its neighbours within so many bytes, which lie in the same frame as a rule,
/// so that they cost nothing more.
constexpr std::uint64_t kAroundBytes = std::uint64_t{64} << 10;
/// Requests of the stream at once (128 MiB of 4 KiB chunks): many enough for long reads, few enough to end soon.
constexpr std::size_t kStreamRequests = std::size_t{1} << 15;
/// Chunks that can't be read before the stream takes the rest for lost, too. Each costs some twenty reads to find.
constexpr std::size_t kLostMax = 64;

}  // namespace

// --- varve-faults

void LazyRestore::serve() {
  std::vector<MissingMemory::Event> events;
  std::vector<std::uintptr_t> pages;
  std::array<pollfd, 2> wanted{pollfd{memory_->descriptor(), POLLIN, 0}, pollfd{end_faults_.get(), POLLIN, 0}};
  for (;;) {
    poll(wanted.data(), wanted.size(), -1);
    if (wanted[1].revents != 0) return;
    {
      MutexLock lock(mutex_);  // until begin() the pieces are being made
      while (!begun_ && !stopping_.load()) changed_.wait(mutex_);
    }
    events.clear();
    pages.clear();
    {
      MutexLock pass(turnstile_);
      const tracker::GateAlone gate(gate_);
      memory_->read_events(events);
      for (const auto& event : events) {
        if (!event.dropped) pages.push_back(event.range.begin);
        for (std::uintptr_t page = event.range.begin; event.dropped && page < event.range.end;
             page += tracker::page_bytes())
          if (const LazyPiece* piece = pieces_.find(page); piece != nullptr) placed(*piece, page);
      }
    }
    std::sort(pages.begin(), pages.end());
    pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
    if (!pages.empty()) serve_faults(pages);
  }
}

void LazyRestore::serve_again(std::uintptr_t page) {
  // Placed meanwhile; or dropped by the program since, and then it is zero.
  std::size_t done = 0;
  const auto zeroed = memory_->zero({page, page + tracker::page_bytes()}, done);
  if (!zeroed) stop_the_program(page, zeroed.error());
  memory_->wake(page);  // who waits still after the page came faults again, and is served again
}

void LazyRestore::want_around(const LazyPiece& piece, std::uintptr_t page,
                              std::vector<storage::ChunkRequest>& requests) {
  const Target& target = targets_[piece.target];
  const ChunkGrid& grid = target.region->grid;
  const std::uint64_t chunk = grid.index_of(page - target.region->address());
  const auto found = target.runs->find(chunk);
  if (found.run.kind != storage::RunKind::named) return;  // zeros have no names
  const std::uint64_t around = std::max<std::uint64_t>(1, kAroundBytes / grid.chunk_bytes());
  const std::uint64_t first = std::max(round_down(chunk, around), found.run.first);
  const std::uint64_t end = std::min(round_down(chunk, around) + around, found.run.first + found.run.count);
  for (std::uint64_t i = first; i < end; ++i) {
    const auto request = request_of(piece.target, i, target.record->names[found.first_name + (i - found.run.first)]);
    if (pieces_.any_missing(memory_of(request.tag))) requests.push_back(request);
  }
}

void LazyRestore::serve_faults(std::vector<std::uintptr_t>& pages) {
  faults_.fetch_add(pages.size(), std::memory_order_relaxed);
  std::vector<storage::ChunkRequest> requests;
  for (const std::uintptr_t page : pages) {
    const LazyPiece* const piece = pieces_.find(page);
    if (piece == nullptr || piece->placed(page)) {
      serve_again(page);
      continue;
    }
    const Target& target = targets_[piece->target];
    const auto found = target.runs->find(target.region->grid.index_of(page - target.region->address()));
    if (found.run.count == 0)
      stop_the_program(page, fail(ErrorCode::corruption,
                                  {"reading its manifest failed", "it says nothing of them", "restore another image"}));
    if (found.run.kind == storage::RunKind::zero)
      place_zeros(target, {target.region->grid.index_of(page - target.region->address()), 1, found.run.kind},
                  WhenChanging::leave);
    else
      want_around(*piece, page, requests);
  }
  std::ranges::sort(requests, {}, &storage::ChunkRequest::tag);
  const auto same = [](const auto& a, const auto& b) { return a.tag == b.tag; };
  requests.erase(std::unique(requests.begin(), requests.end(), same), requests.end());
  // What could not be read shows below, where it is asked for alone: a neighbour's damage is no reason to stop.
  [[maybe_unused]] const Status all = read(requests, WhenChanging::leave);
  for (const std::uintptr_t page : pages)
    if (const LazyPiece* piece = pieces_.find(page); piece != nullptr && !piece->placed(page))
      serve_alone(*piece, page);
}

void LazyRestore::serve_alone(const LazyPiece& piece, std::uintptr_t page) {
  std::vector<storage::ChunkRequest> requests;
  want_around(piece, page, requests);
  std::erase_if(requests, [&](const auto& request) {
    const auto memory = memory_of(request.tag);
    return page < memory.begin || page >= memory.end;
  });
  const Status alone = read(requests, WhenChanging::leave);
  if (piece.placed(page) || stopping_.load()) return;
  if (!alone) stop_the_program(page, alone.error());
  {
    MutexLock lock(mutex_);
    if (not_placed_.has_value()) stop_the_program(page, *not_placed_);
  }
  memory_->wake(page);  // another thread is changing the mapping: see WhenChanging
}

// --- varve-stream

void LazyRestore::stream() {
  {
    MutexLock lock(mutex_);
    while (!begun_ && !stopping_.load()) changed_.wait(mutex_);
  }
  memory_->free_moved(stopping_);
  std::vector<storage::ChunkRequest> requests;
  for (std::uint32_t i = 0; i < targets_.size(); ++i) stream_target(i, requests);
  read_apart(requests);
  end_stream();
}

void LazyRestore::stream_target(std::uint32_t index, std::vector<storage::ChunkRequest>& requests) {
  const Target& target = targets_[index];
  std::size_t next_name = 0;
  for (const auto& run : target.record->runs) {
    if (run.kind == storage::RunKind::zero) {
      place_zeros(target, run, WhenChanging::wait);
      continue;
    }
    for (std::uint64_t k = 0; k < run.count && !stopping_.load(std::memory_order_relaxed); ++k) {
      const auto request = request_of(index, run.first + k, target.record->names[next_name + k]);
      if (!pieces_.any_missing(memory_of(request.tag))) continue;
      requests.push_back(request);
      if (requests.size() < kStreamRequests) continue;
      read_apart(requests);
      requests.clear();
    }
    next_name += run.count;
  }
}

bool LazyRestore::too_much_lost() {
  MutexLock lock(mutex_);
  return lost_.size() >= kLostMax;
}

void LazyRestore::lost(const storage::ChunkRequest& request, const Error& error) {
  MutexLock lock(mutex_);
  lost_.push_back({request, error});
}

/// Reads what is missing; where something can't be read, halves the rest, so that what lies beside it comes all the
/// same.
void LazyRestore::read_apart(std::span<storage::ChunkRequest> requests) {
  if (stopping_.load() || too_much_lost()) return;
  const auto missing = [this](const storage::ChunkRequest& request) {
    return pieces_.any_missing(memory_of(request.tag));
  };
  const auto missing_of = [&](std::span<storage::ChunkRequest> some) {
    return some.first(static_cast<std::size_t>(std::partition(some.begin(), some.end(), missing) - some.begin()));
  };
  auto rest = missing_of(requests);
  if (rest.empty()) return;
  const Status all = read(rest, WhenChanging::wait);
  if (all) return;
  rest = missing_of(rest);
  if (rest.size() == 1) lost(rest.front(), all.error());
  if (rest.size() <= 1) return;
  const std::size_t half = rest.size() / 2;
  read_apart(rest.first(half));
  read_apart(rest.subspan(half));
}

void LazyRestore::end_badly() {
  const std::size_t page_bytes = tracker::page_bytes();
  std::uintptr_t first_missing = 0;
  for (const auto& piece : pieces_.all())
    for (std::uintptr_t page = piece.range.begin; page < piece.range.end; page += page_bytes) {
      const std::uintptr_t begin = page;
      while (page < piece.range.end && piece.placed(page)) page += page_bytes;
      // A child may have what is in place.
      if (page > begin && targets_[piece.target].region->traits.fork_holds_it) memory_->let_fork({begin, page});
      if (page < piece.range.end && first_missing == 0) first_missing = page;
    }
  if (!lost_.empty())
    failure_ = unread(round_up(memory_of(lost_.front().request.tag).begin, page_bytes), lost_.front().error);
  else if (not_placed_.has_value())
    failure_ = unread(first_missing, *not_placed_);
  else
    failure_ = unread(first_missing, fail(ErrorCode::corruption, {"reading its manifest failed",
                                                                  "it does not name them", "restore another image"}));
  log::warn_once("engine", failure_->message());
}

void LazyRestore::end_stream() {
  std::function<void()> when_in_place;
  {
    MutexLock lock(mutex_);
    // What the program asked for meanwhile may have been read after all.
    std::erase_if(lost_, [this](const Lost& one) { return !pieces_.any_missing(memory_of(one.request.tag)); });
    if (missing_pages_.load() != 0 || stopping_.load()) {
      if (!stopping_.load()) end_badly();
      streaming_ = false;
      over_.store(true, std::memory_order_release);
      changed_.notify_all();
      return;
    }
    when_in_place.swap(when_in_place_);
  }
  end_faults();
  release();
  in_place_.store(true);
  {
    MutexLock lock(mutex_);
    streaming_ = false;  // a child may be forked now
    changed_.notify_all();
  }
  when_in_place();
  MutexLock lock(mutex_);
  over_.store(true, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace varve
