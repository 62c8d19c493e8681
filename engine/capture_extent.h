// SPDX-License-Identifier: Apache-2.0
//
// An extent: 2 MiB that holds captured pieces, their content from the front and a record of each from the back:
//
//     0                      used            record(pieces-1)   record(1) record(0)      kExtentBytes
//     | content | content | ... |   free   |  ...             |         |         |
//
// So a cut of thousands of scattered pages needs no list beside its staging memory, and an extent can be filled by
// another process (the holder's ring). A run of memory is cut at chunk boundaries only. Content of a page or more lies
// at the offset within a page that it has in the program: loads and stores of the copy then never alias.
//
// The forked holder runs this code: no calls, no locks, no library, no sanitizer instrumentation (their runtime may
// hold locks that nobody in the holder would ever release).
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/capture.h"
#include "engine/raw_copy.h"

namespace varve {

inline constexpr std::size_t kExtentBytes = std::size_t{2} << 20;

struct PieceRecord {
  std::uintptr_t begin;  ///< in the program
  std::uint32_t region;
  std::uint32_t offset;  ///< of the content, in the extent
  std::uint32_t bytes;
  std::uint32_t unused;
};
static_assert(sizeof(PieceRecord) == 24);

struct Extent {
  std::byte* memory = nullptr;  ///< page-aligned, kExtentBytes long
  std::uint32_t used = 0;
  std::uint32_t pieces = 0;

  VARVE_HOLDER_SAFE PieceRecord* record(std::uint32_t piece) const {
    return reinterpret_cast<PieceRecord*>(memory + kExtentBytes) - 1 - piece;
  }
};

/// Where the next piece of a span goes: `bytes` of content to `to`. Zero bytes: the extent is full.
struct Placed {
  std::byte* to = nullptr;
  std::size_t bytes = 0;
};

/// How much of a span, from `done` on, may be one piece of at most `room` bytes: up to the last chunk boundary within,
/// or to the span's end. 0: not even one chunk fits.
VARVE_HOLDER_SAFE inline std::size_t piece_bytes(const MemorySpan& span, std::size_t done, std::size_t room,
                                                 std::size_t chunk_bytes) {
  const std::size_t left = span.bytes - done;
  if (left <= room) return left;
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(span.begin) + done;
  const std::uintptr_t boundary = span.grid + ((from + room - span.grid) & ~(std::uintptr_t{chunk_bytes} - 1));
  return boundary > from ? boundary - from : 0;
}

/// Makes room for the next piece of the span and records it; the caller copies. An empty extent always takes one.
/// REQUIRES: done < span.bytes; chunk_bytes a power of two, at most 64 KiB; span.grid <= span.begin.
VARVE_HOLDER_SAFE inline Placed place(Extent& extent, const MemorySpan& span, std::size_t done,
                                      std::size_t chunk_bytes) {
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kPage = 4096;
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(span.begin) + done;
  std::size_t at = (extent.used + kLine - 1) & ~(kLine - 1);
  if (span.bytes - done >= kPage) at += (from - at) & (kPage - 1);
  const std::size_t top = kExtentBytes - (std::size_t{extent.pieces} + 1) * sizeof(PieceRecord);
  if (at >= top) return {};
  const std::size_t bytes = piece_bytes(span, done, top - at, chunk_bytes);
  if (bytes == 0) return {};
  PieceRecord* const record = extent.record(extent.pieces);
  record->begin = from;
  record->region = span.region;
  record->offset = static_cast<std::uint32_t>(at);
  record->bytes = static_cast<std::uint32_t>(bytes);
  record->unused = 0;
  ++extent.pieces;
  extent.used = static_cast<std::uint32_t>(at + bytes);
  return {extent.memory + at, bytes};
}

}  // namespace varve
