// SPDX-License-Identifier: Apache-2.0
//
// Measurements that a subcommand of their own and `all` run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/ckpt_bench/bench_report.h"
#include "tools/ckpt_bench/peer.h"
#include "tools/ckpt_bench/setup.h"

namespace varve::tools {

struct ThroughputBench {
  BenchSetup setup;
  std::uint64_t bytes = std::uint64_t{1} << 30;
  std::vector<std::string> data = {"random"};
  unsigned repetitions = 3;
};
DiskNeed disk_need(const ThroughputBench& options);
/// Full images from the cut to durable, in turns with writing as many bytes. REQUIRES: known kinds of data.
Result<BenchResult> bench_throughput(const ThroughputBench& options);

struct RestoreBench {
  BenchSetup setup;
  std::uint64_t bytes = std::uint64_t{1} << 30;
  std::vector<std::string> data = {"random"};
  unsigned repetitions = 3;
  unsigned deltas = 0;
  bool cached = false;
  bool lazy = false;     ///< RestoreOptions::lazy
  bool touched = false;  ///< into memory that was written before
};
DiskNeed disk_need(const RestoreBench& options);
/// Restores, in turns with reading as many bytes and faulting in as much memory. REQUIRES: likewise.
Result<BenchResult> bench_restore(const RestoreBench& options);

struct CompareBench {
  BenchSetup setup;
  WorkloadShape shape{.bytes = std::uint64_t{1} << 30, .dirty = 0.01, .data = DataKind::particles};
  unsigned repetitions = 3;
  std::vector<Peer> peers;
  unsigned peer_seconds = 120;  ///< after which one is killed
};
DiskNeed disk_need(const CompareBench& options);
/// Checkpoints of the same program by several means, in turns. A peer that fails has a row that says so.
Result<BenchResult> bench_compare(const CompareBench& options);

}  // namespace varve::tools
