// SPDX-License-Identifier: Apache-2.0
#include "storage/record.h"

#include <numeric>
#include <utility>

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "storage/byte_codec.h"
#include "storage/frame.h"
#include "storage/note.h"
#include "tests/support/hex_document.h"

namespace varve::storage {
namespace {

SegmentHeader example_header() {
  SegmentHeader header;
  for (std::size_t i = 0; i < 16; ++i) {
    header.store[i] = static_cast<std::byte>(i);
    header.incarnation[i] = static_cast<std::byte>(16 + i);
  }
  header.name = {0x1122334455667788, 1};
  header.generation = 1;
  header.chain = "main";
  return header;
}

std::uint64_t example_key() {
  const SegmentHeader header = example_header();
  return record_key(header.store, header.incarnation);
}

std::vector<std::byte> encode_record(RecordHeader header, std::span<const std::byte> payload) {
  std::vector<std::byte> record(kRecordHeaderBytes);
  encode_record_header(header, payload, example_key(),
                       std::span<std::byte, kRecordHeaderBytes>(record.data(), kRecordHeaderBytes));
  record.insert(record.end(), payload.begin(), payload.end());
  return record;
}

std::span<const std::byte, kRecordHeaderBytes> block_of(const std::vector<std::byte>& record) {
  return std::span<const std::byte, kRecordHeaderBytes>(record.data(), kRecordHeaderBytes);
}

TEST(SegmentHeader, IsAsTheDocumentShows) {
  const auto block = encode_segment_header(example_header());
  EXPECT_EQ(block.size(), kSegmentHeaderBytes);
  EXPECT_EQ(test::hex_lines(block), test::hex_block("segment.md", "header"));
  auto decoded = decode_segment_header(block, "segments/a-1.seg");
  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(*decoded, example_header());
}

TEST(SegmentHeader, EveryFlippedBitIsCorruption) {
  auto block = encode_segment_header(example_header());
  for (std::size_t at = 0; at < block.size(); ++at) {
    block[at] ^= std::byte{0x10};
    auto decoded = decode_segment_header(block, "f");
    ASSERT_FALSE(decoded.has_value()) << at;
    EXPECT_EQ(decoded.error().code(), ErrorCode::corruption) << at;
    block[at] ^= std::byte{0x10};
  }
}

TEST(Record, FrameIsAsTheDocumentShows) {
  constexpr std::string_view kText = "varve varve varv";
  const auto raw = std::as_bytes(std::span(kText.data(), kText.size()));
  const FrameChunk chunk{{1, 2}, 16};
  FrameScratch scratch;
  std::vector<std::byte> payload(max_frame_payload(1, raw.size()));
  bool compressed = true;
  payload.resize(encode_frame(raw, std::span(&chunk, 1), {}, scratch, payload, compressed));
  EXPECT_FALSE(compressed);
  RecordHeader header;
  header.nonce = 0x1111111111111111;
  header.offset = 4096;
  EXPECT_EQ(test::hex_lines(encode_record(header, payload)), test::hex_block("segment.md", "frame"));
}

TEST(Record, NoteIsAsTheDocumentShows) {
  const std::vector<std::byte> note = encode_note({NoteKind::retire, 1, "main", {3}, {}, {}});
  std::vector<std::byte> payload(kCommitBlockBytes);
  encode_commit_block({8192, 0, 0, 4096, 0, 0},
                      std::span<std::byte, kCommitBlockBytes>(payload.data(), kCommitBlockBytes));
  payload.insert(payload.end(), note.begin(), note.end());
  RecordHeader header;
  header.type = RecordType::note;
  header.nonce = 0x2222222222222222;
  header.offset = 8192;
  EXPECT_EQ(test::hex_lines(encode_record(header, payload)), test::hex_block("segment.md", "note"));
}

TEST(Record, ComesBackWithAllFields) {
  const std::vector<std::byte> payload(100, std::byte{7});
  RecordHeader header;
  header.type = RecordType::manifest;
  header.nonce = 99;
  header.ordinal = 5;
  header.offset = 128 * 64;
  const auto record = encode_record(header, payload);
  auto decoded = decode_record_header(block_of(record), example_key(), {"f", header.offset}, payload.size());
  ASSERT_TRUE(decoded.has_value()) << decoded.error().message();
  EXPECT_EQ(decoded->type, RecordType::manifest);
  EXPECT_EQ(decoded->nonce, 99U);
  EXPECT_EQ(decoded->ordinal, 5U);
  EXPECT_EQ(decoded->payload_bytes, 100U);
  EXPECT_EQ(record_bytes(*decoded), 192U);
  EXPECT_TRUE(payload_matches(*decoded, payload, example_key()));
}

TEST(Record, IsValidAtItsPlaceInItsSegmentOnly) {
  RecordHeader header;
  header.offset = 4096;
  const auto record = encode_record(header, {});
  EXPECT_TRUE(looks_like_record(block_of(record), example_key(), 4096));
  EXPECT_FALSE(looks_like_record(block_of(record), example_key(), 8192));
  SegmentHeader other = example_header();
  other.incarnation[0] ^= std::byte{1};
  EXPECT_FALSE(looks_like_record(block_of(record), record_key(other.store, other.incarnation), 4096));
  other = example_header();
  other.store[15] ^= std::byte{1};
  EXPECT_FALSE(looks_like_record(block_of(record), record_key(other.store, other.incarnation), 4096));
}

TEST(Record, EveryFlippedBitOfTheHeaderIsSeen) {
  auto record = encode_record({}, {});
  for (std::size_t bit = 0; bit < 8 * kRecordHeaderBytes; ++bit) {
    record[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    EXPECT_FALSE(looks_like_record(block_of(record), example_key(), 0)) << bit;
    record[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
  }
}

/// A header with a valid checksum and one field of a newer format.
std::vector<std::byte> with_field(std::size_t at, std::uint16_t value) {
  std::vector<std::byte> record = encode_record({}, {});
  store_le<std::uint16_t>(record.data() + at, value);
  store_le<std::uint64_t>(record.data() + 56, checksum(std::span(record).first(56), example_key()));
  return record;
}

TEST(Record, UnknownTypesAndFlagsAreRefusedByNumber) {
  auto type = decode_record_header(block_of(with_field(4, 9)), example_key(), {"f", 0}, 0);
  ASSERT_FALSE(type.has_value());
  EXPECT_EQ(type.error().code(), ErrorCode::unsupported);
  EXPECT_NE(type.error().message().find("type is 9"), std::string::npos) << type.error().message();
  auto flags = decode_record_header(block_of(with_field(6, 4)), example_key(), {"f", 0}, 0);
  ASSERT_FALSE(flags.has_value());
  EXPECT_EQ(flags.error().code(), ErrorCode::unsupported);
}

TEST(Record, APayloadLongerThanTheFileIsRefusedBeforeItIsRead) {
  const std::vector<std::byte> payload(100);
  const auto record = encode_record({}, payload);
  EXPECT_TRUE(decode_record_header(block_of(record), example_key(), {"f", 0}, 100).has_value());
  auto decoded = decode_record_header(block_of(record), example_key(), {"f", 0}, 99);
  ASSERT_FALSE(decoded.has_value());
  EXPECT_EQ(decoded.error().code(), ErrorCode::corruption);
}

TEST(CombinedChecksum, DependsOnOrderAndMembers) {
  const auto fold = [](std::initializer_list<std::uint64_t> checksums) {
    return std::accumulate(checksums.begin(), checksums.end(), std::uint64_t{0},
                           [](std::uint64_t so_far, std::uint64_t next) { return combine_checksums(so_far, next, 1); });
  };
  EXPECT_NE(fold({1, 2}), fold({2, 1}));
  EXPECT_NE(fold({1}), fold({1, 0}));
  EXPECT_EQ(fold({1, 2, 3}), fold({1, 2, 3}));
}

TEST(ByteReader, StaysWithinItsBytes) {
  const std::vector<std::byte> bytes(6, std::byte{0xFF});
  ByteReader in(bytes);
  EXPECT_EQ(in.get<std::uint32_t>(), 0xFFFFFFFFU);
  EXPECT_EQ(in.get<std::uint32_t>(), 0U);
  EXPECT_FALSE(in.ok());
  EXPECT_EQ(in.get<std::uint8_t>(), 0U);  // also what would have fitted
  EXPECT_FALSE(in.at_end());
}

TEST(ByteReader, NamesThatAreAppendedFewAtATimeAreNotMovedEachTime) {
  const std::vector<std::byte> bytes(16 * 4096, std::byte{5});
  ByteReader in(bytes);
  std::vector<ChunkName> names;
  int moved = 0;
  for (std::size_t i = 0, capacity = 0; i < 4096; ++i) {
    ASSERT_TRUE(in.names(1, names));
    moved += std::exchange(capacity, names.capacity()) != names.capacity() ? 1 : 0;
  }
  EXPECT_LT(moved, 20);
  EXPECT_TRUE(in.at_end());
}

TEST(ByteReader, TakesTheShortestFormOfNumbersOnly) {
  for (const std::uint64_t value :
       {std::uint64_t{0}, std::uint64_t{127}, std::uint64_t{128}, std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
    std::vector<std::byte> bytes;
    ByteWriter(bytes).varint(value);
    ByteReader in(bytes);
    EXPECT_EQ(in.varint(), value);
    EXPECT_TRUE(in.at_end());
  }
  for (const std::vector<std::byte>& bad : {std::vector{std::byte{0x80}, std::byte{0}},
                                            std::vector(11, std::byte{0x80}), std::vector(10, std::byte{0xFF})}) {
    ByteReader in(bad);
    in.varint();
    EXPECT_FALSE(in.ok());
  }
}

}  // namespace
}  // namespace varve::storage
