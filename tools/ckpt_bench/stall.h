// SPDX-License-Identifier: Apache-2.0
//
// The measurement of one workload: how long checkpoints keep the program, next to the floor and to writing everything,
// and what they cost it in between. All in turns, in one run:
//
//     round: epochs without an engine (other memory)          -> time of an epoch, plain
//            epoch, floor, checkpoint (not counted)           -> floor, at the same point of the program
//            epoch, checkpoint, epoch, checkpoint, ...        -> stall; time of an epoch while an image is being
//            written write(2) + fdatasync(2) of everything            -> what a program without an engine does
//
// Before each cut the image before it is awaited, so that the figures are those of a writer that keeps up.
#pragma once

#include <nlohmann/json.hpp>

#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"
#include "tools/ckpt_bench/workload.h"

namespace varve::tools {

struct StallPlan {
  WorkloadShape shape;
  BackEnds back_ends;
  unsigned epochs = 30;  ///< checkpoints that are counted
  unsigned warm_up = 3;
  unsigned full_writes = 5;  ///< of the yardstick; 0: none
};

struct StallRow {
  StallPlan plan;
  Choices choices;
  std::string listing;  ///< how the floor listed
  Samples stall, scan, capture, durable, reduce, commit;
  Samples floor, floor_scan, floor_copy, full_write;
  Samples epoch_plain, epoch_with;
  Samples suspects, changed, written, raw;
  ImageResult first;  ///< the full image of the first store
  MemoryUse memory;
  std::uint64_t resident_growth_bytes = 0;  ///< of the process, from before the engine to the end
  std::uint64_t store_bytes = 0;            ///< allocated on disk, after a clean close
  std::uint64_t images = 0;                 ///< in that store
  unsigned stores = 1;                      ///< made one after the other, to bound the disk

  double slowdown() const;             ///< of the epochs, without the stall
  double slowdown_with_stall() const;  ///< of the program
  nlohmann::json json() const;
};

/// Disk that the measurement takes at most, yardstick included.
std::uint64_t disk_bound(const BenchSetup& setup, std::uint64_t bytes);

Result<StallRow> measure_stall(const BenchSetup& setup, const StallPlan& plan, Scratch& scratch, Progress& progress);

/// The rows as a table.
std::string stall_table(const std::vector<StallRow>& rows);
/// What a single row has to say besides the table.
std::string stall_details(const StallRow& row);

}  // namespace varve::tools
