// SPDX-License-Identifier: Apache-2.0
//
// The footer of a sealed segment and its trailer (docs/formats/segment.md): what opening a store reads instead of the
// records. Values.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "storage/format.h"
#include "storage/manifest.h"
#include "storage/record.h"
#include "storage/store.h"

namespace varve::storage {

struct FooterFrame {
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;   ///< of the record with its padding
  std::uint32_t chunks = 0;  ///< takes that many of Footer::names
  bool difference = false;   ///< its chunks need others (Filter::difference)
  friend bool operator==(const FooterFrame&, const FooterFrame&) = default;
};

struct FooterNote {
  std::uint64_t offset = 0;
  std::vector<std::byte> content;  ///< without the commit block
  friend bool operator==(const FooterNote&, const FooterNote&) = default;
};

struct FooterImage {
  std::uint64_t offset = 0;  ///< of the manifest record
  std::uint64_t number = 0;
  std::uint64_t parent = 0;
  std::uint64_t revision = 0;
  std::uint64_t time_ns = 0;
  std::uint64_t region_bytes = 0;
  std::uint64_t begin = 0;          ///< of the commit
  std::uint64_t written_bytes = 0;  ///< of the commit
  ImageKind kind = ImageKind::full;
  std::string label;
  friend bool operator==(const FooterImage&, const FooterImage&) = default;
};

/// What a manifest contributes to a footer.
FooterImage summarize(const Manifest& manifest, const CommitBlock& commit, std::uint64_t offset);

/// The content of a segment: built while it is written or scanned, read from its footer otherwise.
struct Footer {
  std::uint64_t generation = 0;
  std::uint64_t end = kSegmentHeaderBytes;
  std::string chain;
  std::vector<FooterFrame> frames;  ///< ascending
  std::vector<ChunkName> names;     ///< of all frames
  std::vector<FooterImage> images;  ///< ascending by offset
  std::vector<FooterNote> notes;
  friend bool operator==(const Footer&, const Footer&) = default;

  std::uint64_t memory_bytes() const;
};

std::vector<std::byte> encode_footer(const Footer& footer);
Result<Footer> decode_footer(std::span<const std::byte> payload, const StoredAt& at);

inline constexpr std::size_t kTrailerBytes = 64;

struct Trailer {
  std::uint64_t footer_offset = 0;
  std::uint64_t footer_bytes = 0;  ///< of the payload
  std::uint64_t file_bytes = 0;
  std::uint64_t footer_checksum = 0;  ///< checksum field of the footer record's header
  Incarnation incarnation{};
};

void encode_trailer(const Trailer& trailer, const StoreId& store, std::span<std::byte, kTrailerBytes> into);
Result<Trailer> decode_trailer(std::span<const std::byte> bytes, const StoreId& store, const StoredAt& at);

/// All bytes that seal a segment at `footer.end`: footer record, zeros, trailer. `nonce`: random.
std::vector<std::byte> encode_seal(const Footer& footer, const SegmentHeader& header, std::uint64_t nonce,
                                   Trailer& trailer);

}  // namespace varve::storage
