// SPDX-License-Identifier: Apache-2.0
//
// Puts an image's content into regions of memory: populated first, since faulting in page by page costs many times as
// much as asking for ranges; then chunks in the order in which they lie in the store, straight into place, at any
// alignment. Excluded bytes are not touched. Of much, what is in place is made clean for its tracker meanwhile.
//
// Threads: used by the thread that restores, which starts others while it runs; the store delivers from several at
// once, into disjoint memory.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/region.h"
#include "storage/manifest.h"
#include "storage/store.h"
#include "varve/result.h"

namespace varve {

struct FillTarget {
  Region* region = nullptr;
  const storage::RegionRecord* record = nullptr;  ///< complete
  std::vector<storage::ByteRange> kept;           ///< bytes that are left alone: ascending, disjoint
  std::vector<ChunkRange> wanted;                 ///< chunks to be filled: ascending, disjoint
};

/// The tag of a request for a chunk: of which target, and which.
inline constexpr unsigned kFillChunkBits = 40;
constexpr std::uint64_t fill_tag(std::uint64_t target, std::uint64_t chunk) {
  return (target << kFillChunkBits) | chunk;
}
constexpr std::size_t target_of_tag(std::uint64_t tag) { return static_cast<std::size_t>(tag >> kFillChunkBits); }
constexpr std::uint64_t chunk_of_tag(std::uint64_t tag) { return tag & ((std::uint64_t{1} << kFillChunkBits) - 1); }

/// All chunks that the record names.
std::vector<ChunkRange> all_chunks(const storage::RegionRecord& record);
/// Those that may differ from what the region holds now: the suspects, and those that are committed under another name.
/// What is neither is the image's content already. REQUIRES: the region's committed names are valid.
std::vector<ChunkRange> differing_chunks(const Region& region, const storage::RegionRecord& record,
                                         std::span<const ChunkRange> suspects);

/// Makes the region writable for us where its tracker protects it; `invalid_argument` when the program's own mapping is
/// read-only.
Status check_writable(const Region& region, const std::string& image);

/// After an error the targets hold part of the image.
Status fill(storage::Store& store, std::span<const FillTarget> targets);

}  // namespace varve
