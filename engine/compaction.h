// SPDX-License-Identifier: Apache-2.0
//
// Compaction: makes an image full, so that its ancestors may go. A merge of records: no page data is read or written.
//
//     image 7 (delta on 6)   . B' . .      resolve      image 7 (full, next revision)   A B' C D'
//     image 6, 5, ...        A B C D'   ------------>   the old manifest is garbage from then on
//
// Threads: that of the ChainWriter.
#pragma once

#include <cstdint>

#include "engine/chain.h"
#include "storage/store.h"

namespace varve {

struct Compaction {
  bool written = false;  ///< false: the image was full already
  std::uint64_t chunks = 0;
  std::uint64_t written_bytes = 0;
};

/// Durable when it returns; the image is whole at any instant. Errors: those of resolve_image(), of writing; and
/// `not_found`. REQUIRES: the writer is of this chain and has begun no image.
Result<Compaction> compact_image(storage::Store& store, storage::ChainWriter& writer, const ImageName& image);

/// The manifest that compaction writes. `full` is set when the image needs none.
Result<storage::Manifest> compacted_manifest(storage::Store& store, const ImageName& image, bool& full);

}  // namespace varve
