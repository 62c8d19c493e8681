// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_load.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/fault_point.h"
#include "base/try.h"
#include "storage/aligned_buffer.h"

namespace varve::storage {
namespace {

std::string sentence(const Error& error) { return error.what() + ": " + error.cause(); }

void append_commit(ScannedCommit&& commit, Footer& content) {
  for (const ScannedFrame& frame : commit.frames) content.frames.push_back(frame.frame);
  content.names.insert(content.names.end(), commit.names.begin(), commit.names.end());
  if (commit.image) content.images.push_back(std::move(*commit.image));
  if (commit.note) content.notes.push_back(std::move(*commit.note));
  content.end = commit.end;
}

/// Without its header a sealed segment is still readable: footer and trailer know what matters.
SegmentHeader header_from(const FoundFooter& found, const StoreId& store, const SegmentName& name) {
  SegmentHeader header;
  header.store = store;
  header.incarnation = found.trailer.incarnation;
  header.name = name;
  header.chain = found.footer.chain;
  return header;
}

void accept_footer(LoadedSegment& segment, SegmentFile& file, FoundFooter&& found, const StoreId& store) {
  segment.state = SegmentState::sealed;
  segment.header = file.header ? *file.header : header_from(found, store, segment.name);
  segment.content = std::move(found.footer);
  segment.footer_checksum = found.trailer.footer_checksum;
}

/// A segment that has no valid footer: sealed by a note, open, or damaged.
Status load_unsealed(Io& io, const StoreIdentity& identity, const Inventory* inventory,
                     const std::map<SegmentName, SealedElsewhere>& seals, LoadedSegment& segment, SegmentFile& file,
                     const std::string& why) {
  if (const auto seal = seals.find(segment.name); seal != seals.end()) {
    const std::string file_name = to_string(segment.name);
    VARVE_TRY_ASSIGN(segment.content, decode_footer(seal->second.footer, {file_name, seal->second.end}));
    segment.state = SegmentState::sealed_elsewhere;
    segment.header = file.header.value_or(
        SegmentHeader{identity.id, seal->second.incarnation, segment.name, 0, 0, segment.content.chain});
    if (file.bytes < segment.content.end)
      segment.damage.push_back(
          fmt::format("{} has {} bytes instead of {}", to_string(segment.name), file.bytes, segment.content.end));
    return {};
  }
  if (!file.header) {  // nothing in it can be checked
    segment.unreadable = true;
    segment.read_errno = file.read_errno;
    return {};
  }
  segment.header = *file.header;
  std::uint64_t end = file.bytes;
  if (inventory != nullptr) {
    if (const auto listed = inventory->segments.find(segment.name); listed != inventory->segments.end()) {
      // What was sealed once is never sealed again elsewhere: its bytes stay as they are.
      segment.state = SegmentState::sealed_elsewhere;
      if (listed->second.footer_checksum == 0)
        end = std::min(end, listed->second.bytes);
      else
        segment.damage.push_back(why);
    }
  }
  segment.content.chain = segment.header.chain;
  if (segment.state == SegmentState::open && !flush_for_reading(io, segment.name)) {
    // Its images are not listed, since nobody can make sure of them. Its chunks are: images of other chains may name
    // them, and whoever reads one checks it.
    segment.unscanned = true;
    VARVE_TRY(scan_into(segment, file, kSegmentHeaderBytes, end, identity.chunk_bytes));
    segment.content.images.clear();
    segment.content.notes.clear();
    return {};
  }
  return scan_into(segment, file, kSegmentHeaderBytes, end, identity.chunk_bytes);
}

/// Compares with the inventory what a sealed segment turned out to be.
void compare(LoadedSegment& segment, const Inventory& inventory) {
  const std::string file = to_string(segment.name);
  const auto listed = inventory.segments.find(segment.name);
  if (listed == inventory.segments.end() || listed->second.footer_checksum == 0) return;
  if (segment.file_bytes != listed->second.bytes)
    segment.damage.push_back(
        fmt::format("{} has {} bytes, and {} in the inventory", file, segment.file_bytes, listed->second.bytes));
  else if (segment.state == SegmentState::sealed && segment.footer_checksum != listed->second.footer_checksum)
    segment.damage.push_back(fmt::format("{} has another footer than the inventory says", file));
}

}  // namespace

Result<SegmentFile> open_segment(Io& io, const StoreId& store, const SegmentName& name, OpenMode mode) {
  const std::string file = to_string(name);
  SegmentFile segment;
  VARVE_TRY_ASSIGN(segment.file, io.open(file, mode));
  VARVE_TRY_ASSIGN(segment.bytes, segment.file->size_bytes());
  AlignedBuffer block(kSegmentHeaderBytes);
  const auto got = segment.file->read(0, block.span());
  if (!got && !medium_failed(got.error())) return got.error();
  auto header = got ? decode_segment_header(block.span().first(*got), file) : Result<SegmentHeader>(got.error());
  if (!header && !is_damage(header.error())) return header.error();
  if (!header) {
    segment.damage.push_back(sentence(header.error()));
    segment.read_errno = header.error().os_errno();
  } else if (header->store != store) {
    segment.damage.push_back(fmt::format("{} belongs to store {}", file, to_hex(header->store)));
  } else if (header->name != name) {
    segment.damage.push_back(fmt::format("{} was made as {}", file, to_string(header->name)));
  } else {
    segment.header = std::move(*header);
  }
  return segment;
}

Result<FoundFooter> read_footer(SegmentFile& segment, const StoreId& store) {
  const std::string& name = segment.file->name();
  if (segment.bytes < kSegmentHeaderBytes + kBlockBytes || segment.bytes % kBlockBytes != 0)
    return damaged("the segment's trailer", {name, segment.bytes},
                   "there is none: the length is no multiple of a block");
  WindowReader reader(*segment.file, segment.bytes);
  FoundFooter found;
  const StoredAt at_trailer{name, segment.bytes - kTrailerBytes};
  VARVE_TRY_ASSIGN(const std::span<const std::byte> trailer, reader.at(at_trailer.offset, kTrailerBytes));
  VARVE_TRY_ASSIGN(found.trailer, decode_trailer(trailer, store, at_trailer));
  const StoredAt at{name, found.trailer.footer_offset};
  if (segment.header && segment.header->incarnation != found.trailer.incarnation)
    return damaged("the segment's trailer", at_trailer, "it belongs to another life of this file");
  const std::uint64_t key = record_key(store, found.trailer.incarnation);
  VARVE_TRY_ASSIGN(const std::span<const std::byte> record,
                   reader.at(at.offset, kRecordHeaderBytes + found.trailer.footer_bytes));
  VARVE_TRY_ASSIGN(const RecordHeader header, decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(
                                                                       record.data(), kRecordHeaderBytes),
                                                                   key, at, found.trailer.footer_bytes));
  const std::span<const std::byte> payload = record.subspan(kRecordHeaderBytes);
  if (header.type != RecordType::footer || header.header_checksum != found.trailer.footer_checksum ||
      !payload_matches(header, payload, key))
    return damaged("the footer", at, "its checksum is wrong");
  VARVE_TRY_ASSIGN(found.footer, decode_footer(payload, at));
  if (found.footer.end != at.offset) return damaged("the footer", at, "it lies at another place than it says");
  return found;
}

