// SPDX-License-Identifier: Apache-2.0
#include "engine/image_diff.h"

#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "engine/chunk_grid.h"
#include "tests/support/random.h"
#include "tests/support/simulated_io.h"
#include "tests/support/store_shadow.h"

namespace varve {
namespace {

using storage::ByteRange;
using storage::RegionRecord;
using storage::RunKind;
using test::ShadowMemory;
using test::ShadowRegion;

constexpr std::uint32_t kChunk = 4096;

/// What the bytes themselves say, chunk by chunk.
std::vector<ByteRange> differing_ranges(const ShadowRegion& a, const ShadowRegion& b) {
  const ChunkGrid grid({a.grid_offset, std::min(a.content.size(), b.content.size()), kChunk});
  std::vector<ByteRange> ranges;
  for (std::uint64_t i = 0; i < grid.count(); ++i) {
    const ByteRange extent = grid.extent(i);
    const ByteRange other = ChunkGrid({b.grid_offset, std::max(a.content.size(), b.content.size()), kChunk}).extent(i);
    const bool same =
        std::memcmp(a.content.data() + extent.offset, b.content.data() + extent.offset, extent.bytes) == 0;
    // Where the chunk is longer in one, it has another name (the test has no zeros there).
    if (!same || extent.bytes != other.bytes) insert_range(ranges, extent);
  }
  return ranges;
}

RegionDifference expected_difference(const ShadowRegion* a, const ShadowRegion* b) {
  if (a == nullptr) return RegionDifference::only_in_b;
  if (b == nullptr) return RegionDifference::only_in_a;
  if (a->grid_offset != b->grid_offset) return RegionDifference::alignment;
  if (a->content.size() != b->content.size()) return RegionDifference::size;
  return a->content == b->content ? RegionDifference::none : RegionDifference::content;
}

const ShadowRegion* find(const ShadowMemory& memory, const std::string& name) {
  const auto at = memory.find(name);
  return at == memory.end() ? nullptr : &at->second;
}

void expect_true_to_bytes(const ImageDiff& diff, const ShadowMemory& a, const ShadowMemory& b) {
  std::map<std::string, int> names;
  for (const auto& entry : a) ++names[entry.first];
  for (const auto& entry : b) ++names[entry.first];
  ASSERT_EQ(diff.regions.size(), names.size());
  EXPECT_EQ(diff.identical, a == b);
  for (const RegionDiff& region : diff.regions) {
    const ShadowRegion* const in_a = find(a, region.name);
    const ShadowRegion* const in_b = find(b, region.name);
    EXPECT_EQ(region.difference, expected_difference(in_a, in_b)) << region.name;
    EXPECT_EQ(region.a.has_value(), in_a != nullptr);
    EXPECT_EQ(region.b.has_value(), in_b != nullptr);
    std::uint64_t bytes = 0;
    for (const ByteRange& range : region.ranges) bytes += range.bytes;
    EXPECT_EQ(region.differing_bytes, bytes);
    if (in_a == nullptr || in_b == nullptr || in_a->grid_offset != in_b->grid_offset)
      EXPECT_TRUE(region.ranges.empty());
    else
      EXPECT_EQ(region.ranges, differing_ranges(*in_a, *in_b)) << region.name;
  }
}

/// Some bytes anywhere: new ones, the same again, or zeros (whole pages of them, so that chunks become zero).
void change(ShadowRegion& region, test::Random& random) {
  const std::size_t at = random.below(region.content.size());
  const std::size_t bytes = std::min<std::size_t>(1 + random.below(3 * kChunk), region.content.size() - at);
  const auto what = random.below(3);
  if (what == 0)
    std::ranges::copy(test::random_bytes(bytes, random.next()),
                      region.content.begin() + static_cast<std::ptrdiff_t>(at));
  else if (what == 1 && at + bytes + kChunk < region.content.size())
    std::memset(region.content.data() + at, 0, bytes);
}

class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed) {
    auto opened = storage::Store::open(disk_.open(), {});
    EXPECT_TRUE(opened.has_value());
    store_ = std::move(*opened);
  }

  void write_chain(const std::string& chain, int images) {
    auto writer = store_->open_chain(chain);
    ASSERT_TRUE(writer.has_value()) << writer.error().message();
    ShadowMemory memory;
    for (const char* name : {"grid", "odd", "step"}) add_region(memory, name);
    std::uint64_t parent = 0;
    for (int i = 0; i < images; ++i) {
      const ShadowMemory before = memory;
      for (auto& [name, region] : memory)
        for (auto left = random_.below(3); left != 0; --left) change(region, random_);
      if (i != 0) change_shapes(memory);
      const std::uint64_t number = (*writer)->next_number();
      const bool full = parent == 0 || random_.one_in(4);
      auto done = test::checkpoint(*store_, **writer, chain, number, memory, full ? nullptr : &before, parent);
      ASSERT_TRUE(done.has_value()) << done.error().message();
      parent = number;
      images_.push_back({{chain, number}, memory});
    }
    ASSERT_TRUE((*writer)->close().has_value());
  }

