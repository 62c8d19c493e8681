// SPDX-License-Identifier: Apache-2.0
//
// Capture: makes the suspects' content, as of the cut, safe from later writes.
//
//     program's thread, within the stall          background thread (one consumer)
//     capturer.capture(spans, stream)  ------->   stream.next() -> piece, piece, ..., end
//       copy: memcpy into staging extents           reads staging, gives the extent back at the next call
//       fork: a holder process keeps the memory     reads what is unchanged in place (LiveReader), and else the ring
//                                                   into which the holder copies it
//
// The stream is handed to the consumer before capture() is called, so that a cut that is larger than staging can go on
// while the consumer empties extents: capture() then waits for room, and memory stays bounded.
//
// Threads: one thread in capture() at a time; one consumer per stream; streams are consumed in the order of their cuts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/engine.h"
#include "varve/result.h"

namespace varve {

/// A run of suspect memory: whole chunks of one region, cut to the region. The spans of a region ascend and agree in
/// the last two members. `grid` is the address of the region's chunk
/// 0 (page-aligned, at or below its first byte).
struct MemorySpan {
  std::uint32_t region = 0;  ///< the caller's own number
  const std::byte* begin = nullptr;
  std::size_t bytes = 0;
  std::uintptr_t grid = 0;
  bool fork_holds_it = true;  ///< false: MAP_SHARED, DONTFORK or WIPEONFORK memory, which must be copied
};

/// Captured content of [begin, begin + content.size()) as of the cut: whole chunks, cut to the region.
struct CapturedPiece {
  std::uint32_t region = 0;
  std::uintptr_t begin = 0;                 ///< where it lay in the program
  std::span<const std::byte> content = {};  ///< valid until the next call of next()
  bool second_pass = false;
};

/// The pieces of one cut, in no particular order of regions, ascending within a region and a pass. The second pass has
/// what the first left out.
class CaptureStream {
 public:
  virtual ~CaptureStream() = default;
  /// The next piece; empty at the end. Waits while the cut is still copying. An error (the holder was killed, its
  /// memory can't be read) ends the stream: that image has failed. Every later call returns the same.
  virtual Result<std::optional<CapturedPiece>> next() = 0;
  /// Gives everything back without reading it. Also done by destruction.
  virtual void discard() = 0;
  /// Of the forked bytes: read in place, by now. The consumer's, as next() is.
  virtual std::uint64_t live_bytes() const = 0;
};

struct CaptureOutcome {
  std::uint64_t copied_bytes = 0;
  std::uint64_t forked_bytes = 0;
  std::uint64_t copy_ns = 0;    ///< of the copied bytes, without waiting and without faulting staging in
  std::uint64_t waited_ns = 0;  ///< for room in staging
  std::string why;              ///< the choice in words: "copy: 10 MiB of suspects at 8.1 GB/s, fork would take 31 ms"
};

struct CapturerOptions {
  std::size_t staging_bytes = 0;        ///< bound; 0: an eighth of what the process may use
  Capture wanted = Capture::automatic;  ///< after VARVE_CAPTURE was looked at
  std::uint32_t chunk_bytes = 4096;
  std::optional<int> niceness;  ///< the least of a process that holds memory and copies it; empty: the program's
};

struct CaptureCosts;  // capture_cost.h
class LiveReader;     // live_reader.h

/// In a child that the program forks nothing of it may be called; destroying it there, or a stream, leaves the parent's
/// staging and holders alone.
class Capturer {
 public:
  /// Allocates staging in huge pages and faults in a first part; it grows to the bound by what cuts need, in the
  /// background of a stall where possible. A failed allocation shrinks the bound, saying so.
  /// `unsupported` when fork was asked for and does not work here.
  static Result<std::unique_ptr<Capturer>> create(const CapturerOptions& options);
  virtual ~Capturer() = default;

  virtual std::shared_ptr<CaptureStream> make_stream() = 0;
  /// Captures all spans; when it returns, the program may write. Never fails for want of memory: it waits for the
  /// consumer. An error also ends the stream with that error. REQUIRES: the consumer of `stream` is running, unless
  /// fits() said that none is needed.
  /// `live`: reads in place what a fork holds, as far as it is unchanged; null: the holder copies all of it.
  virtual Result<CaptureOutcome> capture(std::span<const MemorySpan> spans, CaptureStream& stream,
                                         std::shared_ptr<LiveReader> live) = 0;
  Result<CaptureOutcome> capture(std::span<const MemorySpan> spans, CaptureStream& stream);
  /// Whether a cut of this many bytes can be captured at once, into staging that is free and faulted in, while nobody
  /// consumes. False for all where fork was asked for.
  virtual bool fits(std::uint64_t bytes) = 0;
  /// Whether a cut of this many bytes would have to wait for the consumer now. False while nothing is in flight: a cut
  /// that is larger than staging waits then too, but not because the writer is behind.
  virtual bool would_wait(std::uint64_t bytes) = 0;
  /// Announces that a cut of this many bytes will come, for warm_up() to aim at. Any thread.
  virtual void expect(std::uint64_t bytes) = 0;
  /// Faults in staging for what is expected, for about `budget_ns`. False when there is no more to do. Any thread.
  virtual bool warm_up(std::uint64_t budget_ns) = 0;
  virtual std::uint64_t staging_bytes() const = 0;  ///< faulted in now
  virtual CaptureCosts costs() const = 0;           ///< as measured by now
  virtual std::string describe() const = 0;         ///< "auto (copy 8.1 GB/s, fork works)" for Choices
};

/// How the kernel maps a range, from /proc/self/smaps: read at protect(), and again after an image has failed.
struct MappingTraits {
  bool readable = true;       ///< all of it
  bool mapped = true;         ///< no holes
  bool fork_holds_it = true;  ///< private, inherited, not wiped
  std::uint32_t protection = 0;
  std::string refused;     ///< non-empty: why it can't be protected (hugetlbfs, device memory, ...)
  std::string unreadable;  ///< why it can't be read, where that is no matter of PROT_READ (guard pages, short files)
};
Result<MappingTraits> inspect_mapping(const void* begin, std::size_t bytes);

}  // namespace varve
