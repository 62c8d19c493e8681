// SPDX-License-Identifier: Apache-2.0
//
// What the subcommands of ckpt-bench share: options, the header of every result, the common shape of a command.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/ckpt_bench/memory.h"
#include "tools/ckpt_bench/scratch.h"
#include "tools/ckpt_bench/workload.h"
#include "tools/command.h"
#include "varve/varve.h"

namespace varve::tools {

/// The back ends of an engine, as options: "auto" or a name.
struct BackEnds {
  std::string tracker = "auto";
  std::string capture = "auto";
  std::string io = "auto";
};

struct BenchSetup {
  CommonOptions common;
  std::string store;
  std::string html;  ///< where to draw the result; empty: nowhere
  bool keep = false;
  std::uint64_t max_store_bytes = 0;  ///< 0: by size
  BackEnds back_ends;
  unsigned threads = 0;  ///< of the engine; 0: its default
  int nice = 0;
  std::uint64_t bytes_per_second = 0;
  bool favour_size = false;
  std::uint64_t staging_bytes = 0;
  std::string huge_pages = "system";
  std::uint64_t offset = 0;  ///< of the memory within its first page

  std::string command_line;  ///< for the header
};

/// Adds --store, --keep, --max-store, --threads, --nice, --bytes-per-second, --favour-size, --staging, --huge-pages,
/// --offset, --json, --progress.
void add_setup(CLI::App& command, BenchSetup& setup);
/// Adds --tracker, --capture and --io.
void add_back_ends(CLI::App& command, BackEnds& back_ends);
CLI::Option* add_data(CLI::App& command, DataKind& into);
/// Adds --data for several kinds.
void add_data_list(CLI::App& command, std::vector<std::string>& into);
/// Adds --workload and what it sets: --data, --pattern, --repeat-pages.
void add_workload(CLI::App& command, WorkloadShape& shape);

/// What a benchmark takes on disk at most.
struct DiskNeed {
  std::uint64_t store_bytes = 0;   ///< of the largest store
  std::uint64_t beside_bytes = 0;  ///< of other stores, yardsticks and peers at the same time
};
/// Of a full image that does not compress, and of a delta of so many pages.
std::uint64_t full_image_bytes(std::uint64_t bytes);
std::uint64_t delta_image_bytes(std::uint64_t pages);
/// Refused where its store would outgrow --max-store. For benchmarks that don't make the store anew before that.
Status check_store_bound(const BenchSetup& setup, const DiskNeed& need);
/// The directory of such a benchmark, when it is not refused, and as much is free.
Result<Scratch> scratch_for(const BenchSetup& setup, const DiskNeed& need);

HugePages huge_pages(const BenchSetup& setup);
Options engine_options(const BenchSetup& setup, const BackEnds& back_ends, const std::string& store);

/// Machine, kernel, file system, commit, options.
nlohmann::json header_json(const BenchSetup& setup, const std::string& subcommand);
std::string header_text(const nlohmann::json& header);

/// Prints header and rows; `text` is the table for people.
int print_rows(const BenchSetup& setup, const std::string& subcommand, nlohmann::json header, nlohmann::json rows,
               nlohmann::json skipped, const std::string& text);

/// From here on SIGINT, SIGTERM and SIGHUP end the benchmark at its next step, so that its directory is removed.
void catch_interrupts();
/// An error once one of them has come.
Status check_interrupted();

}  // namespace varve::tools
