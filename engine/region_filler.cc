// SPDX-License-Identifier: Apache-2.0
#include "engine/region_filler.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/fault_point.h"
#include "base/signals.h"
#include "base/try.h"
#include "engine/chain.h"
#include "engine/mapping.h"
#include "engine/populating.h"

namespace varve {
namespace {

using storage::ByteRange;

/// Requests that are made at once: 8 MiB of them stand for 1 GiB of 4 KiB chunks. At a seam one frame may be read
/// twice. The first are fewer, so that the disk has something to do soon, and has when they are read: each time there
/// are twice as many, whose places are looked up in less time than the ones before take.
constexpr std::size_t kRequestsMax = std::size_t{1} << 18;
constexpr std::size_t kFirstRequests = std::size_t{1} << 15;
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

/// Calls back for the parts of the record's runs that are wanted, with the index of their first name.
template <class Visit>
void for_each_wanted_run(const FillTarget& target, const Visit& visit) {
  std::size_t next_name = 0;
  std::size_t next = 0;
  for (const auto& run : target.record->runs) {
    const std::uint64_t end = run.first + run.count;
    while (next < target.wanted.size() && target.wanted[next].end() <= run.first) ++next;
    for (std::size_t i = next; i < target.wanted.size() && target.wanted[i].first < end; ++i) {
      const std::uint64_t first = std::max(run.first, target.wanted[i].first);
      const std::uint64_t stop = std::min(end, target.wanted[i].end());
      visit(storage::ChunkRun{first, stop - first, run.kind}, next_name + (first - run.first));
    }
    if (run.kind == storage::RunKind::named) next_name += run.count;
  }
}

/// The whole pages of a part of a region.
AddressRange pages_within(const Region& region, const ByteRange& part) {
  const std::uintptr_t begin = round_up(region.address() + part.offset, tracker::page_bytes());
  const std::uintptr_t end = round_down(region.address() + part.offset + part.bytes, tracker::page_bytes());
  return {begin, std::max(begin, end)};
}

class Filler {
 public:
  Filler(storage::Store& store, std::span<const FillTarget> targets) : store_(store), targets_(targets) {
    for (const auto& target : targets) {
      const ChunkGrid grid(*target.record, store_.chunk_bytes());
      for_each_wanted_run(target, [&](const storage::ChunkRun& run, std::size_t) {
        if (run.kind != storage::RunKind::named) return;
        named_ += run.count;
        // Only what is filled: the rest may be restored lazily, and is not there to be populated.
        for_each_part(target, grid.extent(ChunkRange{run.first, run.count}),
                      [&](const ByteRange& part) { populating_.add(pages_within(*target.region, part)); });
      });
    }
    populating_.sort();
  }

  Status run() {
    for (std::size_t i = 0; i < targets_.size(); ++i) VARVE_TRY(fill_target(i));
    if (!batches_.empty() && !requests_.empty()) VARVE_TRY(begin_batch());
    VARVE_TRY(finish_all_but(0));
    return read(requests_, last_, {});
  }

 private:
  Status fill_target(std::size_t index) {
    const FillTarget& target = targets_[index];
    const ChunkGrid grid(*target.record, store_.chunk_bytes());
    Status status;
    for_each_wanted_run(target, [&](const storage::ChunkRun& run, std::size_t first_name) {
      if (run.kind == storage::RunKind::zero) return clear(target, grid.extent(ChunkRange{run.first, run.count}));
      for (std::uint64_t k = 0; k < run.count && status; ++k) {
        const std::uint64_t chunk = run.first + k;
        requests_.push_back({target.record->names[first_name + k], static_cast<std::uint32_t>(grid.extent(chunk).bytes),
                             fill_tag(index, chunk)});
        if (requests_.size() >= requests_max_) status = begin_batch();
      }
    });
    return status;
  }

  /// Chunks that are read by a thread of their own, while the places of the next ones are looked up. Reading goes by
  /// turns: two batches at once would take turns at the disk, and end at the same time, with the next one not planned.
  /// One makes way when its last are being read, so that the disk has its queue meanwhile.
  struct Batch {
    Filler& filler;
    const std::vector<storage::ChunkRequest> requests;
    const std::shared_ptr<std::latch> before;  // the batch before makes way; null: there is none
    const std::shared_ptr<std::latch> makes_way = std::make_shared<std::latch>(1);
    std::optional<pthread_t> thread = {};
    Status status = {};

    Batch(Filler& owner, std::vector<storage::ChunkRequest> wanted, std::shared_ptr<std::latch> end_before)
        : filler(owner), requests(std::move(wanted)), before(std::move(end_before)) {}
    ~Batch() { wait(); }
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;
    void start() {
      const BlockedSignals blocked;  // inherited by the thread
      pthread_t started;
      if (pthread_create(&started, nullptr, &run, this) == 0)
        thread = started;
      else  // no more threads for this user
        run(this);
    }
    void wait() {
      if (thread.has_value()) pthread_join(*thread, nullptr);
      thread.reset();
    }
    static void* run(void* self) {
      auto& batch = *static_cast<Batch*>(self);
      bool made_way = false;  // last_begun comes while read() runs
      batch.status = batch.filler.read(batch.requests, batch.before, [&batch, &made_way] {
        made_way = true;
        batch.makes_way->count_down();
      });
      if (!made_way) batch.makes_way->count_down();
      return nullptr;
    }
  };

  Status read(std::span<const storage::ChunkRequest> requests, const std::shared_ptr<std::latch>& before,
              const std::function<void()>& make_way) {
    return store_.read_chunks(requests, storage::kAllProcessors,
                              [this](std::uint64_t tag, std::span<const std::byte> content) { deliver(tag, content); },
                              {[&before] {
                                 if (before != nullptr) before->wait();
                               },
                               make_way});
  }

  Status begin_batch() {
    VARVE_TRY(finish_all_but(1));
    batches_.push_back(std::make_unique<Batch>(*this, std::move(requests_), last_));
    last_ = batches_.back()->makes_way;
    batches_.back()->start();
    requests_.clear();
    requests_max_ = std::min(2 * requests_max_, kRequestsMax);
    return {};
  }

  Status finish_all_but(std::size_t left) {
    for (; batches_.size() > left; batches_.pop_front()) {
      batches_.front()->wait();
      VARVE_TRY(batches_.front()->status);
      cool_ahead(batches_.front()->requests.back().tag);
    }
    return {};
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
  std::vector<storage::ChunkRequest> requests_;
  std::size_t requests_max_ = kFirstRequests;
  std::size_t cooled_ = 0;  // targets that are in place as a whole
  std::uint64_t named_ = 0;
  std::atomic<std::uint64_t> delivered_{0};
  std::shared_ptr<std::latch> last_;            // of the batch that was begun last: makes_way
  std::deque<std::unique_ptr<Batch>> batches_;  // at most two; last, so that they end before what they use
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
