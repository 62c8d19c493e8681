// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_index.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/support/random.h"

namespace varve::storage {
namespace {

ChunkPlace place(std::uint32_t segment, std::uint64_t frame, std::uint32_t slot = 0) {
  return {segment, frame * 64, slot};
}

ChunkName name(test::Random& random) { return {random.next(), random.next()}; }

TEST(ChunkIndex, FindsWhatWasInserted) {
  ChunkIndex index;
  EXPECT_FALSE(index.find({1, 2}).has_value());
  const ChunkPlace far{kMaxSegments, kMaxSegmentBytes - 64, 255};
  index.insert({1, 2}, far);
  index.insert({3, 4}, place(1, 2, 3));
  EXPECT_EQ(index.find({1, 2}), far);
  EXPECT_EQ(index.find({3, 4}), place(1, 2, 3));
  EXPECT_FALSE(index.find({1, 4}).has_value());
}

TEST(ChunkIndex, APlaceThatNeedsNoOtherChunkHasRoom) {
  ChunkIndex index;
  const auto difference = [](std::uint32_t segment) { return ChunkPlace{segment, 64, 5, true}; };
  std::uint32_t kept = 0;
  while (index.insert({1, 2}, difference(kept + 1))) ++kept;
  ASSERT_GT(kept, 1U);
  EXPECT_EQ(index.find({1, 2}), difference(1));
  const auto plain = [](const ChunkPlace& at) { return !at.difference; };
  EXPECT_FALSE(index.find({1, 2}, plain).has_value());
  EXPECT_FALSE(index.insert({1, 2}, place(99, 1))) << "one gave way: there are more than are kept";
  EXPECT_EQ(index.find({1, 2}, plain), place(99, 1));
  EXPECT_EQ(index.size(), kept);
  EXPECT_FALSE(index.insert({1, 2}, difference(50)));
  EXPECT_EQ(index.size(), kept);
}

TEST(ChunkIndex, HoldsSeveralPlacesOfAName) {
  ChunkIndex index;
  index.insert({1, 2}, place(1, 1));
  index.insert({1, 2}, place(2, 1));
  const auto in_second = [](const ChunkPlace& at) { return at.segment == 2; };
  EXPECT_EQ(index.find({1, 2}, in_second), place(2, 1));
  EXPECT_TRUE(index.erase({1, 2}, place(1, 1)));
  EXPECT_FALSE(index.erase({1, 2}, place(1, 1)));
  EXPECT_EQ(index.find({1, 2}), place(2, 1));
  for (std::uint32_t segment = 3; segment < 1000; ++segment) index.insert({1, 2}, place(segment, 1));
  EXPECT_LE(index.size(), 4U);  // and look-ups stay short
}

TEST(ChunkIndex, EqualsAMapUnderRandomChanges) {
  test::Random random(7);
  ChunkIndex index;
  std::map<ChunkName, ChunkPlace> model;
  std::vector<ChunkName> names;
  for (int i = 0; i < 60'000; ++i) {
    if (names.empty() || random.below(3) != 0) {
      const ChunkName fresh = name(random);
      const ChunkPlace at = place(1 + static_cast<std::uint32_t>(random.below(9)), random.below(1'000'000));
      index.insert(fresh, at);
      model[fresh] = at;
      names.push_back(fresh);
    } else {
      const ChunkName& old = names[random.below(names.size())];
      const auto known = model.find(old);
      if (known == model.end()) {
        EXPECT_FALSE(index.find(old).has_value());
      } else {
        ASSERT_TRUE(index.erase(old, known->second));
        model.erase(known);
      }
    }
  }
  index.erase_segment(5);
  std::erase_if(model, [](const auto& entry) { return entry.second.segment == 5; });
  EXPECT_EQ(index.size(), model.size());
  for (const ChunkName& one : names) {
    const auto known = model.find(one);
    const auto found = index.find(one);
    ASSERT_EQ(found.has_value(), known != model.end());
    if (found) {
      ASSERT_EQ(*found, known->second);
    }
  }
}

TEST(ChunkIndex, CostsAtMostFortyBytesAChunkAtEverySize) {
  test::Random random(1);
  ChunkIndex index;
  for (std::uint64_t count = 1; count <= 1'000'000; ++count) {
    index.insert(name(random), place(1, count));
    if (index.memory_bytes() > 4096) {
      ASSERT_LE(index.memory_bytes(), 40 * count) << count;
    }
  }
  EXPECT_LT(index.longest_probe(), 64U);
  RecordProperty("bytes_per_chunk", static_cast<int>(index.memory_bytes() / index.size()));
}

TEST(ChunkIndex, ReservesForWhatIsComing) {
  test::Random random(1);
  ChunkIndex index;
  index.reserve(500'000);
  const std::uint64_t reserved = index.memory_bytes();
  EXPECT_LE(reserved, 40U * 500'000);
  for (std::uint64_t count = 1; count <= 500'000; ++count) index.insert(name(random), place(1, count));
  EXPECT_LE(index.memory_bytes(), reserved * 105 / 100);
}

TEST(ChunkIndex, KeepsWhatItHasWhenItMakesRoom) {
  for (const std::uint64_t before : {0U, 100U, 9'000U, 200'000U}) {
    test::Random random(1);
    ChunkIndex index;
    for (std::uint64_t count = 0; count < before; ++count) index.insert(name(random), place(1, count));
    index.reserve(50'000);
    index.expect(50'000);
    for (std::uint64_t count = 0; count < 2'000; ++count) index.insert(name(random), place(2, count));
    index.reserve(1'000'000);  // while it still grows for what was expected
    for (std::uint64_t count = 2'000; count < 50'000; ++count) index.insert(name(random), place(2, count));
    EXPECT_EQ(index.size(), before + 50'000);
    test::Random again(1);
    for (std::uint64_t count = 0; count < before; ++count) ASSERT_EQ(index.find(name(again)), place(1, count));
    for (std::uint64_t count = 0; count < 50'000; ++count) ASSERT_EQ(index.find(name(again)), place(2, count));
  }
}

TEST(ChunkIndex, GrowsALittleAtATimeForWhatIsExpected) {
  test::Random random(1);
  ChunkIndex index;
  for (std::uint64_t count = 1; count <= 40'000; ++count) index.insert(name(random), place(1, count));
  index.expect(600'000);
  std::uint64_t before = index.memory_bytes();
  EXPECT_LE(before, 42U * 40'000);
  std::uint64_t most = 0;
  std::uint64_t count = 0;
  for (; count <= 600'000 / 8; ++count) {
    index.insert(name(random), place(2, count));
    most = std::max(most, index.memory_bytes() - before);
    before = index.memory_bytes();
  }
  EXPECT_LE(most, 40U * 640'000 / 64) << "more than a shard at a time";
  const std::uint64_t reserved = before;
  EXPECT_GE(reserved, 24U * 640'000) << "not all of it is there yet";
  for (; count < 600'000; ++count) index.insert(name(random), place(2, count));
  EXPECT_LE(index.memory_bytes(), reserved * 105 / 100);
  EXPECT_EQ(index.size(), 640'000U);
}

}  // namespace
}  // namespace varve::storage
