// SPDX-License-Identifier: Apache-2.0
#include "engine/region_filler.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/fault_point.h"
#include "base/try.h"
#include "engine/chain.h"
#include "engine/mapping.h"
#include "engine/populating.h"

namespace varve {
namespace {

using storage::ByteRange;

/// Requests of one part: 32,768 stand for 128 MiB of 4 KiB chunks. The first have fewer, so that the disk has something
/// to do soon. At a seam one frame may be read twice.
constexpr std::size_t kRequestsMost = std::size_t{1} << 15;
constexpr std::size_t kFirstRequests = std::size_t{1} << 13;
/// Requests of a restore from which on what is in place is made clean meanwhile.
constexpr std::uint64_t kCoolFrom = std::uint64_t{1} << 14;
constexpr std::uint64_t kClearBytes = 4096;

tracker::PageRange pages_around(const Region& region) {
  return {round_down(region.address(), tracker::page_bytes()),
          round_up(region.address() + region.bytes(), tracker::page_bytes())};
}

/// Calls back for the parts of `extent` that are not kept.
template <class Visit>
void for_each_part(const FillTarget& target, const ByteRange& extent, const Visit& visit) {
  std::uint64_t at = extent.offset;
  const std::uint64_t end = extent.offset + extent.bytes;
  if (overlaps(target.kept, extent)) {
    for (const auto& range : target.kept) {
      if (range.offset + range.bytes <= at) continue;
      if (range.offset >= end) break;
      if (range.offset > at) visit(ByteRange{at, range.offset - at});
      at = std::min(range.offset + range.bytes, end);
    }
  }
  if (at < end) visit(ByteRange{at, end - at});
}

/// The parts of a record's runs that are wanted, one after the other.
class WantedRuns {
 public:
  explicit WantedRuns(const FillTarget& target) : target_(target) {}

  /// False: there are no more.
  bool next() {
    const auto& runs = target_.record->runs;
    const auto& wanted = target_.wanted;
    for (; at_ < runs.size(); leave_run()) {
      const std::uint64_t end = runs[at_].first + runs[at_].count;
      while (wanted_ < wanted.size() && wanted[wanted_].end() <= runs[at_].first) ++wanted_;
      if (wanted_ == wanted.size() || wanted[wanted_].first >= end) continue;
      const std::uint64_t first = std::max(runs[at_].first, wanted[wanted_].first);
      const std::uint64_t stop = std::min(end, wanted[wanted_].end());
      run_ = {first, stop - first, runs[at_].kind};
      first_name_ = next_name_ + static_cast<std::size_t>(first - runs[at_].first);
      if (stop == end)
        leave_run();
      else
        ++wanted_;
      return true;
    }
    return false;
  }
  // REQUIRES: next() was true.
  const storage::ChunkRun& run() const { return run_; }
  std::span<const storage::ChunkName> names() const {
    return std::span(target_.record->names).subspan(first_name_, static_cast<std::size_t>(run_.count));
  }

 private:
  void leave_run() {
    const storage::ChunkRun& run = target_.record->runs[at_++];
    if (run.kind == storage::RunKind::named) next_name_ += static_cast<std::size_t>(run.count);
  }

  const FillTarget& target_;
  std::size_t at_ = 0;         // of the record's runs
  std::size_t wanted_ = 0;     // of the target's
  std::size_t next_name_ = 0;  // the first of the run at_
  storage::ChunkRun run_;
  std::size_t first_name_ = 0;  // of run_
};

/// The whole pages of a part of a region.
AddressRange pages_within(const Region& region, const ByteRange& part) {
  const std::uintptr_t begin = round_up(region.address() + part.offset, tracker::page_bytes());
  const std::uintptr_t end = round_down(region.address() + part.offset + part.bytes, tracker::page_bytes());
  return {begin, std::max(begin, end)};
}

class Filler final : public storage::RequestSource {
 public:
  Filler(storage::Store& store, std::span<const FillTarget> targets) : store_(store), targets_(targets) {
    for (const auto& target : targets) {
      const ChunkGrid grid(*target.record, store_.chunk_bytes());
      const auto& tracking = target.region->tracking;
      const bool marked = tracking != nullptr && tracking->back_end() == tracker::BackEndKind::uffd;
      const auto look = marked ? Populating::Look::written : Populating::Look::no;
      for (WantedRuns runs(target); runs.next();) {
        const auto& run = runs.run();
        if (run.kind != storage::RunKind::named) continue;
        named_ += run.count;
        // Only what is filled: the rest may be restored lazily, and is not there to be populated.
        for_each_part(target, grid.extent(ChunkRange{run.first, run.count}),
                      [&](const ByteRange& part) { populating_.add(pages_within(*target.region, part), look); });
      }
    }
    populating_.sort();
  }

  Status run() {
    return store_.read_chunks(*this, storage::kAllProcessors,
                              [this](std::uint64_t tag, std::span<const std::byte> content) { deliver(tag, content); });
  }

  std::span<const storage::ChunkRequest> next(std::vector<storage::ChunkRequest>& room) override {
    while (room.size() < part_requests_ && next_run()) {
      const FillTarget& target = targets_[target_];
      const ChunkGrid grid(*target.record, store_.chunk_bytes());
      const auto& run = runs_->run();
      if (run.kind == storage::RunKind::zero) {
        clear(target, grid.extent(ChunkRange{run.first, run.count}));
        in_run_ = run.count;
        continue;
      }
      const auto names = runs_->names();
      for (; in_run_ < run.count && room.size() < part_requests_; ++in_run_) {
        const std::uint64_t chunk = run.first + in_run_;
        room.push_back({names[static_cast<std::size_t>(in_run_)], static_cast<std::uint32_t>(grid.extent(chunk).bytes),
                        fill_tag(target_, chunk)});
      }
    }
    part_requests_ = std::min(2 * part_requests_, kRequestsMost);
    return room;
  }