Status scan_into(LoadedSegment& segment, SegmentFile& file, std::uint64_t from, std::uint64_t end,
                 std::uint32_t chunk_bytes) {
  const std::uint64_t key = record_key(segment.header.store, segment.header.incarnation);
  SegmentScanner scanner(*file.file, key, from, std::max(from, end), {chunk_bytes, nullptr});
  std::optional<std::uint64_t> bad_from;  // damage if a commit is accepted behind it
  std::optional<std::uint64_t> looked_again;
  for (;;) {
    VARVE_TRY_ASSIGN(std::optional<ScannedCommit> commit, scanner.next());
    if (!commit) return {};
    if (commit->gap_begin != commit->begin && !bad_from) bad_from = commit->gap_begin;
    if (!commit->accepted()) {
      if (!bad_from) bad_from = commit->begin;
      continue;
    }
    if (bad_from && bad_from != looked_again) {
      looked_again = bad_from;
      bad_from.reset();
      scanner.look_again(*looked_again);
      continue;
    }
    if (bad_from)
      segment.damage.push_back(fmt::format("{} holds no valid records in the {} bytes from offset {} on",
                                           file.file->name(), commit->begin - *bad_from, *bad_from));
    bad_from.reset();
    append_commit(std::move(*commit), segment.content);
  }
}

bool flush_for_reading(Io& io, const SegmentName& name) {
  auto file = io.open(to_string(name), OpenMode::write);
  if (!file) return file.error().os_errno() == EROFS;  // nobody can be writing there
  return (*file)->sync().has_value();
}

