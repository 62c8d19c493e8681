// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench stall: one workload.
#include <memory>

#include "base/try.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/stall.h"

namespace varve::tools {
namespace {

struct StallOptions {
  BenchSetup setup;
  StallPlan plan;
};

Result<StallRow> run_one(const StallOptions& options) {
  Progress progress("ckpt-bench stall", options.setup.common.show_progress());
  VARVE_TRY_ASSIGN(
      auto scratch,
      Scratch::create(options.setup.store, disk_bound(options.setup, options.plan.shape.bytes), options.setup.keep));
  return measure_stall(options.setup, options.plan, scratch, progress);
}

int run_stall(const StallOptions& options) {
  return run_benchmark(options.setup, "stall", [&options]() -> Result<BenchResult> {
    std::vector<StallRow> rows;
    VARVE_TRY_ASSIGN(auto row, run_one(options));
    rows.push_back(std::move(row));
    BenchResult result;
    result.rows.push_back(rows[0].json());
    result.text = stall_table(rows) + stall_details(rows[0]);
    result.sections = stall_sections(rows);
    return result;
  });
}

}  // namespace

BenchCommand add_stall(CLI::App& parent) {
  auto options = std::make_shared<StallOptions>();
  options->plan.shape.bytes = std::uint64_t{1} << 30;
  auto* app = parent.add_subcommand(
      "stall",
      "Measure how long a checkpoint keeps the program, next to the floor (one listing scan of the region and one\n"
      "memcpy of the pages really written into warm memory) and to write(2) and fdatasync(2) of the whole region; and\n"
      "how much slower the program runs in between. The program reads all of its memory once in each epoch.");
  add_size(*app, "--size", options->plan.shape.bytes, "of the protected memory");
  add_fraction(*app, "--dirty", options->plan.shape.dirty, "share of the pages that an epoch changes");
  add_workload(*app, options->plan.shape);
  app->add_option("--epochs", options->plan.epochs, "checkpoints that are counted")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app->add_option("--warm-up", options->plan.warm_up, "checkpoints before those")->capture_default_str();
  app->add_option("--full-writes", options->plan.full_writes, "times to write everything, as the yardstick; 0: never")
      ->capture_default_str();
  add_back_ends(*app, options->plan.back_ends);
  add_setup(*app, options->setup);
  add_html(*app, options->setup);
  add_footer(
      *app,
      "  ckpt-bench stall --size 1GiB --dirty 1% --pattern contiguous --epochs 30 --store /scratch/bench\n"
      "  ckpt-bench stall --size 1GiB --workload key-value --store /scratch/bench --html stall.html\n"
      "  ckpt-bench stall --size 1GiB --dirty 1% --repeat-pages --store /scratch/bench --json | jq '.rows[0]'\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_stall(*options);
          }};
}

}  // namespace varve::tools
