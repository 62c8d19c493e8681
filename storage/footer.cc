// SPDX-License-Identifier: Apache-2.0
#include "storage/footer.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "storage/byte_codec.h"

namespace varve::storage {
namespace {

constexpr std::string_view kTrailerMagic = "varvtrlr";
constexpr std::uint64_t kTrailerSeed = 0x766172766574726c;
constexpr std::size_t kTrailerChecksumAt = kTrailerBytes - 8;
constexpr std::size_t kFrameMinBytes = 16;
constexpr std::uint32_t kDifferenceBit = std::uint32_t{1} << 31;  // of a frame's number of chunks
constexpr std::size_t kImageMinBytes = 8 * 8 + 3;
constexpr std::size_t kNoteMinBytes = 12;

bool decode_frames(ByteReader& in, std::uint32_t count, Footer& footer) {
  if (!in.holds(count, kFrameMinBytes)) return false;
  footer.frames.reserve(count);
  std::uint64_t least = kSegmentHeaderBytes;
  for (std::uint32_t i = 0; i < count; ++i) {
    FooterFrame frame;
    frame.offset = in.get<std::uint64_t>();
    frame.bytes = in.get<std::uint32_t>();
    const auto chunks = in.get<std::uint32_t>();
    frame.chunks = chunks & ~kDifferenceBit;
    frame.difference = (chunks & kDifferenceBit) != 0;
    const bool placed = frame.offset >= least && frame.offset % kRecordAlignment == 0 && frame.offset <= footer.end &&
                        frame.bytes <= footer.end - frame.offset;
    if (!in.ok() || !placed || frame.chunks == 0 || frame.chunks > kFrameChunks) return false;
    if (!in.names(frame.chunks, footer.names)) return false;
    least = frame.offset + frame.bytes;
    footer.frames.push_back(frame);
  }
  return true;
}

bool decode_images(ByteReader& in, std::uint32_t count, Footer& footer) {
  if (!in.holds(count, kImageMinBytes)) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    FooterImage image;
    image.offset = in.get<std::uint64_t>();
    image.number = in.get<std::uint64_t>();
    image.parent = in.get<std::uint64_t>();
    image.revision = in.get<std::uint64_t>();
    image.time_ns = in.get<std::uint64_t>();
    image.region_bytes = in.get<std::uint64_t>();
    image.begin = in.get<std::uint64_t>();
    image.written_bytes = in.get<std::uint64_t>();
    const auto kind = in.get<std::uint8_t>();
    image.label = in.string();
    const bool placed =
        image.offset % kRecordAlignment == 0 && image.offset >= kSegmentHeaderBytes && image.offset < footer.end;
    const bool valid = image.number != 0 && image.number <= kMaxImageNumber && image.parent < image.number &&
                       (kind == 1 || kind == 2) && (image.label.empty() || check_label(image.label).has_value());
    if (!in.ok() || !placed || !valid) return false;
    image.kind = static_cast<ImageKind>(kind);
    footer.images.push_back(std::move(image));
  }
  return true;
}

bool decode_notes(ByteReader& in, std::uint32_t count, Footer& footer) {
  if (!in.holds(count, kNoteMinBytes)) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    FooterNote note;
    note.offset = in.get<std::uint64_t>();
    const std::span<const std::byte> content = in.take(in.get<std::uint32_t>());
    if (!in.ok()) return false;
    note.content.assign(content.begin(), content.end());
    footer.notes.push_back(std::move(note));
  }
  return true;
}

std::uint64_t trailer_seed(const StoreId& store) { return checksum(store, kTrailerSeed); }

}  // namespace

std::uint64_t Footer::memory_bytes() const {
  return frames.capacity() * sizeof(FooterFrame) + names.capacity() * sizeof(ChunkName) +
         images.capacity() * sizeof(FooterImage) + notes.capacity() * sizeof(FooterNote);
}

FooterImage summarize(const Manifest& manifest, const CommitBlock& commit, std::uint64_t offset) {
  FooterImage image;
  image.offset = offset;
  image.number = manifest.number;
  image.parent = manifest.parent;
  image.revision = manifest.revision;
  image.time_ns = manifest.time_ns;
  for (const RegionRecord& region : manifest.regions) image.region_bytes += region.bytes;
  image.begin = commit.begin;
  image.written_bytes = commit.written_bytes;
  image.kind = manifest.kind;
  image.label = manifest.label;
  return image;
}

std::vector<std::byte> encode_footer(const Footer& footer) {
  std::vector<std::byte> content;
  content.reserve(footer.names.size() * sizeof(ChunkName) + footer.frames.size() * kFrameMinBytes +
                  footer.images.size() * 2 * kImageMinBytes + kBlockBytes);
  ByteWriter out(content);
  out.put<std::uint64_t>(footer.generation);
  out.put<std::uint64_t>(footer.end);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(footer.frames.size()));
  out.put<std::uint32_t>(static_cast<std::uint32_t>(footer.images.size()));
  out.put<std::uint32_t>(static_cast<std::uint32_t>(footer.notes.size()));
  out.put<std::uint32_t>(static_cast<std::uint32_t>(footer.chain.size()));
  out.text(footer.chain);
  std::span<const ChunkName> names(footer.names);
  for (const FooterFrame& frame : footer.frames) {
    out.put<std::uint64_t>(frame.offset);
    out.put<std::uint32_t>(frame.bytes);
    out.put<std::uint32_t>(frame.chunks | (frame.difference ? kDifferenceBit : 0));
    out.names(names.first(frame.chunks));
    names = names.subspan(frame.chunks);
  }
  for (const FooterImage& image : footer.images) {
    for (const std::uint64_t field : {image.offset, image.number, image.parent, image.revision, image.time_ns,
                                      image.region_bytes, image.begin, image.written_bytes})
      out.put<std::uint64_t>(field);
    out.put<std::uint8_t>(static_cast<std::uint8_t>(image.kind));
    out.string(image.label);
  }
  for (const FooterNote& note : footer.notes) {
    out.put<std::uint64_t>(note.offset);
    out.put<std::uint32_t>(static_cast<std::uint32_t>(note.content.size()));
    out.bytes(note.content);
  }
  return content;
}

