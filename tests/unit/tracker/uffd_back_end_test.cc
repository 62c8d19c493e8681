// SPDX-License-Identifier: Apache-2.0
#include "tracker/uffd_back_end.h"

#include <sys/mman.h>

#include <cstring>

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "tracker/scratch.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

// Both ways to scan, whichever this kernel needs.
class UffdBackEndTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto made = UffdBackEnd::create();
    if (!made.has_value()) GTEST_SKIP() << made.error().message();
    back_end_ = std::move(*made);
    const bool ask_for_holes = GetParam();
    if (ask_for_holes)
      back_end_->assume_scan_passes_over_holes();
    else if (back_end_->remark().find("holes") != std::string::npos)
      GTEST_SKIP() << "this kernel's scan passes over holes";
    auto scratch = Scratch::make(4 * kHugePageBytes);
    ASSERT_TRUE(scratch.has_value());
    scratch_.emplace(std::move(*scratch));
    begin_ = round_up(scratch_->range().begin, kHugePageBytes);
    ASSERT_TRUE(back_end_->add(all()).has_value());
  }
  void TearDown() override {
    if (scratch_.has_value()) back_end_->remove(all());
  }
  PageRange run(std::size_t first, std::size_t end) const {
    return {begin_ + first * page_bytes(), begin_ + end * page_bytes()};
  }
  PageRange all() const { return run(0, 3 * kHugePageBytes / page_bytes()); }
  std::uint8_t* at(std::size_t page) const { return reinterpret_cast<std::uint8_t*>(run(page, page).begin); }
  PageRuns list() {
    PageRuns runs;
    const auto seen = back_end_->list(all(), buffer_, runs);
    EXPECT_TRUE(seen.has_value() && *seen == Seen::done);
    return runs;
  }
  PageRuns list_and_protect() {
    PageRuns runs;
    const auto seen = back_end_->list_and_protect(all(), buffer_, runs);
    EXPECT_TRUE(seen.has_value() && *seen == Seen::done);
    return runs;
  }

  std::unique_ptr<UffdBackEnd> back_end_;
  std::optional<Scratch> scratch_;
  std::uintptr_t begin_ = 0;
  ScanBuffer buffer_;
};

TEST_P(UffdBackEndTest, HolesAreWrittenUntilTheyAreProtected) {
  *at(700) = 1;  // a page table for the second huge page only
  EXPECT_EQ(list(), PageRuns({all()}));
  EXPECT_EQ(list_and_protect(), PageRuns({all()}));
  EXPECT_EQ(list(), PageRuns());
  *at(3) = 1;
  *at(701) = 1;
  EXPECT_EQ(list(), PageRuns({run(3, 4), run(701, 702)}));
}

TEST_P(UffdBackEndTest, ProtectsOnlyWhatIsPresentWhereThatIsAskedFor) {
  *at(3) = 1;
  *at(700) = 1;
  PageRuns runs;
  const auto seen = back_end_->list_and_protect_present(all(), buffer_, runs);
  ASSERT_TRUE(seen.has_value() && *seen == Seen::done);
  EXPECT_EQ(runs, PageRuns({run(3, 4), run(700, 701)}));
  EXPECT_EQ(list(), PageRuns({run(0, 3), run(4, 700), run(701, 1536)}));
}

TEST_P(UffdBackEndTest, DroppedContentIsWritten) {
  madvise(at(0), kHugePageBytes, MADV_HUGEPAGE);
  std::memset(at(0), 1, all().size_bytes());
  EXPECT_EQ(list_and_protect(), PageRuns({all()}));
  EXPECT_EQ(list(), PageRuns());
  madvise(at(0), kHugePageBytes, MADV_DONTNEED);      // leaves no page table
  madvise(at(600), 3 * page_bytes(), MADV_DONTNEED);  // leaves one
  *at(650) = 2;
  const PageRuns expected = {run(0, 512), run(600, 603), run(650, 651)};
  EXPECT_EQ(list(), expected);
  EXPECT_EQ(list_and_protect(), expected);
  EXPECT_EQ(list(), PageRuns());
}

TEST_P(UffdBackEndTest, ManyRunsTakeSeveralCalls) {
  std::memset(at(0), 1, all().size_bytes());
  list_and_protect();
  PageRuns expected;
  for (std::size_t page = 0; page < 1536; page += 2) {
    *at(page) = 2;
    expected.push_back(run(page, page + 1));
  }
  buffer_.assign(10, {});  // regrown for ranges that are larger
  EXPECT_EQ(list(), expected);
  EXPECT_EQ(list_and_protect(), expected);
  EXPECT_EQ(list(), PageRuns());
}

INSTANTIATE_TEST_SUITE_P(Scans, UffdBackEndTest, testing::Bool(), [](const testing::TestParamInfo<bool>& with) {
  return std::string(with.param ? "asking_for_holes" : "plain");
});

}  // namespace
}  // namespace varve::tracker
