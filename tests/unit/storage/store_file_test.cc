// SPDX-License-Identifier: Apache-2.0
//
// varve.store, the inventory, and the lines of the lock file.
#include "storage/store_file.h"

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "storage/chain_lock.h"
#include "storage/inventory.h"
#include "tests/support/hex_document.h"
#include "tests/support/simulated_io.h"

namespace varve::storage {
namespace {

StoreIdentity example_identity() {
  StoreIdentity identity;
  for (std::size_t i = 0; i < identity.id.size(); ++i) identity.id[i] = static_cast<std::byte>(i);
  for (std::size_t i = 0; i < identity.secret.size(); ++i) identity.secret[i] = static_cast<std::byte>(i);
  return identity;
}

Inventory example_inventory() {
  Inventory inventory;
  inventory.store = example_identity().id;
  inventory.generation = 2;
  inventory.chains["main"] = {3, 2};
  inventory.segments[{0x1122334455667788, 1}] = {16384, 0x0102030405060708};
  return inventory;
}

TEST(StoreFile, IsAsTheDocumentShows) {
  const auto content = encode_store_file(example_identity());
  EXPECT_EQ(content.size(), 4096U);
  EXPECT_EQ(test::hex_lines(content), test::hex_block("store.md", "varve.store"));
  auto decoded = decode_store_file(content);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->id, example_identity().id);
  EXPECT_EQ(decoded->secret, example_identity().secret);
  EXPECT_EQ(decoded->chunk_bytes, 4096U);
}

TEST(StoreFile, EveryFlippedByteIsCorruption) {
  auto content = encode_store_file(example_identity());
  for (std::size_t at = 0; at < content.size(); ++at) {
    content[at] ^= std::byte{4};
    auto decoded = decode_store_file(content);
    ASSERT_FALSE(decoded.has_value()) << at;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corruption) << at;
    content[at] ^= std::byte{4};
  }
  EXPECT_FALSE(decode_store_file(std::span(content).first(4095)).has_value());
}

TEST(StoreFile, ANewerFormatIsRefusedByNumber) {
  auto content = encode_store_file(example_identity());
  store_le<std::uint32_t>(content.data() + 8, 2);
  store_le<std::uint64_t>(content.data() + 4088, checksum(std::span(content).first(4088), 0x7661727665737430));
  auto decoded = decode_store_file(content);
  ASSERT_FALSE(decoded.has_value());
  EXPECT_EQ(decoded.error().code(), ErrorCode::unsupported);
  EXPECT_NE(decoded.error().message().find("written by a newer Varve, format 2; this one reads up to 1"),
            std::string::npos)
      << decoded.error().message();
}

TEST(Inventory, IsAsTheDocumentShows) {
  const auto content = encode_inventory(example_inventory());
  EXPECT_EQ(test::hex_lines(content), test::hex_block("store.md", "inventory"));
  auto decoded = decode_inventory(content);
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(*decoded, example_inventory());
}

TEST(Inventory, EveryFlippedByteAndTruncationIsCorruption) {
  auto content = encode_inventory(example_inventory());
  for (std::size_t at = 0; at < content.size(); ++at) {
    EXPECT_FALSE(decode_inventory(std::span(content).first(at)).has_value());
    content[at] ^= std::byte{1};
    EXPECT_FALSE(decode_inventory(content).has_value()) << at;
    content[at] ^= std::byte{1};
  }
  content.push_back(std::byte{0});
  EXPECT_FALSE(decode_inventory(content).has_value());
}

TEST(SegmentName, HasOneSpelling) {
  SegmentName name;
  ASSERT_TRUE(parse_segment_name("00000000000000ab-12.seg", name));
  EXPECT_EQ(name, (SegmentName{0xAB, 12}));
  EXPECT_EQ(to_string(name), "segments/00000000000000ab-12.seg");
  for (const char* bad : {"ab-12.seg", "00000000000000AB-12.seg", "00000000000000ab-012.seg", "00000000000000ab-12.new",
                          "00000000000000ab-.seg", "00000000000000ab-1x.seg", ".seg", "00000000000000ab12.seg"})
    EXPECT_FALSE(parse_segment_name(bad, name)) << bad;
}

TEST(LockLines, ComeBackAndNonsenseDoesNot) {
  const LockHolder holder{4711, "node7", 1'700'000'000, "main"};
  const std::string line = encode_lock_line(holder);
  EXPECT_EQ(line.size(), kLockLineBytes);
  const auto decoded = decode_lock_lines(line + std::string(kLockLineBytes, 'x') + line + "varve-holder pid=1");
  ASSERT_EQ(decoded.size(), 2U);
  EXPECT_EQ(decoded[0].pid, 4711U);
  EXPECT_EQ(decoded[0].host, "node7");
  EXPECT_EQ(decoded[0].since, 1'700'000'000U);
  EXPECT_EQ(decoded[0].chain, "main");
}

TEST(ChainLock, NamesItsHolderAndLeavesNothingBehind) {
  test::SimulatedDisk disk;
  auto first = disk.open();
  auto second = disk.open();
  auto lock = ChainLock::acquire(*first, "main");
  ASSERT_TRUE(lock.has_value()) << lock.error().message();
  auto refused = ChainLock::acquire(*second, "main");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), ErrorCode::busy);
  EXPECT_NE(refused.error().cause().find("pid " + std::to_string(getpid())), std::string::npos)
      << refused.error().message();
  EXPECT_NE(refused.error().what().find("chain 'main'"), std::string::npos);
  auto again = ChainLock::acquire(*first, "main");
  ASSERT_FALSE(again.has_value()) << "the same process twice";
  EXPECT_TRUE(ChainLock::acquire(*second, "other").has_value());
  lock->reset();
  EXPECT_EQ(disk.size_bytes("lock"), 0U);
  EXPECT_TRUE(ChainLock::acquire(*second, "main").has_value());
}

TEST(ChainLock, DropsTheLinesOfHoldersThatAreGone) {
  test::SimulatedDisk disk;
  auto io = disk.open();
  const std::string stale = encode_lock_line({1, "gone", 1, "killed"});
  disk.put("lock", std::as_bytes(std::span(stale)));
  auto lock = ChainLock::acquire(*io, "main");
  ASSERT_TRUE(lock.has_value());
  EXPECT_EQ(disk.size_bytes("lock"), kLockLineBytes);
  lock->reset();
  EXPECT_EQ(disk.size_bytes("lock"), 0U);
}

}  // namespace
}  // namespace varve::storage
