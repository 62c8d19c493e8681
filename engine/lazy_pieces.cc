// SPDX-License-Identifier: Apache-2.0
#include "engine/lazy_pieces.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/check.h"

namespace varve {
namespace {

/// Shorter runs are put in place like named chunks: each run that is left out costs the kernel a mapping or two.
constexpr std::uintptr_t kLongZeroBytes = std::uintptr_t{2} << 20;
constexpr std::size_t kZeroRunsMax = 1024;

/// [begin, end) of a region's bytes, as the whole pages within.
AddressRange pages_within(const Region& region, const storage::ByteRange& bytes) {
  const std::uintptr_t begin = round_up(region.address() + bytes.offset, tracker::page_bytes());
  const std::uintptr_t end = round_down(region.address() + bytes.offset + bytes.bytes, tracker::page_bytes());
  return {begin, std::max(begin, end)};
}

}  // namespace

void LazyPieces::add(AddressRange range, std::uint32_t target) {
  LazyPiece piece;
  piece.range = range;
  piece.target = target;
  const std::size_t pages = (range.end - range.begin) / tracker::page_bytes();
  piece.marks = std::make_unique<std::atomic<std::uint64_t>[]>((pages + 63) / 64);
  pieces_.push_back(std::move(piece));
}

void LazyPieces::sort() {
  std::ranges::sort(pieces_, {}, [](const LazyPiece& piece) { return piece.range.begin; });
}

const LazyPiece* LazyPieces::find(std::uintptr_t page) const {
  const auto after =
      std::ranges::upper_bound(pieces_, page, {}, [](const LazyPiece& piece) { return piece.range.begin; });
  if (after == pieces_.begin()) return nullptr;
  const LazyPiece& piece = *(after - 1);
  return page < piece.range.end ? &piece : nullptr;
}

bool LazyPieces::any_missing(AddressRange range) const {
  for (std::uintptr_t page = round_down(range.begin, tracker::page_bytes()); page < range.end;
       page += tracker::page_bytes())
    if (const LazyPiece* piece = find(page); piece != nullptr && !piece->placed(page)) return true;
  return false;
}

std::uint64_t LazyPieces::bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& piece : pieces_) bytes += piece.range.end - piece.range.begin;
  return bytes;
}

std::vector<AddressRange> lazy_ranges(const FillTarget& target, std::span<const AddressRange> mappings) {
  const Region& region = *target.region;
  // At another offset within a page the image's chunks are not this region's: a page would need two of them.
  if (target.record->grid_offset != region.grid.grid_offset()) return {};
  const auto whole = region.whole_pages();
  std::vector<AddressRange> ranges;
  for (const auto& mapping : mappings) {
    std::uintptr_t at = std::max(mapping.begin, whole.begin);
    const std::uintptr_t end = std::min(mapping.end, whole.end);
    for (const auto& kept : target.kept) {
      const std::uintptr_t begin = round_down(region.address() + kept.offset, tracker::page_bytes());
      const std::uintptr_t kept_end = round_up(region.address() + kept.offset + kept.bytes, tracker::page_bytes());
      if (kept_end <= at || begin >= end) continue;
      if (begin > at) ranges.push_back({at, begin});
      at = kept_end;
    }
    if (at < end) ranges.push_back({at, end});
  }
  return ranges;
}

std::vector<AddressRange> long_zero_runs(const FillTarget& target) {
  const ChunkGrid& grid = target.region->grid;
  std::vector<AddressRange> runs;
  for (const auto& run : target.record->runs) {
    if (run.kind != storage::RunKind::zero) continue;
    const auto pages = pages_within(*target.region, grid.extent(ChunkRange{run.first, run.count}));
    if (pages.end - pages.begin >= kLongZeroBytes) runs.push_back(pages);
  }
  if (runs.size() > kZeroRunsMax) {  // the longest ones
    std::ranges::sort(runs, std::greater<>(), [](const AddressRange& run) { return run.end - run.begin; });
    runs.resize(kZeroRunsMax);
    std::ranges::sort(runs, {}, &AddressRange::begin);
  }
  return runs;
}

std::vector<AddressRange> split_at(std::span<const AddressRange> ranges, std::span<const AddressRange> cuts) {
  std::vector<AddressRange> parts;
  std::size_t next = 0;
  for (const auto& range : ranges) {
    std::uintptr_t at = range.begin;
    while (next < cuts.size() && cuts[next].end <= at) ++next;
    for (std::size_t i = next; i < cuts.size() && cuts[i].begin < range.end; ++i)
      for (const std::uintptr_t end : {cuts[i].begin, cuts[i].end})
        if (end > at && end < range.end) {
          parts.push_back({at, end});
          at = end;
        }
    parts.push_back({at, range.end});
  }
  return parts;
}

RunLookup::RunLookup(const storage::RegionRecord& record) : record_(record) {
  first_names_.reserve(record.runs.size());
  std::size_t names = 0;
  for (const auto& run : record.runs) {
    first_names_.push_back(names);
    if (run.kind == storage::RunKind::named) names += run.count;
  }
  VARVE_CHECK(names == record.names.size());
}

RunLookup::Found RunLookup::find(std::uint64_t chunk) const {
  const auto after = std::ranges::upper_bound(record_.runs, chunk, {}, &storage::ChunkRun::first);
  if (after == record_.runs.begin()) return {{0, 0, storage::RunKind::zero}, 0};
  const auto index = static_cast<std::size_t>(after - record_.runs.begin()) - 1;
  const storage::ChunkRun& run = record_.runs[index];
  if (chunk >= run.first + run.count) return {{0, 0, storage::RunKind::zero}, 0};
  return {run, first_names_[index]};
}

}  // namespace varve
