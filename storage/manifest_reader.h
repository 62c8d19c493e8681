// SPDX-License-Identifier: Apache-2.0
//
// Reads a manifest from its segment. A large one is read past the page cache, a part at a time, each checked and
// decoded while it is in the processor's cache: fresh memory is for its names alone.
//
// Threads: any.
#pragma once

#include <cstdint>

#include "storage/io.h"
#include "storage/manifest.h"
#include "storage/stored_frames.h"

namespace varve::storage {

/// The manifest in the record at `offset`. `corruption` when it is damaged, or there is another record.
Result<Manifest> read_manifest_record(Io& io, const SegmentView& where, std::uint64_t offset);

}  // namespace varve::storage
