// SPDX-License-Identifier: Apache-2.0
#include "engine/chunk_grid.h"

#include <algorithm>
#include <cstring>

namespace varve {

using storage::ByteRange;

std::uint64_t ChunkGrid::count() const {
  return (shape_.grid_offset + shape_.bytes + shape_.chunk_bytes - 1) / shape_.chunk_bytes;
}

ByteRange ChunkGrid::extent(std::uint64_t index) const { return extent(ChunkRange{index, 1}); }

ByteRange ChunkGrid::extent(const ChunkRange& chunks) const {
  const std::uint64_t begin = std::max(chunks.first * shape_.chunk_bytes, shape_.grid_offset) - shape_.grid_offset;
  const std::uint64_t end = std::min(chunks.end() * shape_.chunk_bytes - shape_.grid_offset, shape_.bytes);
  return {begin, end - begin};
}

ChunkRange ChunkGrid::touching(const ByteRange& range) const {
  const std::uint64_t first = index_of(range.offset);
  return {first, index_of(range.offset + range.bytes - 1) - first + 1};
}

std::vector<ChunkRange> ChunkGrid::inside(std::span<const ByteRange> ranges) const {
  std::vector<ByteRange> merged;  // records from disk may hold ranges that touch
  for (const auto& range : ranges)
    if (range.bytes != 0) insert_range(merged, range);
  std::vector<ChunkRange> whole;
  for (const auto& range : merged) {
    ChunkRange chunks = touching(range);
    const auto covered = [&](std::uint64_t index) {
      const ByteRange part = extent(index);
      return part.offset >= range.offset && part.offset + part.bytes <= range.offset + range.bytes;
    };
    if (chunks.count != 0 && !covered(chunks.first)) chunks = {chunks.first + 1, chunks.count - 1};
    if (chunks.count != 0 && !covered(chunks.end() - 1)) --chunks.count;
    if (chunks.count != 0) whole.push_back(chunks);
  }
  return whole;
}

void insert_range(std::vector<ByteRange>& ranges, ByteRange added) {
  auto first = std::find_if(ranges.begin(), ranges.end(),
                            [&](const ByteRange& range) { return range.offset + range.bytes >= added.offset; });
  auto last = first;
  while (last != ranges.end() && last->offset <= added.offset + added.bytes) {
    const std::uint64_t end = std::max(added.offset + added.bytes, last->offset + last->bytes);
    added.offset = std::min(added.offset, last->offset);
    added.bytes = end - added.offset;
    ++last;
  }
  ranges.insert(ranges.erase(first, last), added);
}

namespace {

/// The first range that ends behind `offset`.
std::span<const ByteRange>::iterator first_behind(std::span<const ByteRange> ranges, std::uint64_t offset) {
  return std::partition_point(ranges.begin(), ranges.end(),
                              [&](const ByteRange& range) { return range.offset + range.bytes <= offset; });
}

}  // namespace

bool overlaps(std::span<const ByteRange> ranges, const ByteRange& range) {
  const auto first = first_behind(ranges, range.offset);
  return first != ranges.end() && first->offset < range.offset + range.bytes;
}

void zero_ranges(std::span<const ByteRange> ranges, std::uint64_t at, std::span<std::byte> content) {
  const std::uint64_t stop = at + content.size();
  for (auto range = first_behind(ranges, at); range != ranges.end() && range->offset < stop; ++range) {
    const std::uint64_t begin = std::max(range->offset, at);
    const std::uint64_t end = std::min(range->offset + range->bytes, stop);
    std::memset(content.data() + (begin - at), 0, end - begin);
  }
}

void append_run(std::vector<ChunkRange>& runs, const ChunkRange& added) {
  if (!runs.empty() && added.first <= runs.back().end()) {
    ChunkRange& last = runs.back();
    last.count = std::max(last.end(), added.end()) - last.first;
    return;
  }
  runs.push_back(added);
}

std::vector<ChunkRange> subtract(std::span<const ChunkRange> runs, std::span<const ChunkRange> absent) {
  std::vector<ChunkRange> left;
  std::size_t next = 0;
  for (ChunkRange run : runs) {
    while (next < absent.size() && absent[next].end() <= run.first) ++next;
    for (std::size_t i = next; i < absent.size() && absent[i].first < run.end(); ++i) {
      if (absent[i].first > run.first) left.push_back({run.first, absent[i].first - run.first});
      const std::uint64_t end = run.end();
      run.first = std::min(absent[i].end(), end);
      run.count = end - run.first;
    }
    if (run.count != 0) left.push_back(run);
  }
  return left;
}

}  // namespace varve
