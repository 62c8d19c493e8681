// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench retention: what is left of a store after many checkpoints of which few are kept.
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/retention.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct RetentionCommand {
  RetentionOptions options;
  std::vector<std::string> pages = {"repeat", "fresh"};
};

std::string as_text(const std::vector<RetentionRow>& rows, const RetentionOptions& options) {
  using Align = Table::Align;
  Table table({{"WORKLOAD"},
               {"DISK", Align::right},
               {"NEEDED", Align::right},
               {"SHARE", Align::right},
               {"MOST", Align::right},
               {"RESTORE", Align::right},
               {"OF ONE FULL IMAGE", Align::right},
               {"SHARE", Align::right},
               {"REWRITTEN A BYTE FREED", Align::right},
               {"STALL", Align::right},
               {"CLOSE", Align::right}});
  for (const auto& row : rows)
    table.add({describe(row.shape), format_bytes(row.disk_bytes), format_bytes(row.needed_bytes),
               fmt::format("{:.2f}", row.disk_share()), format_bytes(row.peak_bytes), row.restore.text_ns(),
               row.restore_full.text_ns(), fmt::format("{:.2f}", row.restore_share()),
               fmt::format("{:.2f}", row.rewritten_per_freed()), row.stall.text_ns(),
               format_ns(static_cast<double>(row.close_ns))});
  return fmt::format("{} checkpoints, the last {} kept:\n{}", format_count(options.checkpoints), options.keep,
                     table.text());
}

Status measure_all(const RetentionCommand& command, std::vector<RetentionRow>& rows) {
  const RetentionOptions& options = command.options;
  // Three stores; the first has some more images, and the garbage between two collections.
  const auto image_bytes = static_cast<std::uint64_t>(options.shape.dirty * static_cast<double>(options.shape.bytes));
  const std::uint64_t needed = options.shape.bytes + (options.keep + 72) * image_bytes;
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, {.store_bytes = 2 * needed, .beside_bytes = 2 * needed}));
  for (const auto& pages : command.pages) {
    WorkloadShape shape = options.shape;
    shape.repeat_pages = pages == "repeat";
    VARVE_TRY_ASSIGN(auto row, measure_retention(options, shape, scratch));
    rows.push_back(std::move(row));
  }
  return {};
}

int run_retention(const RetentionCommand& command) {
  const RetentionOptions& options = command.options;
  auto header = header_json(options.setup, "retention");
  std::vector<RetentionRow> rows;
  if (auto ok = measure_all(command, rows); !ok) return report("ckpt-bench retention", ok.error());
  auto json = nlohmann::json::array();
  for (const auto& row : rows) json.push_back(as_json(row, options));
  return print_rows(options.setup, "retention", std::move(header), std::move(json), nlohmann::json::array(),
                    as_text(rows, options));
}

}  // namespace

BenchCommand add_retention(CLI::App& parent) {
  auto command = std::make_shared<RetentionCommand>();
  RetentionOptions& options = command->options;
  options.shape.bytes = std::uint64_t{16} << 20;
  auto* app = parent.add_subcommand("retention",
                                    "Measure what many checkpoints leave of which few are kept: disk use beside that\n"
                                    "of a fresh store with the same images, and restore of the newest beside that of\n"
                                    "one full image, in turns. What came back is compared.");
  add_size(*app, "--size", options.shape.bytes, "of the protected memory");
  add_fraction(*app, "--dirty", options.shape.dirty, "share of the pages that change between two checkpoints");
  app->add_option("--pages", command->pages, "repeat: the same pages each time; fresh: others; both with a comma")
      ->delimiter(',')
      ->check(CLI::IsMember({"repeat", "fresh"}))
      ->capture_default_str();
  add_data(*app, options.shape.data);
  app->add_option("--checkpoints", options.checkpoints, "to be made")
      ->check(CLI::Range(1u, 10'000'000u))
      ->capture_default_str();
  app->add_option("--retain", options.keep, "the last so many images are kept (Options::keep)")
      ->check(CLI::Range(1u, 1000u))
      ->capture_default_str();
  app->add_option("--repetitions", options.repetitions, "restores of each kind")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  app->add_flag("--cached", options.cached, "restore from the page cache");
  add_back_ends(*app, options.setup.back_ends);
  add_setup(*app, options.setup);
  add_footer(*app,
             "  ckpt-bench retention --size 16MiB --dirty 5% --store /scratch/bench\n"
             "  ckpt-bench retention --pages fresh --checkpoints 1000 --retain 20 --store /scratch/bench --json\n");
  return {app, [command](const std::string& command_line) {
            command->options.setup.command_line = command_line;
            return run_retention(*command);
          }};
}

}  // namespace varve::tools
