// SPDX-License-Identifier: Apache-2.0
#include "tests/support/differences.h"

#include "base/check.h"
#include "storage/frame.h"
#include "storage/inventory.h"
#include "storage/segment_load.h"
#include "storage/store_file.h"

namespace varve::test {
namespace {

using namespace storage;

struct Names {
  std::set<ChunkName> plain;
  std::set<ChunkName> differing;
};

void look_at(Io& io, const StoreIdentity& identity, const LoadedSegment& segment, Differences& found, Names& names) {
  auto file = io.open(to_string(segment.name), OpenMode::read);
  VARVE_CHECK(file.has_value());
  WindowReader reader(**file, segment.content.end);
  for (const FooterFrame& frame : segment.content.frames) {
    auto record = reader.at(frame.offset, frame.bytes);
    VARVE_CHECK(record.has_value());
    const StoredAt at{"a segment", frame.offset};
    auto header =
        decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(record->data(), kRecordHeaderBytes),
                             record_key(identity.id, segment.header.incarnation), at, frame.bytes);
    VARVE_CHECK(header.has_value());
    auto view = parse_frame(record->subspan(kRecordHeaderBytes, static_cast<std::size_t>(header->payload_bytes)),
                            identity.chunk_bytes, at);
    VARVE_CHECK(view.has_value());
    VARVE_CHECK(view->is_difference() == frame.difference);
    for (std::uint32_t i = 0; i < view->chunks; ++i) {
      (frame.difference ? names.differing : names.plain).insert(view->chunk(i).name);
      if (view->base(i) != kNoBase) found.bases.insert(view->base(i));
      ++(view->base(i) != kNoBase ? found.chunks : found.plain_chunks);
    }
  }
}

}  // namespace

Differences look_for_differences(Io& io) {
  Differences found;
  auto identity = read_store_file(io);
  auto files = list_segments(io);
  VARVE_CHECK(identity.has_value() && files.has_value());
  auto segments = load_segments(io, *identity, nullptr, *files);
  VARVE_CHECK(segments.has_value());
  Names names;
  for (const LoadedSegment& segment : *segments) look_at(io, *identity, segment, found, names);
  for (const ChunkName& base : found.bases) {
    if (names.plain.contains(base)) continue;
    (names.differing.contains(base) ? found.deep : found.lacking).insert(base);
  }
  return found;
}

}  // namespace varve::test
