// SPDX-License-Identifier: Apache-2.0
#include "engine/chain.h"

#include <cstring>
#include <map>
#include <optional>

#include <gtest/gtest.h>

#include "engine/chunk_grid.h"
#include "tests/support/simulated_io.h"

namespace varve {
namespace {

using storage::ChunkName;
using storage::ChunkRun;
using storage::ImageKind;
using storage::Manifest;
using storage::RegionRecord;
using storage::RunKind;

/// Manifests and chunks in memory: also those that no engine would write.
class FakeStore : public storage::Store {
 public:
  FakeStore() : io_(disk_.open()) {}
  storage::Io& io() override { return *io_; }
  std::string id() const override { return "fake"; }
  std::uint32_t chunk_bytes() const override { return 4096; }
  const storage::HashSecret& secret() const override { return secret_; }
  std::vector<storage::ImageSummary> images() override {
    std::vector<storage::ImageSummary> all;
    for (const auto& [key, manifest] : manifests) {
      storage::ImageSummary summary;
      summary.chain = manifest.chain;
      summary.number = manifest.number;
      summary.parent = manifest.parent;
      summary.label = manifest.label;
      all.push_back(summary);
    }
    return all;
  }
  Result<storage::ImageSummary> newest_image(std::string_view chain) override {
    std::optional<storage::ImageSummary> newest;
    for (const auto& summary : images())
      if (summary.chain == chain) newest = summary;
    if (newest.has_value()) return *newest;
    return fail(ErrorCode::not_found, {"look-up of the newest image failed", "there is none", "make one"});
  }
  std::vector<std::string> damage() override { return {}; }
  Status refresh() override { return {}; }
  Result<std::shared_ptr<storage::Lock>> hold() override { return std::shared_ptr<storage::Lock>(); }
  std::uint64_t stored_bytes(std::string_view) override { return 0; }
  std::vector<std::string> chains() override { return {}; }
  std::string hiding_segment(std::string_view) override { return {}; }
  Result<Manifest> read_manifest(std::string_view chain, std::uint64_t number) override {
    const auto found = manifests.find({std::string(chain), number});
    if (found == manifests.end())
      return fail(ErrorCode::not_found, {"read of a manifest failed", "there is none", "look elsewhere"});
    return found->second;
  }
  Status read_chunks(storage::RequestSource& source, unsigned, const storage::DeliverChunk& deliver) override {
    for (std::vector<storage::ChunkRequest> room;; room.clear()) {
      const auto requests = source.next(room);
      if (requests.empty()) return {};
      for (const auto& request : requests) {
        const std::vector<std::byte> content(request.bytes, static_cast<std::byte>(request.name.low));
        deliver(request.tag, content);
      }
      source.finished(requests);
    }
  }
  Result<std::unique_ptr<storage::ChainWriter>> open_chain(std::string_view) override {
    return fail(ErrorCode::unsupported, {"writing refused", "this store is read only", "use another"});
  }
  storage::StoreStatistics statistics() override { return {}; }

  void put(const Manifest& manifest) { manifests[{manifest.chain, manifest.number}] = manifest; }
  std::map<std::pair<std::string, std::uint64_t>, Manifest> manifests;

