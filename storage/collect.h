// SPDX-License-Identifier: Apache-2.0
//
// Garbage collection of one chain's segments (docs/formats/segment.md, "Compaction and garbage collection"): what no
// listed image of any chain needs is given back.
//
//     seal, mark what is alive -> plan -> copy what is alive -> seal, record -> exclusively: look again, remove
//                                         \______________ round by round, so that extra disk is bounded _____/
//
// Each listed image is whole at any instant, also when the process is killed or power fails. Readers and writers of
// other chains go on meanwhile: only the removal waits for a moment in which nobody reads or writes. An image that is
// written meanwhile keeps the segments that it needs from going.
//
// Bounds: memory some 30 bytes for each chunk that is alive, and the footer of one segment; extra disk
// CollectOptions::round_bytes or what is alive in one segment, whichever is more.
//
// Threads: one at a time, that of the ChainWriter.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "storage/liveness.h"
#include "storage/store.h"

namespace varve::storage {

struct CollectReport {
  std::uint64_t segments = 0;  ///< of the chain, before
  std::uint64_t bytes = 0;
  std::uint64_t live_bytes = 0;     ///< of them, an estimate by the number of chunks
  std::uint64_t planned_bytes = 0;  ///< to be given back at the end, an estimate
  std::uint64_t segments_dropped = 0;
  std::uint64_t segments_rewritten = 0;
  std::uint64_t bytes_freed = 0;        ///< of the removed files
  std::uint64_t bytes_rewritten = 0;    ///< of the files made instead
  std::vector<std::string> left_alone;  ///< segments that stay although they hold garbage, and why: a line each

  std::uint64_t net_freed() const { return bytes_freed - std::min(bytes_freed, bytes_rewritten); }
  /// Bytes rewritten for each byte that came free; 0 when none did.
  double cost() const;
};

struct CollectOptions {
  /// Garbage that may stay, as a share of what is alive: less costs more writing.
  double spare = 0.1;
  std::uint64_t round_bytes = std::uint64_t{256} << 20;  ///< copied before the originals are removed, about
  unsigned patience_ms = 30'000;                         ///< for readers and writers to pause
  std::function<void(const CollectReport&)> progress = {};
};

class Collector {
 public:
  virtual ~Collector() = default;
  /// Goes on until all is done (true) or pause() says so (false). `busy`: others read or write all the time; nothing is
  /// lost, and another run() tries again. After other errors it must not be run again; nothing of the store is lost.
  /// REQUIRES: no image begun.
  virtual Result<bool> run(const Pause& pause) = 0;
  virtual const CollectReport& report() const = 0;
};

/// REQUIRES: the writer is one of this store, and outlives the collector.
std::unique_ptr<Collector> make_collector(Store& store, ChainWriter& writer, const CollectOptions& options);

/// What a collection would do, without a lock and without writing, if `assumption` had been done before; an estimate.
/// Segments that are being written count as if they were sealed.
Result<CollectReport> estimate_collection(Store& store, std::string_view chain, const CollectOptions& options,
                                          const Assumption& assumption);

}  // namespace varve::storage