Status seal_file(Io& io, LoadedSegment& segment, File& file, std::uint64_t generation) {
  segment.content.generation = generation;
  segment.content.chain = segment.header.chain;
  Trailer trailer;
  const std::vector<std::byte> seal = encode_seal(segment.content, segment.header, io.random_number(), trailer);
  AlignedBuffer buffer(seal.size());
  std::memcpy(buffer.data(), seal.data(), seal.size());
  VARVE_TRY(file.submit_write(segment.content.end, buffer.span()));
  VARVE_TRY(file.drain());
  VARVE_FAULT_POINT(segment_footer_written);
  VARVE_TRY(file.truncate(trailer.file_bytes));
  VARVE_TRY(file.sync());
  VARVE_FAULT_POINT(segment_sealed);
  segment.state = SegmentState::sealed;
  segment.file_bytes = trailer.file_bytes;
  segment.footer_checksum = trailer.footer_checksum;
  return {};
}

namespace {

/// Takes the seal notes out of a segment's content; notes that do not decode are damage.
Status collect_seals(LoadedSegment& segment, std::map<SegmentName, SealedElsewhere>& seals) {
  const std::string file = to_string(segment.name);
  for (const FooterNote& content : segment.content.notes) {
    auto note = decode_note(content.content, {file, content.offset});
    if (!note && !is_damage(note.error())) return note.error();
    if (!note)
      segment.damage.push_back(sentence(note.error()));
    else if (note->kind == NoteKind::seal)
      seals.insert_or_assign(note->seal.name, std::move(note->seal));
  }
  return {};
}

/// Empty: the file is gone, collected since it was listed.
Result<std::optional<LoadedSegment>> load_segment(Io& io, const StoreIdentity& identity, const Inventory* inventory,
                                                  const std::map<SegmentName, SealedElsewhere>& seals,
                                                  const SegmentName& name) {
  LoadedSegment segment;
  segment.name = name;
  auto opened = open_segment(io, identity.id, name, OpenMode::read);
  if (!opened && opened.error().code() == ErrorCode::not_found) return std::optional<LoadedSegment>();
  if (!opened) {
    if (!is_damage(opened.error())) return opened.error();
    segment.damage.push_back(sentence(opened.error()));
    segment.unreadable = segment.unopened = true;
    segment.read_errno = opened.error().os_errno();
    return std::optional<LoadedSegment>(std::move(segment));
  }
  segment.file_bytes = opened->bytes;
  segment.damage = std::move(opened->damage);
  auto found = read_footer(*opened, identity.id);
  if (found) {
    accept_footer(segment, *opened, std::move(*found), identity.id);
  } else if (!is_damage(found.error())) {
    return found.error();
  } else if (auto rest = load_unsealed(io, identity, inventory, seals, segment, *opened, sentence(found.error()));
             !rest) {
    if (!is_damage(rest.error())) return rest.error();
    segment.damage.push_back(sentence(rest.error()));
    segment.unreadable = true;
    segment.read_errno = rest.error().os_errno();
  }
  if (inventory != nullptr) compare(segment, *inventory);
  return std::optional<LoadedSegment>(std::move(segment));
}

/// Whether a segment has another length by now: its writer sealed it while it was read.
bool changed_meanwhile(Io& io, const LoadedSegment& segment) {
  const auto file = io.open(to_string(segment.name), OpenMode::read);
  if (!file) return file.error().code() == ErrorCode::not_found;
  const auto bytes = (*file)->size_bytes();
  return bytes && *bytes != segment.file_bytes;
}

}  // namespace

Result<std::vector<LoadedSegment>> load_segments(Io& io, const StoreIdentity& identity, const Inventory* inventory,
                                                 std::vector<SegmentName> names) {
  constexpr int kMaxTries = 3;  // a segment is sealed once, and removed once
  std::vector<LoadedSegment> loaded;
  std::map<SegmentName, SealedElsewhere> seals;
  // A writer's later segments first: their notes tell where an earlier one ends.
  std::ranges::sort(names, std::greater<>());
  for (const SegmentName& name : names) {
    for (int tries = 1;; ++tries) {
      VARVE_TRY_ASSIGN(std::optional<LoadedSegment> segment, load_segment(io, identity, inventory, seals, name));
      if (!segment) break;
      if (!segment->damage.empty() && tries < kMaxTries && changed_meanwhile(io, *segment)) continue;
      VARVE_TRY(collect_seals(*segment, seals));
      loaded.push_back(std::move(*segment));
      break;
    }
  }
  std::ranges::reverse(loaded);
  return loaded;
}

Result<std::vector<SegmentName>> list_segments(Io& io) {
  VARVE_TRY_ASSIGN(const std::vector<std::string> files, io.list(kSegmentFolder));
  std::vector<SegmentName> names;
  for (const std::string& file : files)
    if (SegmentName name; parse_segment_name(file, name)) names.push_back(name);
  std::ranges::sort(names);
  return names;
}

}  // namespace varve::storage
