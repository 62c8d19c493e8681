// SPDX-License-Identifier: Apache-2.0
//
// Reading what a segment holds: by its footer when it is sealed, else by a scan (docs/formats/segment.md). Free
// functions; any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/footer.h"
#include "storage/inventory.h"
#include "storage/note.h"
#include "storage/record.h"
#include "storage/segment_scan.h"
#include "storage/store_file.h"

namespace varve::storage {

enum class SegmentState : std::uint8_t {
  sealed,            ///< by its own footer
  sealed_elsewhere,  ///< by a note in another segment
  open,              ///< a writer lives, or was killed
};

struct LoadedSegment {
  SegmentName name;
  SegmentHeader header;
  SegmentState state = SegmentState::open;
  Footer content;
  std::uint64_t file_bytes = 0;
  std::uint64_t footer_checksum = 0;
  bool unreadable = false;  ///< nobody can say which images it holds
  bool unopened = false;    ///< not even how long it is
  int read_errno = 0;       ///< why it is unreadable, where the medium failed; else its content is wrong
  bool unscanned = false;   ///< it may not be flushed here, so that nothing of it is listed
  std::vector<std::string> damage;
};

/// An opened segment whose header was read.
struct SegmentFile {
  std::unique_ptr<File> file;
  std::uint64_t bytes = 0;
  std::optional<SegmentHeader> header;  ///< empty: damaged, and `damage` says how
  int read_errno = 0;                   ///< it could not be read
  std::vector<std::string> damage;
};

/// Errors: of opening and reading, and `unsupported` for a newer format.
Result<SegmentFile> open_segment(Io& io, const StoreId& store, const SegmentName& name, OpenMode mode);

struct FoundFooter {
  Footer footer;
  Trailer trailer;
};
/// The footer at the file's end. `corruption` when there is none, or it is damaged.
Result<FoundFooter> read_footer(SegmentFile& segment, const StoreId& store);

/// Scans [from, end) and appends what is accepted to `segment`, whose content.end says up to where. Damage that an
/// accepted commit follows goes to segment.damage. REQUIRES: segment.header is valid.
Status scan_into(LoadedSegment& segment, SegmentFile& file, std::uint64_t from, std::uint64_t end,
                 std::uint32_t chunk_bytes);

/// Makes what a living writer of another process has written durable, so that it may be listed. False when that is not
/// permitted: then nothing of the open segment is.
bool flush_for_reading(Io& io, const SegmentName& name);

/// Seals a segment at segment.content.end: footer, truncation, flush. Updates `segment`. REQUIRES: the writer is gone
/// (the chain's lock is held), and all before that end is durable.
Status seal_file(Io& io, LoadedSegment& segment, File& file, std::uint64_t generation);

/// Loads all these segments; open ones as flush_for_reading() permits. `inventory`: null when it is damaged. Segments
/// that can't be read at all are returned empty, with their damage.
Result<std::vector<LoadedSegment>> load_segments(Io& io, const StoreIdentity& identity, const Inventory* inventory,
                                                 std::vector<SegmentName> names);

/// The segment files of a store, ascending. Other files are left out.
Result<std::vector<SegmentName>> list_segments(Io& io);

}  // namespace varve::storage
