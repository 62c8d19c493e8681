// SPDX-License-Identifier: Apache-2.0
//
// One run of ckpt-bench retention: a store that was written to for long and keeps few images, beside stores that were
// written freshly from the same memory.
//
//     store     N checkpoints, all but the last few dropped meanwhile; clean close      -> disk, rewritten, stalls
//     to compare   the kept images' content, written into a fresh store                 -> disk that they need
//     one full     the newest one's content, as one full image                          -> what its restore takes
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"

namespace varve::tools {

struct RetentionOptions {
  BenchSetup setup;
  WorkloadShape shape;
  unsigned checkpoints = 10'000;
  unsigned keep = 8;
  unsigned repetitions = 9;
  bool cached = false;
};

struct RetentionRow {
  WorkloadShape shape;
  std::uint64_t disk_bytes = 0;     ///< of the store after its close
  std::uint64_t needed_bytes = 0;   ///< of a fresh store with the same images
  std::uint64_t peak_bytes = 0;     ///< of the segments, while it was written to
  std::uint64_t written_bytes = 0;  ///< by images
  std::uint64_t close_ns = 0;
  MaintenanceStatus maintenance;
  Samples stall;
  Samples open, open_full;        ///< the store, and its chain for writing
  Samples restore, restore_full;  ///< from before opening the store to memory that is right

  double disk_share() const;     ///< disk over needed
  double restore_share() const;  ///< median over median
  /// Bytes that garbage collection wrote for each byte that came free by it.
  double rewritten_per_freed() const;
};

Result<RetentionRow> measure_retention(const RetentionOptions& options, const WorkloadShape& shape, Scratch& scratch);

nlohmann::json as_json(const RetentionRow& row, const RetentionOptions& options);

}  // namespace varve::tools
