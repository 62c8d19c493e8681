// SPDX-License-Identifier: Apache-2.0
#include "engine/chunk_grid.h"

#include <vector>

#include <gtest/gtest.h>

namespace varve {
namespace {

using storage::ByteRange;
using Runs = std::vector<ChunkRange>;
using Ranges = std::vector<ByteRange>;

TEST(ChunkGrid, an_aligned_region_has_whole_chunks) {
  const ChunkGrid grid(GridShape{.grid_offset = 0, .bytes = 3 * 4096, .chunk_bytes = 4096});
  EXPECT_EQ(grid.count(), 3U);
  EXPECT_EQ(grid.extent(1), (ByteRange{4096, 4096}));
  EXPECT_EQ(grid.index_of(4095), 0U);
  EXPECT_EQ(grid.index_of(4096), 1U);
}

TEST(ChunkGrid, the_first_and_last_chunk_of_an_unaligned_region_are_short) {
  const ChunkGrid grid(GridShape{.grid_offset = 16, .bytes = 2 * 4096, .chunk_bytes = 4096});
  EXPECT_EQ(grid.count(), 3U);
  EXPECT_EQ(grid.extent(0), (ByteRange{0, 4080}));
  EXPECT_EQ(grid.extent(1), (ByteRange{4080, 4096}));
  EXPECT_EQ(grid.extent(2), (ByteRange{8176, 16}));
  EXPECT_EQ(grid.extent(ChunkRange{0, 3}), (ByteRange{0, 8192}));
  EXPECT_EQ(grid.touching({4079, 2}), (ChunkRange{0, 2}));
}

TEST(ChunkGrid, agrees_with_the_storage_layer_about_extents) {
  for (const std::uint32_t chunk : {4096U, 16384U, 65536U})
    for (const std::uint64_t offset : {0U, 1U, 16U, 4095U})
      for (const std::uint64_t bytes : {1U, 100U, 4080U, 4096U, 4097U, 65536U, 200'000U}) {
        storage::RegionRecord record;
        record.bytes = bytes;
        record.grid_offset = static_cast<std::uint32_t>(offset);
        const ChunkGrid grid(record, chunk);
        ASSERT_EQ(grid.count(), storage::chunk_count(record, chunk));
        for (std::uint64_t i = 0; i < grid.count(); ++i)
          EXPECT_EQ(grid.extent(i), storage::chunk_extent(record, chunk, i));
      }
}

TEST(ChunkGrid, finds_the_chunks_that_lie_inside_of_ranges) {
  const ChunkGrid grid(GridShape{.grid_offset = 16, .bytes = 5 * 4096, .chunk_bytes = 4096});
  EXPECT_EQ(grid.inside(Ranges{{0, 4080}}), (Runs{{0, 1}}));
  EXPECT_EQ(grid.inside(Ranges{{1, 4079}}), Runs{});
  EXPECT_EQ(grid.inside(Ranges{{1, 4079 + 4096}}), (Runs{{1, 1}}));
  EXPECT_EQ(grid.inside(Ranges{{0, 5 * 4096}}), (Runs{{0, 6}}));
  EXPECT_EQ(grid.inside(Ranges{{5 * 4096 - 16, 16}}), (Runs{{5, 1}})) << "the short one at the end";
  EXPECT_EQ(grid.inside(Ranges{{4080, 2000}, {6080, 2096}}), (Runs{{1, 1}})) << "ranges that touch count as one";
}

TEST(ByteRanges, are_merged_when_they_touch_or_overlap) {
  Ranges ranges;
  insert_range(ranges, {10, 10});
  insert_range(ranges, {40, 10});
  EXPECT_EQ(ranges, (Ranges{{10, 10}, {40, 10}}));
  insert_range(ranges, {20, 5});
  EXPECT_EQ(ranges, (Ranges{{10, 15}, {40, 10}}));
  insert_range(ranges, {0, 100});
  EXPECT_EQ(ranges, (Ranges{{0, 100}}));
  insert_range(ranges, {5, 5});
  EXPECT_EQ(ranges, (Ranges{{0, 100}}));
}

TEST(ByteRanges, overlap_and_zero_exactly_what_they_cover) {
  const Ranges ranges = {{10, 10}, {40, 10}};
  EXPECT_FALSE(overlaps(ranges, {0, 10}));
  EXPECT_TRUE(overlaps(ranges, {0, 11}));
  EXPECT_FALSE(overlaps(ranges, {20, 20}));
  EXPECT_TRUE(overlaps(ranges, {49, 100}));
  EXPECT_FALSE(overlaps(ranges, {50, 100}));
  std::vector<std::byte> content(30, std::byte{1});
  zero_ranges(ranges, 15, content);  // bytes 15 to 45 of the region
  for (std::size_t i = 0; i < content.size(); ++i)
    EXPECT_EQ(content[i], (i < 5 || i >= 25) ? std::byte{0} : std::byte{1}) << i;
}

TEST(ChunkRuns, are_merged_and_subtracted) {
  Runs runs;
  append_run(runs, {0, 2});
  append_run(runs, {2, 1});
  append_run(runs, {5, 3});
  append_run(runs, {6, 1});
  append_run(runs, {7, 4});
  EXPECT_EQ(runs, (Runs{{0, 3}, {5, 6}}));
  EXPECT_EQ(subtract(runs, Runs{}), runs);
  EXPECT_EQ(subtract(runs, Runs{{1, 1}, {4, 2}, {8, 1}, {20, 5}}), (Runs{{0, 1}, {2, 1}, {6, 2}, {9, 2}}));
  EXPECT_EQ(subtract(runs, Runs{{0, 100}}), Runs{});
}

}  // namespace
}  // namespace varve
