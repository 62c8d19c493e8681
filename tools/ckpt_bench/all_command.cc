// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench all: the stall of several kinds of programs, full images, restores and the comparison, in one report.
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "tools/ckpt_bench/benchmarks.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/stall.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct AllOptions {
  BenchSetup setup;
  std::uint64_t bytes = 0;  ///< 0: by `quick`
  bool quick = false;

  std::uint64_t size() const { return bytes != 0 ? bytes : quick ? std::uint64_t{64} << 20 : std::uint64_t{1} << 30; }
  unsigned repetitions() const { return quick ? 3 : 5; }
};

Result<BenchResult> all_stalls(const AllOptions& options) {
  std::vector<StallRow> rows;
  for (const char* name : {"stencil", "particles", "graph", "key-value", "random"}) {
    StallPlan plan{.shape = {.bytes = options.size()},
                   .back_ends = options.setup.back_ends,
                   .epochs = options.quick ? 10U : 30U,
                   .full_writes = options.quick ? 1U : 5U};
    set_workload(plan.shape, name);
    Progress progress(fmt::format("ckpt-bench all, stall of {}", name), options.setup.common.show_progress());
    VARVE_TRY_ASSIGN(auto scratch, Scratch::create(options.setup.store, disk_bound(options.setup, plan.shape.bytes),
                                                   options.setup.keep));
    VARVE_TRY_ASSIGN(auto row, measure_stall(options.setup, plan, scratch, progress));
    rows.push_back(std::move(row));
  }
  BenchResult result;
  for (const auto& row : rows) result.rows.push_back(row.json());
  result.text = stall_table(rows);
  result.sections = stall_sections(rows);
  return result;
}

// Into one, each row with the name of its benchmark.
void append(BenchResult& all, const std::string& name, BenchResult part) {
  for (auto& row : part.rows) {
    row["benchmark"] = name;
    all.rows.push_back(std::move(row));
  }
  for (auto& section : part.sections) all.sections.push_back(std::move(section));
  all.text += fmt::format("{}{}\n\n{}", all.text.empty() ? "" : "\n", name, part.text);
}

struct Parts {
  CompareBench compare;
  ThroughputBench throughput;
  RestoreBench restore;
};

Parts parts_of(const AllOptions& options) {
  const std::vector<std::string> kinds = {"random", "particles", "field", "heap", "text"};
  Parts parts{.compare = {.setup = options.setup, .repetitions = options.repetitions(), .peers = {}},
              .throughput = {.setup = options.setup,
                             .bytes = options.size(),
                             .data = kinds,
                             .repetitions = options.repetitions()},
              .restore = {.setup = options.setup,
                          .bytes = options.size(),
                          .data = kinds,
                          .repetitions = options.repetitions(),
                          .deltas = 3}};
  parts.compare.shape.bytes = options.size();
  set_workload(parts.compare.shape, "particles");
  return parts;
}

// Whether there is room for all of them, before the first one takes its time.
Status check_room(const AllOptions& options, const Parts& parts) {
  for (const DiskNeed& need : {disk_need(parts.compare), disk_need(parts.throughput), disk_need(parts.restore)})
    VARVE_TRY(scratch_for(options.setup, need));
  VARVE_TRY(Scratch::create(options.setup.store, disk_bound(options.setup, options.size()), false));
  return {};
}

Result<BenchResult> measure_everything(const AllOptions& options) {
  const Parts parts = parts_of(options);
  VARVE_TRY(check_room(options, parts));
  BenchResult all;
  VARVE_TRY_ASSIGN(auto compared, bench_compare(parts.compare));
  append(all, "compare", std::move(compared));
  VARVE_TRY_ASSIGN(auto stalls, all_stalls(options));
  append(all, "stall", std::move(stalls));
  VARVE_TRY_ASSIGN(auto throughput, bench_throughput(parts.throughput));
  append(all, "throughput", std::move(throughput));
  VARVE_TRY_ASSIGN(auto restored, bench_restore(parts.restore));
  append(all, "restore", std::move(restored));
  return all;
}

}  // namespace

BenchCommand add_all(CLI::App& parent) {
  auto options = std::make_shared<AllOptions>();
  auto* app = parent.add_subcommand(
      "all",
      "Measure the comparison, the stall of five kinds of programs, full images and restores, one after the other,\n"
      "for one report. --quick: small, and within three minutes.");
  app->add_flag("--quick", options->quick, "64 MiB and few repetitions, rather than 1 GiB");
  add_size(*app, "--size", options->bytes, "of the protected memory (0: 64 MiB with --quick, else 1 GiB)");
  add_back_ends(*app, options->setup.back_ends);
  add_setup(*app, options->setup);
  app->remove_option(app->get_option("--keep"));  // each measurement removes the store of the one before
  add_html(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench all --quick --store /scratch/bench --html report.html\n"
             "  ckpt-bench all --store /scratch/bench --json > results.json\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_benchmark(options->setup, "all", [&] { return measure_everything(*options); });
          }};
}

}  // namespace varve::tools
