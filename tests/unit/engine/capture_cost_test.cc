// SPDX-License-Identifier: Apache-2.0
#include "engine/capture_cost.h"

#include <gtest/gtest.h>

#include "engine/capture_extent.h"
#include "tests/unit/engine/capture_test_support.h"

namespace varve {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiBPages = 262'144;

CaptureCosts cheap_faults() {
  return {.copy_bytes_per_ns = 8,
          .consumer_bytes_per_ns = 1,
          .fork_fixed_ns = 100'000,
          .fork_page_ns = 25,
          .fault_ns = 800};
}
CaptureCosts dear_faults() {
  return {.copy_bytes_per_ns = 8,
          .consumer_bytes_per_ns = 1,
          .fork_fixed_ns = 400'000,
          .fork_page_ns = 120,
          .fault_ns = 19'000};
}

CutSize cut(std::uint64_t bytes, std::uint64_t room) {
  return {.forkable_bytes = bytes, .other_bytes = 0, .room_bytes = room};
}

TEST(CaptureCost, copies_what_fits) {
  for (const auto& costs : {cheap_faults(), dear_faults()}) {
    const CaptureCostModel model(costs);
    EXPECT_FALSE(model.choose(cut(10 * kMiB, 100 * kMiB), kGiBPages).fork);
    EXPECT_FALSE(model.fork_may_win(cut(10 * kMiB, 100 * kMiB)));
  }
}

TEST(CaptureCost, forks_what_does_not_fit_unless_faults_cost_more_than_waiting) {
  const CutSize large = cut(1024 * kMiB, 64 * kMiB);
  const auto choice = CaptureCostModel(cheap_faults()).choose(large, kGiBPages);
  EXPECT_TRUE(choice.fork) << choice.why;
  EXPECT_NE(choice.why.find("page faults"), std::string::npos) << choice.why;
  const auto other = CaptureCostModel(dear_faults()).choose(large, kGiBPages);
  EXPECT_FALSE(other.fork) << other.why;
  EXPECT_NE(other.why.find("waiting"), std::string::npos) << other.why;
}

TEST(CaptureCost, forks_rather_than_waits_until_staging_has_grown) {
  const CaptureCostModel model(cheap_faults());
  CutSize fits = cut(1024 * kMiB, 2048 * kMiB);
  EXPECT_FALSE(model.choose(fits, kGiBPages).fork);
  fits.growing_ns = 300'000'000;
  EXPECT_TRUE(model.fork_may_win(fits));
  const auto choice = model.choose(fits, kGiBPages);
  EXPECT_TRUE(choice.fork) << choice.why;
  EXPECT_NE(choice.why.find("300 ms until staging has grown"), std::string::npos) << choice.why;
  EXPECT_FALSE(CaptureCostModel(dear_faults()).choose(fits, kGiBPages).fork);
}

TEST(CaptureCost, counts_the_memory_of_the_whole_process) {
  const CaptureCostModel model(cheap_faults());
  const CutSize large = cut(1024 * kMiB, 64 * kMiB);
  EXPECT_TRUE(model.choose(large, kGiBPages).fork);
  EXPECT_FALSE(model.choose(large, 200 * kGiBPages).fork);
}

TEST(CaptureCost, never_forks_for_memory_that_fork_does_not_hold) {
  const CaptureCostModel model(cheap_faults());
  const CutSize shared{.forkable_bytes = 0, .other_bytes = 1024 * kMiB, .room_bytes = 0};
  EXPECT_FALSE(model.fork_may_win(shared));
  EXPECT_FALSE(model.choose(shared, 1).fork);
}

TEST(CaptureCost, follows_what_is_measured) {
  CaptureCostModel model(cheap_faults());
  for (int i = 0; i < 40; ++i) model.copied(10 * kMiB, 5'242'880);  // 2 bytes per ns
  EXPECT_NEAR(model.costs().copy_bytes_per_ns, 2, 0.01);
  for (int i = 0; i < 40; ++i) model.consumed(10 * kMiB, 104'857'600);
  EXPECT_NEAR(model.costs().consumer_bytes_per_ns, 0.1, 0.001);
  model.faulted(10, 20'000);
  EXPECT_NEAR(model.costs().fault_ns, 2'000, 1);
  model.copied(100, 1);  // too little to tell anything
  model.copied(kMiB, 0);
  EXPECT_NEAR(model.costs().copy_bytes_per_ns, 2, 0.01);
  for (int i = 0; i < 40; ++i) model.forked(kGiBPages, 26'314'400 + 100'000);
  EXPECT_NEAR(model.costs().fork_page_ns, 100, 1);
  for (int i = 0; i < 40; ++i) model.forked(1'000, 600'000);
  EXPECT_NEAR(model.costs().fork_fixed_ns, 500'000, 5'000);
}

TEST(CaptureCost, knows_the_memory_of_this_process) {
  const std::uint64_t before = resident_pages();
  EXPECT_GT(before, 100U);
  const capture_test::Mapped memory(32 * kMiB);
  capture_test::fill(memory.get(), memory.bytes(), 1);
  EXPECT_GE(resident_pages() + 2'000, before + 32 * kMiB / 4096);
}

// -- How pieces are cut -----------------------------------------------------------------------------------------------

class Placing : public testing::Test {
 protected:
  Placing() : memory_(kExtentBytes) { extent_.memory = memory_.get(); }
  static MemorySpan span(std::uintptr_t begin, std::size_t bytes) {
    return {3, reinterpret_cast<const std::byte*>(begin), bytes, begin & ~std::uintptr_t{4095}, true};
  }
  capture_test::Mapped memory_;
  Extent extent_;
};

TEST_F(Placing, takes_hundreds_of_scattered_pages_in_one_extent) {
  std::uint32_t pages = 0;
  while (place(extent_, span(0x10000000 + pages * 0x10000U, 4096), 0, 4096).bytes == 4096) ++pages;
  EXPECT_GE(pages, 508U);
  EXPECT_EQ(extent_.pieces, pages);
  EXPECT_EQ(extent_.record(pages - 1)->begin, 0x10000000U + (pages - 1) * 0x10000U);
  EXPECT_EQ(extent_.record(pages - 1)->region, 3U);
  EXPECT_LE(extent_.used, kExtentBytes - pages * sizeof(PieceRecord));
}

TEST_F(Placing, cuts_long_runs_at_chunk_boundaries_only) {
  for (const std::size_t chunk : {std::size_t{4096}, std::size_t{65536}}) {
    const MemorySpan run = span(0x10000010, 64 * kMiB);
    for (std::size_t done = 0; done < run.bytes;) {
      extent_.used = extent_.pieces = 0;
      const Placed placed = place(extent_, run, done, chunk);
      ASSERT_GT(placed.bytes, 0U);
      done += placed.bytes;
      EXPECT_TRUE(done == run.bytes || (0x10000010 + done - run.grid) % chunk == 0);
    }
  }
}

TEST_F(Placing, keeps_the_offset_within_a_page) {
  const Placed small = place(extent_, span(0x10000123, 100), 0, 4096);
  EXPECT_EQ(small.to, extent_.memory);
  const Placed large = place(extent_, span(0x20000456, 10'000), 0, 4096);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large.to) % 4096, 0x456U);
  EXPECT_EQ(large.bytes, 10'000U);
}

}  // namespace
}  // namespace varve
