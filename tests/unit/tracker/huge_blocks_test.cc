// SPDX-License-Identifier: Apache-2.0
#include "tracker/huge_blocks.h"

#include <gtest/gtest.h>

namespace varve::tracker {
namespace {

constexpr std::uintptr_t kBase = std::uintptr_t{1} << 40;
constexpr std::size_t kBlock = HugeBlocks::kBlockBytes;

PageRange bytes(std::size_t first, std::size_t end) { return {kBase + first, kBase + end}; }
PageRange blocks(std::size_t first, std::size_t end) { return bytes(first * kBlock, end * kBlock); }

class HugeBlocksTest : public testing::Test {
 protected:
  // Eight blocks and two pages around them; blocks 1 to 5 are huge pages.
  void SetUp() override {
    huge_.remember({kBase - 4096, kBase + 8 * kBlock + 4096}, {blocks(1, 4), bytes(4 * kBlock, 6 * kBlock)});
    ASSERT_TRUE(huge_.any());
  }
  PageRuns look_at(const PageRuns& written, PageRuns cold = {}) {
    huge_.look_at(written, cold);
    return cold;
  }
  void look_for_long(const PageRuns& written) {
    for (int i = 0; i < 3; ++i) look_at(written);
  }
  PageRuns gather_all(bool done = true) {
    PageRuns all;
    for (PageRange block = huge_.next_to_gather(); block.size_bytes() != 0; block = huge_.next_to_gather()) {
      all.push_back(block);
      huge_.gathered(block, done);
    }
    return all;
  }
  HugeBlocks huge_;
};

TEST_F(HugeBlocksTest, OnlyWhatLayInHugePagesIsGathered) {
  look_for_long({blocks(0, 8)});
  EXPECT_EQ(gather_all(), (PageRuns{blocks(1, 2), blocks(2, 3), blocks(3, 4), blocks(4, 5), blocks(5, 6)}));
  EXPECT_EQ(gather_all(), PageRuns()) << "once is enough";
}

TEST_F(HugeBlocksTest, ABurstIsNotGathered) {
  look_at({blocks(0, 8)});
  look_at({blocks(0, 8)});
  EXPECT_EQ(gather_all(), PageRuns());
  look_at({blocks(0, 3)});
  look_at({blocks(0, 8)});
  EXPECT_EQ(gather_all(), (PageRuns{blocks(1, 2), blocks(2, 3)}));
}

TEST_F(HugeBlocksTest, ABlockWithAProtectedPageIsNot) {
  look_for_long({bytes(kBlock, 2 * kBlock - 4096), blocks(2, 3)});
  EXPECT_EQ(gather_all(), PageRuns{blocks(2, 3)});
}

TEST_F(HugeBlocksTest, WhatIsSplitAgainIsGatheredAgain) {
  look_for_long({blocks(2, 3)});
  EXPECT_EQ(gather_all(), PageRuns{blocks(2, 3)});
  look_at({bytes(2 * kBlock, 3 * kBlock - 4096)});
  look_for_long({blocks(2, 3)});
  EXPECT_EQ(gather_all(), PageRuns{blocks(2, 3)});
}

TEST_F(HugeBlocksTest, WhatCanNotBeGatheredIsLeftAlone) {
  look_for_long({blocks(1, 6)});
  EXPECT_EQ(gather_all(false).size(), 5U);
  look_for_long({blocks(1, 6)});
  EXPECT_EQ(gather_all(), PageRuns());
  EXPECT_FALSE(huge_.any());
}

TEST_F(HugeBlocksTest, FewColdPagesOfABlockStayWritable) {
  const PageRange few = bytes(2 * kBlock + 8192, 2 * kBlock + kBlock / 4 + 4096);
  EXPECT_EQ(look_at({blocks(0, 8)}, {few}), PageRuns());
  const PageRange many = bytes(2 * kBlock + 8192, 2 * kBlock + kBlock / 4 + 8192);
  EXPECT_EQ(look_at({blocks(0, 8)}, {many}), PageRuns{many});
  EXPECT_EQ(look_at({bytes(2 * kBlock + 4096, 3 * kBlock)}, {few}), PageRuns{few}) << "it is split anyway";
}

TEST_F(HugeBlocksTest, ColdRangesAreCutWhereABlockIsSpared) {
  // From the middle of block 0, which was never huge, to a page within block 3.
  const PageRuns cold = {bytes(kBlock / 2, kBlock + 4096), bytes(3 * kBlock - 8192, 3 * kBlock + 4096)};
  EXPECT_EQ(look_at({blocks(0, 8)}, cold), PageRuns{bytes(kBlock / 2, kBlock)});
}

TEST(HugeBlocks, KnowsNothingOfSmallRanges) {
  HugeBlocks huge;
  huge.remember({kBase + 4096, kBase + 8192}, {blocks(0, 1)});
  EXPECT_FALSE(huge.any());
  EXPECT_EQ(huge.next_to_gather().size_bytes(), 0U);
}

}  // namespace
}  // namespace varve::tracker