Result<Footer> decode_footer(std::span<const std::byte> payload, const StoredAt& at) {
  ByteReader in(payload);
  Footer footer;
  footer.generation = in.get<std::uint64_t>();
  footer.end = in.get<std::uint64_t>();
  const auto frames = in.get<std::uint32_t>();
  const auto images = in.get<std::uint32_t>();
  const auto notes = in.get<std::uint32_t>();
  footer.chain = in.text(in.get<std::uint32_t>());
  if (!in.ok() || !check_chain_name(footer.chain) || footer.end % kBlockBytes != 0)
    return damaged("the footer", at, "its fixed part is not well-formed");
  if (!decode_frames(in, frames, footer)) return damaged("the footer", at, "its list of frames is not well-formed");
  if (!decode_images(in, images, footer)) return damaged("the footer", at, "its list of images is not well-formed");
  if (!decode_notes(in, notes, footer) || !in.at_end())
    return damaged("the footer", at, "its list of notes is not well-formed");
  return footer;
}

void encode_trailer(const Trailer& trailer, const StoreId& store, std::span<std::byte, kTrailerBytes> into) {
  std::byte* to = into.data();
  std::memcpy(to, kTrailerMagic.data(), kTrailerMagic.size());
  store_le<std::uint64_t>(to + 8, trailer.footer_offset);
  store_le<std::uint64_t>(to + 16, trailer.footer_bytes);
  store_le<std::uint64_t>(to + 24, trailer.file_bytes);
  store_le<std::uint64_t>(to + 32, trailer.footer_checksum);
  std::ranges::copy(trailer.incarnation, to + 40);
  store_le<std::uint64_t>(to + kTrailerChecksumAt, checksum(into.first(kTrailerChecksumAt), trailer_seed(store)));
}

Result<Trailer> decode_trailer(std::span<const std::byte> bytes, const StoreId& store, const StoredAt& at) {
  constexpr std::string_view kObject = "the segment's trailer";
  if (bytes.size() != kTrailerBytes) return damaged(kObject, at, "it is too short");
  ByteReader in(bytes);
  if (in.text(kTrailerMagic.size()) != kTrailerMagic) return damaged(kObject, at, "there is none");
  if (load_le<std::uint64_t>(bytes.data() + kTrailerChecksumAt) !=
      checksum(bytes.first(kTrailerChecksumAt), trailer_seed(store)))
    return damaged(kObject, at, "its checksum is wrong");
  Trailer trailer;
  trailer.footer_offset = in.get<std::uint64_t>();
  trailer.footer_bytes = in.get<std::uint64_t>();
  trailer.file_bytes = in.get<std::uint64_t>();
  trailer.footer_checksum = in.get<std::uint64_t>();
  std::ranges::copy(in.take(trailer.incarnation.size()), trailer.incarnation.begin());
  const std::uint64_t end = at.offset + kTrailerBytes;
  const std::uint64_t begin = trailer.footer_offset;
  if (trailer.file_bytes != end || begin < kSegmentHeaderBytes || begin % kBlockBytes != 0 || begin >= at.offset ||
      trailer.footer_bytes > at.offset - begin || at.offset - begin - trailer.footer_bytes < kRecordHeaderBytes)
    return damaged(kObject, at,
                   fmt::format("a footer of {} bytes at {} and a file of {} bytes do not fit together",
                               trailer.footer_bytes, begin, trailer.file_bytes));
  return trailer;
}

std::vector<std::byte> encode_seal(const Footer& footer, const SegmentHeader& header, std::uint64_t nonce,
                                   Trailer& trailer) {
  const std::vector<std::byte> payload = encode_footer(footer);
  RecordHeader record;
  record.type = RecordType::footer;
  record.nonce = nonce;
  record.offset = footer.end;
  std::vector<std::byte> content(kRecordHeaderBytes);
  content.reserve(round_up(payload.size() + kRecordHeaderBytes + kTrailerBytes, kBlockBytes));
  encode_record_header(record, payload, record_key(header.store, header.incarnation),
                       std::span<std::byte, kRecordHeaderBytes>(content));
  content.insert(content.end(), payload.begin(), payload.end());
  content.resize(round_up(content.size() + kTrailerBytes, kBlockBytes));
  trailer.footer_offset = footer.end;
  trailer.footer_bytes = payload.size();
  trailer.file_bytes = footer.end + content.size();
  trailer.footer_checksum = record.header_checksum;
  trailer.incarnation = header.incarnation;
  encode_trailer(trailer, header.store,
                 std::span<std::byte, kTrailerBytes>(content.data() + content.size() - kTrailerBytes, kTrailerBytes));
  return content;
}

}  // namespace varve::storage
