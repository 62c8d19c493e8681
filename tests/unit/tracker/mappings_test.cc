// SPDX-License-Identifier: Apache-2.0
#include "tracker/mappings.h"

#include <sys/mman.h>

#include <gtest/gtest.h>

#include "tracker/scratch.h"
#include "tracker/tracker.h"

namespace varve::tracker {
namespace {

TEST(Mappings, AreCutToTheRangeAndTellTheirProtection) {
  auto scratch = Scratch::make(9 * page_bytes());
  ASSERT_TRUE(scratch.has_value());
  const std::uintptr_t begin = scratch->range().begin;
  const auto page = [begin](std::size_t number) { return begin + number * page_bytes(); };
  ASSERT_EQ(mprotect(reinterpret_cast<void*>(page(3)), 3 * page_bytes(), PROT_READ), 0);
  std::vector<Mapping> mappings;
  ASSERT_TRUE(read_mappings({page(1), page(8)}, mappings).has_value());
  ASSERT_EQ(mappings.size(), 3U);
  EXPECT_EQ(mappings[0].range, (PageRange{page(1), page(3)}));
  EXPECT_EQ(mappings[1].range, (PageRange{page(3), page(6)}));
  EXPECT_EQ(mappings[2].range, (PageRange{page(6), page(8)}));
  EXPECT_EQ(mappings[0].protection, PROT_READ | PROT_WRITE);
  EXPECT_EQ(mappings[1].protection, PROT_READ);
  EXPECT_FALSE(mappings[0].shared);
  EXPECT_TRUE(mappings[0].same_object(mappings[1]));
}

TEST(Mappings, TheStackIsKnown) {
  const int local = 0;
  const auto address = reinterpret_cast<std::uintptr_t>(&local) / page_bytes() * page_bytes();
  std::vector<Mapping> mappings;
  ASSERT_TRUE(read_mappings({address, address + page_bytes()}, mappings).has_value());
  ASSERT_EQ(mappings.size(), 1U);
  EXPECT_LT(mappings[0].whole.begin, mappings[0].whole.end);
}

TEST(Mappings, HolesAreFound) {
  auto scratch = Scratch::make(4 * page_bytes());
  ASSERT_TRUE(scratch.has_value());
  EXPECT_TRUE(check_mapped(scratch->range()).has_value());
  munmap(reinterpret_cast<void*>(scratch->range().begin + page_bytes()), page_bytes());
  const Status hole = check_mapped(scratch->range());
  ASSERT_FALSE(hole.has_value());
  EXPECT_EQ(hole.error().code(), ErrorCode::invalid_argument);
}

TEST(Mappings, CountAndLimitArePlausible) {
  const auto count = count_mappings();
  ASSERT_TRUE(count.has_value());
  EXPECT_GT(*count, 10U);
  EXPECT_GE(mapping_limit(), *count);
}

TEST(BackEndNames, AreParsedBack) {
  for (const auto kind : {BackEndKind::uffd, BackEndKind::soft_dirty, BackEndKind::mprotect, BackEndKind::hash})
    EXPECT_EQ(parse_back_end(to_string(kind)), kind);
  EXPECT_FALSE(parse_back_end("softdirty").has_value());
  EXPECT_FALSE(parse_back_end("").has_value());
}

}  // namespace
}  // namespace varve::tracker