  void finished(std::span<const storage::ChunkRequest> requests) override {
    finished_ += requests.size();
    // Of little, that is left to the background: its pages may lie far apart.
    if (finished_ >= kCoolFrom) cool_ahead(requests.back().tag);
  }

 private:
  /// There is a run with something left of it, the present one or the next. False: all of every target was asked for.
  bool next_run() {
    for (; target_ < targets_.size(); ++target_, runs_.reset()) {
      if (!runs_)
        runs_.emplace(targets_[target_]);
      else if (in_run_ < runs_->run().count)
        return true;
      in_run_ = 0;
      if (runs_->next()) return true;
    }
    return false;
  }

  /// All up to this chunk is in place: its pages become clean while others are read.
  void cool_ahead(std::uint64_t tag) {
    const std::size_t last = target_of_tag(tag);
    for (; cooled_ < last; ++cooled_) cool_ahead(targets_[cooled_], targets_[cooled_].record->bytes);
    const FillTarget& target = targets_[last];
    const auto extent = ChunkGrid(*target.record, store_.chunk_bytes()).extent(chunk_of_tag(tag));
    cool_ahead(target, extent.offset + extent.bytes);
  }
  static void cool_ahead(const FillTarget& target, std::uint64_t bytes) {
    if (target.region->tracking != nullptr)
      target.region->tracking->cool_ahead(round_down(target.region->address() + bytes, tracker::page_bytes()));
  }

  // Called from several threads at once.
  void deliver(std::uint64_t tag, std::span<const std::byte> content) {
    const FillTarget& target = targets_[target_of_tag(tag)];
    const ChunkGrid grid(*target.record, store_.chunk_bytes());
    const auto extent = grid.extent(chunk_of_tag(tag));
    for_each_part(target, extent, [&](const ByteRange& part) {
      const std::uintptr_t address = target.region->address() + part.offset;
      populating_.prepare({address, address + part.bytes});
      std::memcpy(target.region->begin + part.offset, content.data() + (part.offset - extent.offset), part.bytes);
    });
    if (delivered_.fetch_add(1, std::memory_order_relaxed) == named_ / 2) VARVE_FAULT_POINT(restore_half);
  }

  /// Looks first, so that memory which is zero already, and was never touched, needs none.
  static void clear(const FillTarget& target, const ByteRange& extent) {
    for_each_part(target, extent, [&](const ByteRange& part) {
      for (std::uint64_t at = 0; at < part.bytes; at += kClearBytes) {
        const std::span<std::byte> memory(target.region->begin + part.offset + at,
                                          std::min(kClearBytes, part.bytes - at));
        if (!storage::is_zero(memory)) std::memset(memory.data(), 0, memory.size());
      }
    });
  }

  storage::Store& store_;
  const std::span<const FillTarget> targets_;
  Populating populating_;
  std::uint64_t named_ = 0;
  std::atomic<std::uint64_t> delivered_{0};

  // Of what is asked for: the run of a target that comes next, and how much of it was.
  std::size_t part_requests_ = kFirstRequests;
  std::size_t target_ = 0;
  std::optional<WantedRuns> runs_;
  std::uint64_t in_run_ = 0;

  std::uint64_t finished_ = 0;  // requests
  std::size_t cooled_ = 0;      // targets that are in place as a whole
};

}  // namespace

Status check_writable(const Region& region, const std::string& image) {
  VARVE_TRY(tracker::Service::process().writable(pages_around(region)));
  VARVE_TRY_ASSIGN(const auto protection, protection_of_range({region.address(), region.address() + region.bytes()}));
  if (protection.has_value() && (*protection & PROT_WRITE) != 0) return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("restore of image {} refused", image),
               fmt::format("{} is {}", describe(region), protection.has_value() ? "read-only" : "no longer mapped"),
               "make it writable (mprotect(2)) for the time of the restore; nothing was changed"});
}

std::vector<ChunkRange> all_chunks(const storage::RegionRecord& record) {
  std::vector<ChunkRange> chunks;
  for (const auto& run : record.runs) append_run(chunks, {run.first, run.count});
  return chunks;
}

std::vector<ChunkRange> differing_chunks(const Region& region, const storage::RegionRecord& record,
                                         std::span<const ChunkRange> suspects) {
  std::vector<ChunkRange> chunks;
  const NameTable& committed = region.committed.names;
  std::size_t next = 0;
  for_each_chunk(record, region.grid.chunk_bytes(), [&](const ResolvedChunk& chunk) {
    while (next < suspects.size() && suspects[next].end() <= chunk.index) ++next;
    const bool suspect = next < suspects.size() && suspects[next].first <= chunk.index;
    const bool same =
        chunk.kind == storage::RunKind::zero ? committed.zero(chunk.index) : committed.is(chunk.index, chunk.name);
    if (suspect || !same) append_run(chunks, {chunk.index, 1});
  });
  return chunks;
}

Status fill(storage::Store& store, std::span<const FillTarget> targets) { return Filler(store, targets).run(); }

}  // namespace varve
