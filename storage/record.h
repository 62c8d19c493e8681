// SPDX-License-Identifier: Apache-2.0
//
// Headers of segments and records, and the commit block: the skeleton of a segment (docs/formats/segment.md). Values.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "storage/chunk_name.h"
#include "storage/format.h"
#include "storage/inventory.h"

namespace varve::storage {

inline constexpr std::size_t kSegmentHeaderBytes = 4096;
inline constexpr std::size_t kRecordHeaderBytes = 64;
inline constexpr std::size_t kCommitBlockBytes = 48;

struct SegmentHeader {
  StoreId store{};
  Incarnation incarnation{};
  SegmentName name;
  std::uint64_t generation = 0;  ///< of the inventory when the file was made
  std::uint64_t time_ns = 0;
  std::string chain;
  friend bool operator==(const SegmentHeader&, const SegmentHeader&) = default;
};

std::vector<std::byte> encode_segment_header(const SegmentHeader& header);
/// `file` is for messages.
Result<SegmentHeader> decode_segment_header(std::span<const std::byte> block, std::string_view file);

/// Keys checksums of records to store and incarnation; the offset is added to it.
std::uint64_t record_key(const StoreId& store, const Incarnation& incarnation);

enum class RecordType : std::uint16_t { frame = 1, manifest = 2, note = 3, footer = 4 };

struct RecordHeader {
  RecordType type = RecordType::frame;
  std::uint64_t payload_bytes = 0;
  std::uint64_t nonce = 0;
  std::uint32_t ordinal = 0;
  std::uint64_t offset = 0;
  std::uint64_t payload_checksum = 0;
  std::uint64_t header_checksum = 0;  ///< out: of encode and decode
};

/// Whether the record ends a commit.
constexpr bool closes(RecordType type) { return type == RecordType::manifest || type == RecordType::note; }
/// Length in the file, padding to the next record included.
constexpr std::uint64_t record_bytes(const RecordHeader& header) {
  const std::uint64_t bytes = kRecordHeaderBytes + header.payload_bytes;
  return (bytes + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
}

/// Fills in payload_bytes, payload_checksum and header_checksum, and writes the 64 bytes.
void encode_record_header(RecordHeader& header, std::span<const std::byte> payload, std::uint64_t key,
                          std::span<std::byte, kRecordHeaderBytes> into);
void encode_record_header(RecordHeader& header, Parts payload, std::uint64_t key,
                          std::span<std::byte, kRecordHeaderBytes> into);
/// Checks magic, checksum, own offset and type. Payload lengths are at most `limit_bytes`, what the file still holds.
Result<RecordHeader> decode_record_header(std::span<const std::byte, kRecordHeaderBytes> block, std::uint64_t key,
                                          const StoredAt& at, std::uint64_t limit_bytes);
/// The same without a message: for scans, which try many places.
bool looks_like_record(std::span<const std::byte, kRecordHeaderBytes> block, std::uint64_t key, std::uint64_t offset);
bool payload_matches(const RecordHeader& header, std::span<const std::byte> payload, std::uint64_t key);

struct CommitBlock {
  std::uint64_t begin = 0;
  std::uint32_t records = 0;  ///< before the closing one
  std::uint64_t combined = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t raw_bytes = 0;
  std::uint64_t new_chunks = 0;
};

std::uint64_t combine_checksums(std::uint64_t combined, std::uint64_t header_checksum, std::uint64_t key);
void encode_commit_block(const CommitBlock& block, std::span<std::byte, kCommitBlockBytes> into);
Result<CommitBlock> decode_commit_block(std::span<const std::byte> payload, const StoredAt& at);

}  // namespace varve::storage
