// SPDX-License-Identifier: Apache-2.0
//
// ChunkGrid: where the chunks of a region lie. The grid starts at the page boundary at or below the region's first
// byte, so that a dirty page lies in one chunk; the first and the last chunk may be short.
//
//     pages      |       |       |       |       |
//     region         [======================)          grid_offset = bytes before the region in its first page
//     chunks     |...0===|===1===|===2===|==)          a chunk may be several pages long
//
// Values, pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/name_table.h"
#include "storage/manifest.h"

namespace varve {

struct GridShape {
  std::uint64_t grid_offset = 0;  ///< below the page size
  std::uint64_t bytes = 0;        ///< of the region, not 0
  std::uint32_t chunk_bytes = 0;  ///< a power of two
};

class ChunkGrid {
 public:
  explicit ChunkGrid(const GridShape& shape) : shape_(shape) {}
  ChunkGrid(const storage::RegionRecord& record, std::uint32_t chunk_bytes)
      : shape_{record.grid_offset, record.bytes, chunk_bytes} {}

  std::uint64_t grid_offset() const { return shape_.grid_offset; }
  std::uint64_t bytes() const { return shape_.bytes; }
  std::uint32_t chunk_bytes() const { return shape_.chunk_bytes; }
  std::uint64_t count() const;
  /// The bytes of the region that a chunk covers.
  storage::ByteRange extent(std::uint64_t index) const;
  /// The bytes of the region that these chunks cover.
  storage::ByteRange extent(const ChunkRange& chunks) const;
  /// The chunk that holds the region's byte `offset`.
  std::uint64_t index_of(std::uint64_t offset) const { return (offset + shape_.grid_offset) / shape_.chunk_bytes; }
  /// The chunks that hold any of these bytes. REQUIRES: not empty, within the region.
  ChunkRange touching(const storage::ByteRange& range) const;
  /// The chunks all of whose bytes lie in the ranges (ascending, disjoint).
  std::vector<ChunkRange> inside(std::span<const storage::ByteRange> ranges) const;

 private:
  GridShape shape_;
};

/// Adds a range to ascending, disjoint, not touching ones.
void insert_range(std::vector<storage::ByteRange>& ranges, storage::ByteRange added);

/// Whether any of [range) is in the ascending, disjoint ranges.
bool overlaps(std::span<const storage::ByteRange> ranges, const storage::ByteRange& range);

/// Sets to zero what of `content`, which lies at `at` in the region, the ranges cover.
void zero_ranges(std::span<const storage::ByteRange> ranges, std::uint64_t at, std::span<std::byte> content);

/// Appends to ascending, disjoint runs, merging with the last one where they touch or overlap. REQUIRES: added.first is
/// not below the last run's.
void append_run(std::vector<ChunkRange>& runs, const ChunkRange& added);

/// `runs` without what `absent` covers; both ascending and disjoint.
std::vector<ChunkRange> subtract(std::span<const ChunkRange> runs, std::span<const ChunkRange> absent);

}  // namespace varve
