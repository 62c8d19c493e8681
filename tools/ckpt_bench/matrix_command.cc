// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench matrix: many workloads and back ends, a row each.
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/stall.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct MatrixOptions {
  BenchSetup setup;
  StallPlan plan;
  std::vector<std::string> sizes = {"256MiB"};
  std::vector<std::string> dirty = {"0%", "1%", "10%"};
  std::vector<std::string> patterns = {"scattered", "contiguous"};
  std::vector<std::string> pages = {"repeat", "fresh"};
  std::vector<std::string> trackers = {"auto", "uffd", "soft-dirty", "mprotect", "hash"};
  std::vector<std::string> captures = {"auto", "copy", "fork"};
  std::vector<std::string> ios = {"auto"};
};

struct Skipped {
  StallPlan plan;
  std::string reason;
};

// Nothing written, and everything written, are one workload each, whatever the pattern.
bool same_as_an_earlier_one(const WorkloadShape& shape, const MatrixOptions& options) {
  if (shape.dirty > 0 && shape.dirty < 1) return false;
  return to_string(shape.pattern) != options.patterns.front() ||
         shape.repeat_pages != (options.pages.front() == "repeat");
}

Result<std::vector<WorkloadShape>> shapes(const MatrixOptions& options) {
  std::vector<WorkloadShape> all;
  for (const auto& size : options.sizes)
    for (const auto& dirty : options.dirty)
      for (const auto& pattern : options.patterns)
        for (const auto& pages : options.pages) {
          WorkloadShape shape = options.plan.shape;
          VARVE_TRY_ASSIGN(shape.bytes, parse_size(size));
          VARVE_TRY_ASSIGN(shape.dirty, parse_fraction(dirty));
          shape.pattern = parse_pattern(pattern);
          shape.repeat_pages = pages == "repeat";
          if (!same_as_an_earlier_one(shape, options)) all.push_back(shape);
        }
  return all;
}

std::vector<StallPlan> plans(const MatrixOptions& options, const std::vector<WorkloadShape>& all) {
  std::vector<StallPlan> result;
  for (const auto& shape : all)
    for (const auto& tracker : options.trackers)
      for (const auto& capture : options.captures)
        for (const auto& io : options.ios) {
          StallPlan plan = options.plan;
          plan.shape = shape;
          plan.back_ends = {tracker, capture, io};
          result.push_back(std::move(plan));
        }
  return result;
}

Status measure_all(const MatrixOptions& options, const std::vector<StallPlan>& all, std::vector<StallRow>& rows,
                   std::vector<Skipped>& skipped) {
  std::uint64_t largest = 0;
  for (const auto& plan : all) largest = std::max(largest, plan.shape.bytes);
  VARVE_TRY_ASSIGN(auto scratch,
                   Scratch::create(options.setup.store, disk_bound(options.setup, largest), options.setup.keep));
  for (std::size_t i = 0; i < all.size(); ++i) {
    Progress progress(fmt::format("ckpt-bench matrix, row {} of {}", i + 1, all.size()),
                      options.setup.common.show_progress());
    auto row = measure_stall(options.setup, all[i], scratch, progress);
    if (row) {
      rows.push_back(std::move(row).value());
      continue;
    }
    if (row.error().code() != ErrorCode::unsupported) return row.error();
    skipped.push_back({all[i], row.error().message()});
  }
  return {};
}

nlohmann::json skipped_json(const std::vector<Skipped>& skipped) {
  auto json = nlohmann::json::array();
  for (const auto& one : skipped)
    json.push_back({{"workload", describe(one.plan.shape)},
                    {"tracker", one.plan.back_ends.tracker},
                    {"capture", one.plan.back_ends.capture},
                    {"io", one.plan.back_ends.io},
                    {"reason", one.reason}});
  return json;
}

// The reasons, each once: a back end that does not work here misses in every workload.
std::string skipped_text(const std::vector<Skipped>& skipped) {
  std::vector<std::string> reasons;
  std::string text;
  for (const auto& one : skipped) {
    if (std::find(reasons.begin(), reasons.end(), one.reason) != reasons.end()) continue;
    reasons.push_back(one.reason);
    text += fmt::format("left out: {}\n", one.reason);
  }
  return text.empty() ? text : "\n" + text;
}

Result<BenchResult> measure_matrix(const MatrixOptions& options) {
  VARVE_TRY_ASSIGN(const auto all, shapes(options));
  std::vector<StallRow> rows;
  std::vector<Skipped> skipped;
  VARVE_TRY(measure_all(options, plans(options, all), rows, skipped));
  BenchResult result;
  for (const auto& row : rows) result.rows.push_back(row.json());
  const auto comparisons = compare_with_forced(rows);
  result.header["automatic"] = nlohmann::json::array();
  for (const auto& comparison : comparisons) result.header["automatic"].push_back(comparison.json());
  result.skipped = skipped_json(skipped);
  result.text = stall_table(rows) + comparison_table(comparisons) + skipped_text(skipped);
  result.sections = stall_sections(rows);
  return result;
}

int run_matrix(const MatrixOptions& options) {
  if (auto all = shapes(options); !all) return report("ckpt-bench matrix", all.error(), kUsage);
  return run_benchmark(options.setup, "matrix", [&options] { return measure_matrix(options); });
}

CLI::Option* add_choices(CLI::App& app, const std::string& name, std::vector<std::string>& into,
                         const std::string& help, const std::vector<std::string>& known) {
  auto* option = app.add_option(name, into, help)->delimiter(',')->capture_default_str();
  if (!known.empty()) option->check(CLI::IsMember(known));
  return option;
}

}  // namespace

BenchCommand add_matrix(CLI::App& parent) {
  auto options = std::make_shared<MatrixOptions>();
  options->plan.epochs = 10;
  options->plan.full_writes = 2;
  auto* app =
      parent.add_subcommand("matrix",
                            "Measure what 'stall' does for every combination of the lists below, and how far the\n"
                            "engine's own choice (auto, auto) is behind the best forced one, stall and slow-down\n"
                            "together. Back ends that do not work here are left out, with the reason.");
  add_choices(*app, "--size", options->sizes, "of the protected memory", {});
  add_choices(*app, "--dirty", options->dirty, "shares of the pages that an epoch changes", {});
  add_choices(*app, "--pattern", options->patterns, "scattered, contiguous, skewed", pattern_names());
  add_choices(*app, "--pages", options->pages, "repeat, fresh: the same pages each epoch, or others",
              {"repeat", "fresh"});
  add_choices(*app, "--tracker", options->trackers, "trackers", {"auto", "uffd", "soft-dirty", "mprotect", "hash"});
  add_choices(*app, "--capture", options->captures, "captures", {"auto", "copy", "fork"});
  add_choices(*app, "--io", options->ios, "io back ends", {"auto", "uring", "posix"});
  add_data(*app, options->plan.shape.data);
  app->add_option("--epochs", options->plan.epochs, "checkpoints that are counted, in each row")
      ->check(CLI::Range(1u, 1'000'000u))
      ->capture_default_str();
  app->add_option("--warm-up", options->plan.warm_up, "checkpoints before those")->capture_default_str();
  app->add_option("--full-writes", options->plan.full_writes, "times to write everything in each row; 0: never")
      ->capture_default_str();
  add_setup(*app, options->setup);
  add_html(*app, options->setup);
  add_footer(
      *app,
      "  ckpt-bench matrix --store /scratch/bench\n"
      "  ckpt-bench matrix --size 1GiB --dirty 1% --tracker auto,uffd --capture copy,fork --store /scratch/bench\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_matrix(*options);
          }};
}

}  // namespace varve::tools
