// SPDX-License-Identifier: Apache-2.0
#include "engine/name_table.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

using storage::ChunkName;
using storage::ChunkRun;
using storage::RegionRecord;
using storage::RunKind;

RegionRecord record_of(std::vector<ChunkRun> runs, std::vector<ChunkName> names) {
  RegionRecord record;
  record.runs = std::move(runs);
  record.names = std::move(names);
  return record;
}

TEST(NameTable, takes_over_what_a_record_says_and_leaves_the_rest) {
  NameTable table(5);
  EXPECT_FALSE(table.known(0));
  table.overwrite(record_of({{0, 2, RunKind::named}, {3, 1, RunKind::zero}}, {{7, 7}, {8, 8}}));
  EXPECT_TRUE(table.is(0, {7, 7}));
  EXPECT_TRUE(table.is(1, {8, 8}));
  EXPECT_FALSE(table.known(2));
  EXPECT_TRUE(table.zero(3));
  table.overwrite(record_of({{1, 1, RunKind::zero}}, {}));
  EXPECT_TRUE(table.zero(1));
  EXPECT_TRUE(table.is(0, {7, 7}));
}

TEST(NameTable, fills_only_what_is_unknown) {
  NameTable table(3);
  table.set(0, {7, 7});
  table.fill_unknown(record_of({{0, 2, RunKind::named}}, {{1, 2}, {3, 4}}));
  EXPECT_TRUE(table.is(0, {7, 7}));
  EXPECT_TRUE(table.is(1, {3, 4}));
  EXPECT_FALSE(table.known(2));
}

TEST(NameTable, takes_no_reserved_name_from_disk) {
  NameTable table(2);
  table.overwrite(record_of({{0, 2, RunKind::named}}, {{0, 0}, {1, 0}}));
  EXPECT_FALSE(table.known(0));
  EXPECT_FALSE(table.known(1));
}

TEST(NameTable, writes_runs_of_what_it_knows_with_newer_records_on_top) {
  NameTable table(6);
  table.overwrite(record_of({{0, 3, RunKind::named}, {3, 1, RunKind::zero}}, {{7, 7}, {8, 8}, {9, 9}}));
  const auto newer = record_of({{1, 1, RunKind::zero}, {4, 1, RunKind::named}}, {{5, 5}});
  RegionRecord record;
  std::uint64_t unknown = 0;
  EXPECT_FALSE(table.write_to(record, {}, &newer, unknown));
  EXPECT_EQ(unknown, 5U);
  const std::vector<ChunkRange> absent = {{5, 1}};
  EXPECT_FALSE(table.complete(absent)) << "chunk 4 is in the newer record only";
  EXPECT_TRUE(table.complete(std::vector<ChunkRange>{{4, 2}}));
  ASSERT_TRUE(table.write_to(record, absent, &newer, unknown));
  EXPECT_EQ(record.runs, (std::vector<ChunkRun>{{0, 1, RunKind::named},
                                                {1, 1, RunKind::zero},
                                                {2, 1, RunKind::named},
                                                {3, 1, RunKind::zero},
                                                {4, 1, RunKind::named}}));
  EXPECT_EQ(record.names, (std::vector<ChunkName>{{7, 7}, {9, 9}, {5, 5}}));
}

}  // namespace
}  // namespace varve