 private:
  test::SimulatedDisk disk_;
  std::unique_ptr<storage::Io> io_;
  storage::HashSecret secret_ = {};
};

RegionRecord record(const std::string& name, std::uint64_t chunks, bool complete, std::vector<ChunkRun> runs,
                    std::vector<std::uint64_t> names) {
  RegionRecord made;
  made.name = name;
  made.bytes = chunks * 4096;
  made.complete = complete;
  made.runs = std::move(runs);
  for (const auto low : names) made.names.push_back({low, 99});
  return made;
}

Manifest image(std::uint64_t number, std::uint64_t parent, std::vector<RegionRecord> regions,
               const std::string& chain = "main") {
  Manifest made;
  made.chain = chain;
  made.number = number;
  made.parent = parent;
  made.kind = parent == 0 ? ImageKind::full : ImageKind::delta;
  made.chunk_bytes = 4096;
  made.page_bytes = 4096;
  made.regions = std::move(regions);
  return made;
}

std::vector<std::uint64_t> names_of(const RegionRecord& region) {
  std::vector<std::uint64_t> lows;
  for_each_chunk(region, 4096,
                 [&](const ResolvedChunk& chunk) { lows.push_back(chunk.kind == RunKind::zero ? 0 : chunk.name.low); });
  return lows;
}

class ChainTest : public ::testing::Test {
 protected:
  ChainTest() {
    store_.put(image(1, 0, {record("grid", 4, true, {{0, 4, RunKind::named}}, {11, 12, 13, 14})}));
    store_.put(image(2, 1, {record("grid", 4, false, {{1, 1, RunKind::named}}, {22})}));
    store_.put(image(3, 2, {record("grid", 4, false, {{1, 1, RunKind::zero}, {2, 1, RunKind::named}}, {33})}));
    store_.put(image(4, 2,
                     {record("grid", 4, false, {{3, 1, RunKind::named}}, {44}),
                      record("new", 1, true, {{0, 1, RunKind::named}}, {55})}));
  }
  std::string refusal(std::uint64_t number) {
    const auto resolved = resolve_image(store_, "main", number);
    EXPECT_FALSE(resolved.has_value());
    if (resolved) return {};
    EXPECT_EQ(resolved.error().code(), ErrorCode::corruption);
    EXPECT_NE(resolved.error().message().find("main/" + std::to_string(number)), std::string::npos);
    return resolved.error().message();
  }
  FakeStore store_;
};

TEST_F(ChainTest, takes_the_newest_record_along_parent_links) {
  const auto newest = resolve_image(store_, "main", 4);
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->ancestry, (std::vector<std::uint64_t>{4, 2, 1})) << "image 3 is on another branch";
  EXPECT_EQ(names_of(newest->manifest.regions[0]), (std::vector<std::uint64_t>{11, 22, 13, 44}));
  EXPECT_TRUE(newest->manifest.regions[0].complete);
  EXPECT_EQ(names_of(newest->manifest.regions[1]), (std::vector<std::uint64_t>{55}));
  const auto branch = resolve_image(store_, "main", 3);
  ASSERT_TRUE(branch.has_value());
  EXPECT_EQ(names_of(branch->manifest.regions[0]), (std::vector<std::uint64_t>{11, 0, 33, 14}));
}

TEST_F(ChainTest, stops_at_complete_records) {
  store_.put(image(5, 4, {record("grid", 4, true, {{0, 4, RunKind::zero}}, {})}));
  store_.manifests.erase({"main", 4});
  const auto resolved = resolve_image(store_, "main", 5);
  ASSERT_TRUE(resolved.has_value()) << "a complete record needs no ancestor";
  EXPECT_EQ(resolved->ancestry, (std::vector<std::uint64_t>{5}));
}

TEST_F(ChainTest, wholly_excluded_chunks_need_no_record) {
  auto with_hole = record("grid", 4, true, {{0, 1, RunKind::named}, {3, 1, RunKind::named}}, {61, 64});
  with_hole.excluded = {{4096, 8192}};
  store_.put(image(6, 0, {with_hole}));
  const auto resolved = resolve_image(store_, "main", 6);
  ASSERT_TRUE(resolved.has_value());
  EXPECT_EQ(names_of(resolved->manifest.regions[0]), (std::vector<std::uint64_t>{61, 64}));
}

TEST_F(ChainTest, names_what_is_wrong_with_damaged_chains) {
  store_.manifests.erase({"main", 1});
  EXPECT_NE(refusal(4).find("ancestor 1 is missing"), std::string::npos);
  store_.put(image(1, 4, {record("grid", 4, false, {}, {})}));
  EXPECT_NE(refusal(4).find("cycle"), std::string::npos);
  store_.put(image(1, 0, {record("grid", 4, false, {}, {})}));
  EXPECT_NE(refusal(4).find("no parent"), std::string::npos);
  store_.put(image(1, 0, {record("grid", 3, true, {{0, 3, RunKind::zero}}, {})}));
  EXPECT_NE(refusal(4).find("another length"), std::string::npos);
  store_.put(image(1, 0, {record("other", 4, true, {{0, 4, RunKind::zero}}, {})}));
  EXPECT_NE(refusal(4).find("'grid'"), std::string::npos);
  store_.put(image(1, 0, {record("grid", 4, true, {{0, 3, RunKind::zero}}, {})}));
  EXPECT_TRUE(resolve_image(store_, "main", 4).has_value()) << "image 4 names the chunk that image 1 lacks";
  EXPECT_NE(refusal(2).find("chunk 3"), std::string::npos);
}

TEST_F(ChainTest, reads_any_range_of_a_region) {
  auto region = resolve_image(store_, "main", 3)->manifest.regions[0];  // 11, zero, 33, 14
  region.excluded = {{8200, 8}};
  std::vector<std::byte> content(4096 * 2);
  ASSERT_TRUE(read_region(store_, region, 4000, content).has_value());
  EXPECT_EQ(content[0], std::byte{11});
  EXPECT_EQ(content[95], std::byte{11});
  EXPECT_EQ(content[96], std::byte{0});
  EXPECT_EQ(content[96 + 4096], std::byte{33});
  EXPECT_EQ(content[8200 - 4000], std::byte{0}) << "excluded";
  EXPECT_EQ(content[8208 - 4000], std::byte{33});
}

TEST_F(ChainTest, selectors_name_one_image_or_say_what_there_is) {
  store_.manifests[{"main", 2}].label = "good";
  const auto number = [&](std::string_view text, std::string_view chain = "main") {
    const auto name = parse_image_selector(store_, text, chain);
    EXPECT_TRUE(name.has_value()) << text << ": " << (name ? "" : name.error().message());
    return name ? name->number : 0;
  };
  EXPECT_EQ(number("3"), 3U);
  EXPECT_EQ(number("good"), 2U);
  EXPECT_EQ(number("latest"), 4U);
  EXPECT_EQ(number("main/latest"), 4U);
  EXPECT_EQ(number("latest", "elsewhere"), 4U) << "the store has one chain only";
  for (const char* bad : {"", "/", "main/", "/3", "a b", "main/a/b", "main/-", "latest/"}) {
    const auto refused = parse_image_selector(store_, bad);
    ASSERT_FALSE(refused.has_value()) << bad;
  }
  const auto missing = parse_image_selector(store_, "9");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), ErrorCode::not_found);
  EXPECT_NE(missing.error().message().find("1 to 4"), std::string::npos) << missing.error().message();
  EXPECT_FALSE(parse_image_selector(store_, "99999999999999999999999").has_value());

  store_.put(image(7, 0, {}, "other"));
  EXPECT_EQ(number("other/latest"), 7U);
  EXPECT_EQ(number("latest"), 4U) << "the default chain has images";
  const auto unclear = parse_image_selector(store_, "latest", "elsewhere");
  ASSERT_FALSE(unclear.has_value());
  EXPECT_EQ(unclear.error().code(), ErrorCode::invalid_argument);
  EXPECT_NE(unclear.error().message().find("'main', 'other'"), std::string::npos) << unclear.error().message();
  const auto unknown = parse_image_selector(store_, "elsewhere/1");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code(), ErrorCode::not_found);
}

}  // namespace
}  // namespace varve
