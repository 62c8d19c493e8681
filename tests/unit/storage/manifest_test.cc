// SPDX-License-Identifier: Apache-2.0
#include "storage/manifest.h"

#include <algorithm>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "storage/byte_codec.h"
#include "storage/store.h"
#include "tests/support/hex_document.h"

namespace varve::storage {
namespace {

Manifest example() {
  Manifest manifest;
  manifest.chain = "main";
  manifest.number = 2;
  manifest.parent = 1;
  manifest.kind = ImageKind::delta;
  manifest.time_ns = 1;
  manifest.label = "x";
  manifest.architecture = "x86_64";
  manifest.page_bytes = 4096;
  manifest.chunk_bytes = 4096;
  RegionRecord region;
  region.name = "grid";
  region.bytes = 20000;
  region.address = 0x1000;
  region.grid_offset = 16;
  region.element_bytes = 8;
  region.protection = 3;
  region.runs = {{1, 1, RunKind::named}, {3, 2, RunKind::zero}};
  region.names = {{0x0123456789abcdef, 0xfedcba9876543210}};
  manifest.regions.push_back(region);
  return manifest;
}

/// Everything that a manifest may hold.
Manifest rich() {
  Manifest manifest = example();
  manifest.revision = 3;
  manifest.blobs["registers"] = {std::byte{1}, std::byte{2}};
  manifest.blobs["signals"] = {};
  RegionRecord& grid = manifest.regions[0];
  grid.excluded = {{10, 20}, {30, 5000}};
  grid.attributes["file"] = {std::byte{'/'}};
  RegionRecord whole;
  whole.name = "[heap]";
  whole.bytes = 3 * 4096;
  whole.complete = true;
  whole.excluded = {{4096, 4096}};  // chunk 1 is in no run
  whole.runs = {{0, 1, RunKind::named}, {2, 1, RunKind::zero}};
  whole.names = {{5, 6}};
  manifest.regions.push_back(whole);
  RegionRecord nothing;
  nothing.name = "nothing";
  nothing.complete = true;
  manifest.regions.push_back(nothing);
  return manifest;
}

TEST(Manifest, IsAsTheDocumentShows) {
  EXPECT_EQ(test::hex_lines(encode_manifest(example())), test::hex_block("manifest.md", "manifest"));
}

TEST(Manifest, ComesBackWhole) {
  for (const Manifest& manifest : {example(), rich()}) {
    ASSERT_TRUE(check_manifest(manifest).has_value()) << check_manifest(manifest).error().message();
    auto decoded = decode_manifest(encode_manifest(manifest));
    ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
    EXPECT_EQ(*decoded, manifest);
  }
}

/// Bytes in parts of one length, each in the same memory, so that nobody goes on using one; gives no more than `limit`.
class InParts : public ByteParts {
 public:
  InParts(std::span<const std::byte> bytes, std::size_t part_bytes, std::size_t limit)
      : rest_(bytes.first(limit)), part_(part_bytes) {}
  std::span<const std::byte> next() override {
    const auto now = rest_.first(std::min(part_.size(), rest_.size()));
    std::ranges::fill(part_, std::byte{0xEE});
    std::ranges::copy(now, part_.begin());
    rest_ = rest_.subspan(now.size());
    return std::span(part_).first(now.size());
  }

 private:
  std::span<const std::byte> rest_;
  std::vector<std::byte> part_;
};

TEST(Manifest, ComesBackWholeFromPartsOfAnyLength) {
  Manifest manifest = rich();
  for (std::uint64_t i = 0; i < 100; ++i) manifest.regions[1].names.push_back({i, ~i});
  manifest.regions[1].bytes = 103 * 4096;
  manifest.regions[1].runs = {{0, 1, RunKind::named}, {2, 1, RunKind::zero}, {3, 100, RunKind::named}};
  ASSERT_TRUE(check_manifest(manifest).has_value()) << check_manifest(manifest).error().message();
  const auto payload = encode_manifest(manifest);
  for (std::size_t bytes = 1; bytes <= payload.size() + 1; ++bytes) {
    InParts whole(payload, bytes, payload.size());
    const auto decoded = decode_manifest(whole, payload.size());
    ASSERT_TRUE(decoded.has_value()) << bytes << ": " << decoded.error().message();
    EXPECT_EQ(*decoded, manifest);
    InParts cut(payload, bytes, payload.size() - bytes % payload.size() - 1);
    const auto refused = decode_manifest(cut, payload.size());
    ASSERT_FALSE(refused.has_value()) << bytes;
    EXPECT_EQ(refused.error().code(), ErrorCode::corruption);
    InParts all(payload, bytes, payload.size());
    EXPECT_FALSE(decode_manifest(all, payload.size() - 1).has_value());
  }
}

TEST(Manifest, EveryTruncationIsCorruption) {
  const auto payload = encode_manifest(rich());
  for (std::size_t length = 0; length < payload.size(); ++length) {
    auto decoded = decode_manifest(std::span(payload).first(length));
    ASSERT_FALSE(decoded.has_value()) << length;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corruption);
  }
  auto longer = payload;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_manifest(longer).has_value());
}