  void compare_all() {
    for (const auto& a : images_)
      for (const auto& b : images_) {
        SCOPED_TRACE(to_string(a.first) + " and " + to_string(b.first));
        const auto resolved_a = resolve_image(*store_, a.first.chain, a.first.number);
        const auto resolved_b = resolve_image(*store_, b.first.chain, b.first.number);
        ASSERT_TRUE(resolved_a.has_value() && resolved_b.has_value());
        expect_true_to_bytes(diff_images(*resolved_a, *resolved_b), a.second, b.second);
      }
  }

 private:
  void add_region(ShadowMemory& memory, const std::string& name) {
    // The same in every chain at first, so that chains have something in common.
    memory[name] = {test::random_bytes(5 * kChunk + 1000, name.size()), name == "odd" ? 100u : 0u, 8};
  }
  void change_shapes(ShadowMemory& memory) {
    if (random_.one_in(4)) memory.erase("step");
    if (random_.one_in(4)) add_region(memory, "step");
    if (random_.one_in(5)) add_region(memory, "late");
    if (random_.one_in(6)) memory["grid"].grid_offset = static_cast<std::uint32_t>(random_.below(2) * 16);
    if (random_.one_in(6)) {
      auto& content = memory["odd"].content;
      const auto more = test::random_bytes(1 + random_.below(2 * kChunk), random_.next());
      content.insert(content.end(), more.begin(), more.end());
    }
  }

  test::Random random_;
  test::SimulatedDisk disk_;
  std::unique_ptr<storage::Store> store_;
  std::vector<std::pair<ImageName, ShadowMemory>> images_;
};

TEST(ImageDiffTest, says_of_any_two_images_what_their_bytes_say) {
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    history.write_chain("main", 7);
    history.write_chain("other", 3);
    history.compare_all();
    if (HasFailure()) return;
  }
}

ResolvedImage image_of(RegionRecord record) {
  ResolvedImage image;
  image.manifest.chunk_bytes = kChunk;
  image.manifest.regions = {std::move(record)};
  return image;
}

RegionRecord record_of(std::vector<storage::ChunkRun> runs, std::vector<storage::ChunkName> names) {
  RegionRecord record;
  record.name = "grid";
  record.bytes = 4 * kChunk;
  record.complete = true;
  record.runs = std::move(runs);
  record.names = std::move(names);
  return record;
}

TEST(ImageDiffTest, excluded_chunks_read_as_zeros_and_other_exclusions_are_a_difference) {
  const RegionRecord whole = record_of({{0, 3, RunKind::named}, {3, 1, RunKind::zero}}, {{5, 9}, {6, 9}, {7, 9}});
  RegionRecord partly = record_of({{0, 2, RunKind::named}}, {{5, 9}, {6, 9}});
  partly.excluded = {{2 * kChunk, 2 * kChunk}};
  const ImageDiff diff = diff_images(image_of(whole), image_of(partly));
  ASSERT_EQ(diff.regions.size(), 1u);
  EXPECT_TRUE(diff.regions[0].other_exclusions);
  EXPECT_EQ(diff.regions[0].ranges, (std::vector<ByteRange>{{2 * kChunk, kChunk}}));
  EXPECT_FALSE(diff.identical);
  EXPECT_TRUE(diff_images(image_of(partly), image_of(partly)).identical);
}

TEST(ImageDiffTest, blobs_are_compared_too) {
  ResolvedImage a = image_of(record_of({{0, 4, RunKind::zero}}, {}));
  ResolvedImage b = a;
  a.manifest.blobs = {{"same", {std::byte{1}}}, {"value", {std::byte{1}}}, {"left", {}}};
  b.manifest.blobs = {{"same", {std::byte{1}}}, {"value", {std::byte{2}}}, {"right", {}}};
  const ImageDiff diff = diff_images(a, b);
  EXPECT_EQ(diff.blobs, (std::vector<std::string>{"left", "right", "value"}));
  EXPECT_FALSE(diff.identical);
  EXPECT_EQ(diff.regions[0].difference, RegionDifference::none);
}

}  // namespace
}  // namespace varve
