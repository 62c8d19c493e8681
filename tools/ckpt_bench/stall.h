// SPDX-License-Identifier: Apache-2.0
//
// The measurement of one workload: how long checkpoints keep the program, next to the floor and to writing everything,
// and what they cost it in between. All in turns, in one run:
//
//     round: epochs without an engine                         -> time of an epoch, plain
//            an engine, a full image, warm-up
//            epoch, floor, checkpoint (not counted)           -> floor, at the same point of the program
//            epoch, checkpoint, epoch, checkpoint, ...        -> stall; epoch while an image is being written
//            write(2) + fdatasync(2) of everything            -> what a program without an engine does
//
// All of it works on the same memory, since two pieces of memory may differ by a third in speed with nothing else
// between them (seen in a virtual machine). So each round has an engine of its own, on the same store.
// Before each cut the image before it is awaited, so that the figures are those of a writer that keeps up.
#pragma once

#include <optional>

#include <nlohmann/json.hpp>

#include "tools/ckpt_bench/bench_report.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"
#include "tools/ckpt_bench/stages.h"
#include "tools/ckpt_bench/workload.h"
#include "tools/report/survey.h"

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
  Samples epoch_before;  ///< those of epoch_plain from before the first engine: what has split no huge page yet
  Samples processor_plain, processor_with;  ///< of the program's thread, in these epochs
  Samples suspects, changed, written, raw, cooled, mistaken, unlisted;
  std::string capture_why;  ///< of the last cut
  ImageResult first;        ///< the full image of the first store
  MemoryUse memory;
  std::uint64_t resident_growth_bytes = 0;  ///< of the process, from before the engine to the end
  std::uint64_t store_bytes = 0;            ///< allocated on disk, after a clean close
  std::uint64_t images = 0;                 ///< in that store
  std::vector<StageTimes> stages;           ///< of the checkpoints that are counted
  std::optional<SurveyedChain> chain;       ///< of the last store, when the result is to be drawn
  unsigned stores = 1;                      ///< made one after the other, to bound the disk

  double slowdown() const;             ///< of the epochs, without the stall
  double slowdown_with_stall() const;  ///< of the program
  double slowdown_processor() const;   ///< of the epochs, in time on a processor
  /// Stall and slow-down together: the time of an epoch and its checkpoint, over that of an epoch without an engine.
  double together() const { return 1 + slowdown_with_stall(); }
  nlohmann::json json() const;
};

/// Disk that the measurement takes at most, yardstick included.
std::uint64_t disk_bound(const BenchSetup& setup, std::uint64_t bytes);

Result<StallRow> measure_stall(const BenchSetup& setup, const StallPlan& plan, Scratch& scratch, Progress& progress);

/// How far the engine's own choice is behind the best forced combination, for one workload and io.
struct Comparison {
  std::string workload;
  std::string io;
  double automatic = 0;  ///< together()
  double best = 0;       ///< of the forced ones
  std::string best_name;
  double behind() const { return best > 0 ? automatic / best - 1 : 0; }
  nlohmann::json json() const;
};
/// For the workloads that have a row of both kinds.
std::vector<Comparison> compare_with_forced(const std::vector<StallRow>& rows);
std::string comparison_table(const std::vector<Comparison>& comparisons);

/// The rows as a table.
std::string stall_table(const std::vector<StallRow>& rows);
/// The rows as plots, with the heat maps of those that have a chain.
std::vector<ReportSection> stall_sections(const std::vector<StallRow>& rows);
/// What a single row has to say besides the table.
std::string stall_details(const StallRow& row);

}  // namespace varve::tools
