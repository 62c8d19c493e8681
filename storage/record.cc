// SPDX-License-Identifier: Apache-2.0
#include "storage/record.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "storage/byte_codec.h"

namespace varve::storage {
namespace {

constexpr std::string_view kSegmentMagic = "varvsegm";
constexpr std::uint64_t kSegmentSeed = 0x7661727665736567;
constexpr std::size_t kSegmentChecksumAt = kSegmentHeaderBytes - 8;

constexpr std::uint32_t kRecordMagic = 0x63657276;  // "vrec"
constexpr std::uint64_t kRecordSeed = 0x7661727665726563;

// Offsets in the record header.
constexpr std::size_t kTypeAt = 4;
constexpr std::size_t kFlagsAt = 6;
constexpr std::size_t kPayloadBytesAt = 8;
constexpr std::size_t kNonceAt = 16;
constexpr std::size_t kOrdinalAt = 24;
constexpr std::size_t kReservedAt = 28;
constexpr std::size_t kOffsetAt = 32;
constexpr std::size_t kPayloadChecksumAt = 40;
constexpr std::size_t kReserved2At = 48;
constexpr std::size_t kHeaderChecksumAt = 56;
static_assert(kHeaderChecksumAt + 8 == kRecordHeaderBytes);

void write_record_header(RecordHeader& header, std::uint64_t key, std::span<std::byte, kRecordHeaderBytes> into) {
  VARVE_CHECK(header.offset % kRecordAlignment == 0);
  std::byte* to = into.data();
  store_le<std::uint32_t>(to, kRecordMagic);
  store_le<std::uint16_t>(to + kTypeAt, static_cast<std::uint16_t>(header.type));
  store_le<std::uint16_t>(to + kFlagsAt, 0);
  store_le<std::uint64_t>(to + kPayloadBytesAt, header.payload_bytes);
  store_le<std::uint64_t>(to + kNonceAt, header.nonce);
  store_le<std::uint32_t>(to + kOrdinalAt, header.ordinal);
  store_le<std::uint32_t>(to + kReservedAt, 0);
  store_le<std::uint64_t>(to + kOffsetAt, header.offset);
  store_le<std::uint64_t>(to + kPayloadChecksumAt, header.payload_checksum);
  store_le<std::uint64_t>(to + kReserved2At, 0);
  header.header_checksum = checksum(into.first(kHeaderChecksumAt), key + header.offset);
  store_le<std::uint64_t>(to + kHeaderChecksumAt, header.header_checksum);
}

}  // namespace

std::vector<std::byte> encode_segment_header(const SegmentHeader& header) {
  VARVE_CHECK(header.chain.size() <= kMaxNameBytes);
  std::vector<std::byte> block;
  ByteWriter out(block);
  out.text(kSegmentMagic);
  out.put<std::uint32_t>(kFormatVersion);
  out.put<std::uint32_t>(0);
  out.bytes(header.store);
  out.bytes(header.incarnation);
  out.put<std::uint64_t>(header.name.writer);
  out.put<std::uint64_t>(header.name.n);
  out.put<std::uint64_t>(header.generation);
  out.put<std::uint64_t>(header.time_ns);
  out.string(header.chain);
  out.zeros(kSegmentChecksumAt - block.size());
  out.put<std::uint64_t>(checksum(block, kSegmentSeed));
  return block;
}

Result<SegmentHeader> decode_segment_header(std::span<const std::byte> block, std::string_view file) {
  const StoredAt at{file, 0};
  constexpr std::string_view kObject = "the segment's header";
  if (block.size() < kSegmentHeaderBytes)
    return damaged(kObject, at, fmt::format("the file has only {} bytes", block.size()));
  ByteReader in(block.first(kSegmentChecksumAt));
  if (in.text(kSegmentMagic.size()) != kSegmentMagic)
    return damaged(kObject, at, "it does not begin as a segment does");
  if (load_le<std::uint64_t>(block.data() + kSegmentChecksumAt) !=
      checksum(block.first(kSegmentChecksumAt), kSegmentSeed))
    return damaged(kObject, at, "its checksum is wrong");
  const auto version = in.get<std::uint32_t>();
  if (version > kFormatVersion)
    return unknown_to_us(
        "the segment", at,
        fmt::format("written by a newer Varve, format {}; this one reads up to {}", version, kFormatVersion));
  const auto reserved = in.get<std::uint32_t>();
  SegmentHeader header;
  std::ranges::copy(in.take(header.store.size()), header.store.begin());
  std::ranges::copy(in.take(header.incarnation.size()), header.incarnation.begin());
  header.name.writer = in.get<std::uint64_t>();
  header.name.n = in.get<std::uint64_t>();
  header.generation = in.get<std::uint64_t>();
  header.time_ns = in.get<std::uint64_t>();
  const auto chain_bytes = in.get<std::uint16_t>();
  if (version == 0 || reserved != 0 || chain_bytes == 0 || chain_bytes > kMaxNameBytes)
    return damaged(kObject, at, "its fields are not well-formed");
  header.chain = in.text(chain_bytes);
  if (!is_zero(in.take(in.remaining()))) return damaged(kObject, at, "its padding is not zero");
  return header;
}

std::uint64_t record_key(const StoreId& store, const Incarnation& incarnation) {
  std::array<std::byte, sizeof(StoreId) + sizeof(Incarnation)> both;
  std::ranges::copy(incarnation, std::ranges::copy(store, both.begin()).out);
  return checksum(both, kRecordSeed);
}

void encode_record_header(RecordHeader& header, std::span<const std::byte> payload, std::uint64_t key,
                          std::span<std::byte, kRecordHeaderBytes> into) {
  header.payload_bytes = payload.size();
  header.payload_checksum = checksum(payload, key + header.offset);
  write_record_header(header, key, into);
}

void encode_record_header(RecordHeader& header, Parts payload, std::uint64_t key,
                          std::span<std::byte, kRecordHeaderBytes> into) {
  header.payload_bytes = 0;
  for (const auto& part : payload) header.payload_bytes += part.size();
  header.payload_checksum = checksum(payload, key + header.offset);
  write_record_header(header, key, into);
}

bool looks_like_record(std::span<const std::byte, kRecordHeaderBytes> block, std::uint64_t key, std::uint64_t offset) {
  return load_le<std::uint32_t>(block.data()) == kRecordMagic &&
         load_le<std::uint64_t>(block.data() + kHeaderChecksumAt) ==
             checksum(block.first(kHeaderChecksumAt), key + offset) &&
         load_le<std::uint64_t>(block.data() + kOffsetAt) == offset;
}

Result<RecordHeader> decode_record_header(std::span<const std::byte, kRecordHeaderBytes> block, std::uint64_t key,
                                          const StoredAt& at, std::uint64_t limit_bytes) {
  if (!looks_like_record(block, key, at.offset))
    return damaged("the record", at, "there is no valid record header at this place");
  const std::byte* from = block.data();
  const auto type = load_le<std::uint16_t>(from + kTypeAt);
  const auto flags = load_le<std::uint16_t>(from + kFlagsAt);
  if (type < static_cast<std::uint16_t>(RecordType::frame) || type > static_cast<std::uint16_t>(RecordType::footer))
    return unknown_to_us("the record", at, fmt::format("its type is {}, which this version does not know", type));
  if (flags != 0 || load_le<std::uint32_t>(from + kReservedAt) != 0 || load_le<std::uint64_t>(from + kReserved2At) != 0)
    return unknown_to_us("the record", at, fmt::format("it has flags ({:#x}) that this version does not know", flags));
  RecordHeader header;
  header.type = static_cast<RecordType>(type);
  header.payload_bytes = load_le<std::uint64_t>(from + kPayloadBytesAt);
  header.nonce = load_le<std::uint64_t>(from + kNonceAt);
  header.ordinal = load_le<std::uint32_t>(from + kOrdinalAt);
  header.offset = at.offset;
  header.payload_checksum = load_le<std::uint64_t>(from + kPayloadChecksumAt);
  header.header_checksum = load_le<std::uint64_t>(from + kHeaderChecksumAt);
  if (header.payload_bytes > limit_bytes)
    return damaged("the record", at,
                   fmt::format("its payload has {} bytes, and the file ends {} bytes behind its header",
                               header.payload_bytes, limit_bytes));
  return header;
}

bool payload_matches(const RecordHeader& header, std::span<const std::byte> payload, std::uint64_t key) {
  return payload.size() == header.payload_bytes && checksum(payload, key + header.offset) == header.payload_checksum;
}

std::uint64_t combine_checksums(std::uint64_t combined, std::uint64_t header_checksum, std::uint64_t key) {
  std::array<std::byte, 16> both;
  store_le<std::uint64_t>(both.data(), combined);
  store_le<std::uint64_t>(both.data() + 8, header_checksum);
  return checksum(both, key);
}

void encode_commit_block(const CommitBlock& block, std::span<std::byte, kCommitBlockBytes> into) {
  store_le<std::uint64_t>(into.data(), block.begin);
  store_le<std::uint32_t>(into.data() + 8, block.records);
  store_le<std::uint32_t>(into.data() + 12, 0);
  store_le<std::uint64_t>(into.data() + 16, block.combined);
  store_le<std::uint64_t>(into.data() + 24, block.written_bytes);
  store_le<std::uint64_t>(into.data() + 32, block.raw_bytes);
  store_le<std::uint64_t>(into.data() + 40, block.new_chunks);
}

Result<CommitBlock> decode_commit_block(std::span<const std::byte> payload, const StoredAt& at) {
  ByteReader in(payload);
  CommitBlock block;
  block.begin = in.get<std::uint64_t>();
  block.records = in.get<std::uint32_t>();
  const auto reserved = in.get<std::uint32_t>();
  block.combined = in.get<std::uint64_t>();
  block.written_bytes = in.get<std::uint64_t>();
  block.raw_bytes = in.get<std::uint64_t>();
  block.new_chunks = in.get<std::uint64_t>();
  if (!in.ok() || reserved != 0) return damaged("the commit block", at, "it is too short or not well-formed");
  return block;
}

}  // namespace varve::storage