TEST(Manifest, NoChangedByteCrashesOrAllocatesWithoutBound) {
  const auto payload = encode_manifest(rich());
  for (std::size_t at = 0; at < payload.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7F, 0x80, 0xFF}) {
      auto changed = payload;
      changed[at] = static_cast<std::byte>(value);
      auto decoded = decode_manifest(changed);
      if (decoded) {
        EXPECT_TRUE(check_manifest(*decoded).has_value()) << at;
      }
    }
  }
}

TEST(Manifest, ANewerVersionIsRefusedByNumber) {
  auto payload = encode_manifest(example());
  payload[0] = std::byte{2};
  auto decoded = decode_manifest(payload);
  ASSERT_FALSE(decoded.has_value());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("format 2"), std::string::npos) << decoded.error().message();
}

TEST(Manifest, ARunOfChunksTakesThreeBytes) {
  Manifest manifest = example();
  RegionRecord& region = manifest.regions[0];
  region.bytes = 200'000 * std::uint64_t{4096};
  region.runs.clear();
  region.names.clear();
  const std::size_t empty = encode_manifest(manifest).size();
  for (std::uint64_t i = 0; i < 1000; ++i) region.runs.push_back({150 * i, 1, RunKind::zero});
  EXPECT_LE(encode_manifest(manifest).size() - empty, 3000U);
}

TEST(CheckManifest, KeepsTheRules) {
  const auto breaks = [](const std::function<void(Manifest&)>& change) {
    Manifest manifest = rich();
    change(manifest);
    auto checked = check_manifest(manifest);
    return !checked.has_value() && checked.error().code() == ErrorCode::invalid_argument;
  };
  EXPECT_FALSE(breaks([](Manifest&) {}));
  EXPECT_TRUE(breaks([](Manifest& m) { m.chain = ""; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.chain = "../x"; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.label = "latest"; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.label = "17"; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.number = 0; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.parent = 2; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.parent = 0; })) << "a delta needs a parent";
  EXPECT_TRUE(breaks([](Manifest& m) { m.kind = ImageKind::full; })) << "grid is not complete";
  EXPECT_TRUE(breaks([](Manifest& m) { m.chunk_bytes = 5000; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[1].name = "grid"; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[1].name = "a\nb"; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].grid_offset = 4096; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].bytes = ~std::uint64_t{0}; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].excluded[1].offset = 29; })) << "ranges overlap";
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].excluded[1].bytes = 20000; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].names.clear(); }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].runs[1].first = 1; })) << "runs overlap";
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].runs[1].count = 3; })) << "beyond the end";
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].runs[1].count = ~std::uint64_t{0}; }));
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[0].complete = true; })) << "chunks are missing";
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[1].excluded[0].bytes = 4095; })) << "chunk 1 is not wholly excluded";
  EXPECT_TRUE(breaks([](Manifest& m) { m.regions[1].runs.pop_back(); }));
}

TEST(ChunkExtent, CoversARegionAtAnyOffset) {
  for (const std::uint64_t bytes : {1U, 15U, 4080U, 4081U, 4096U, 20000U}) {
    for (const std::uint32_t grid : {0U, 1U, 16U, 4095U}) {
      RegionRecord region;
      region.bytes = bytes;
      region.grid_offset = grid;
      std::uint64_t next = 0;
      for (std::uint64_t i = 0; i < chunk_count(region, 4096); ++i) {
        const ByteRange extent = chunk_extent(region, 4096, i);
        EXPECT_EQ(extent.offset, next);
        EXPECT_GT(extent.bytes, 0U);
        EXPECT_EQ((grid + extent.offset) / 4096, i);
        next = extent.offset + extent.bytes;
      }
      EXPECT_EQ(next, bytes);
    }
  }
}

TEST(Names, OfChainsAndLabels) {
  for (const char* good : {"main", "a", "rank-0", "v1.2_x", "0x"})
    EXPECT_TRUE(check_chain_name(good).has_value()) << good;
  for (const char* bad : {"", ".a", "a/b", "12", "a b", "\xC3\xA4"})
    EXPECT_FALSE(check_chain_name(bad).has_value()) << bad;
  EXPECT_TRUE(check_chain_name(std::string(64, 'a')).has_value());
  EXPECT_FALSE(check_chain_name(std::string(65, 'a')).has_value());
  EXPECT_FALSE(check_label("latest").has_value());
}

}  // namespace
}  // namespace varve::storage
