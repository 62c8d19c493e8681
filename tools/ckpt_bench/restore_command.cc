// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench restore: from opening the store to memory that is right, compared byte for byte, in turns with reading the
// store's bytes alone and with faulting the memory in.
#include <cstring>
#include <memory>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/processors.h"
#include "base/try.h"
#include "engine/chain.h"
#include "storage/store.h"
#include "tools/ckpt_bench/benchmarks.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/lz4_alone.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/yardstick.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct RestoreRow {
  DataKind data = DataKind::random;
  std::uint64_t bytes = 0;
  std::uint64_t store_bytes = 0;
  Choices choices;
  std::string eager_why;
  Samples open, manifest, restore, first, in_place, faults, rate, disk_rate, unpack_rate, populate;
};

constexpr double kDeltaDirty = 0.01;

// One full image and some deltas of scattered pages.
Status write_chain(const RestoreBench& options, Scratch& scratch, const Mapping& memory, DataKind data) {
  VARVE_TRY(scratch.remove_store());
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_options(options.setup, options.setup.back_ends, scratch.store())));
  RegionOptions region;
  region.element_bytes = element_bytes(data);
  VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size(), region));
  CheckpointOptions sync;
  sync.sync = true;
  VARVE_TRY(engine.checkpoint(sync));
  PageSequence pages({.bytes = options.bytes, .dirty = kDeltaDirty, .data = data});
  for (unsigned i = 0; i < options.deltas; ++i) {
    VARVE_TRY(check_interrupted());
    run_epoch(memory.bytes(), pages.next(), data, i + 1);
    VARVE_TRY(engine.checkpoint(sync));
  }
  return engine.close();
}

// Reading the manifest alone, for a lazy restore is judged by what it takes besides.
Result<std::uint64_t> read_manifest_ns(const std::string& directory) {
  VARVE_TRY_ASSIGN(const auto store, open_store({.directory = directory}));
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(const auto newest, store->newest_image("main"));
  VARVE_TRY(resolve_image(*store, "main", newest.number));
  return monotonic_ns() - begin_ns;
}

// The first instruction that needs restored memory: a byte in the middle.
Status restore_lazily(Engine& engine, const Mapping& memory, std::uint64_t begin_ns, RestoreRow& row) {
  varve::RestoreOptions options;
  options.lazy = true;
  VARVE_TRY(engine.restore("latest", options));
  row.restore.add(monotonic_ns() - begin_ns);
  [[maybe_unused]] volatile std::byte byte = memory.bytes()[memory.bytes().size() / 2];
  row.first.add(monotonic_ns() - begin_ns);
  VARVE_TRY(engine.wait_restored());
  row.in_place.add(monotonic_ns() - begin_ns);
  const auto status = engine.lazy_status();
  row.faults.add(status.faults);
  row.eager_why = status.eager_why;
  return {};
}

void drop_store(const RestoreBench& options, const Scratch& scratch) {
  if (options.cached) return;
  for (const auto& segment : scratch.segments()) drop_cached(segment);
}

Status restore_once(const RestoreBench& options, Scratch& scratch, const Mapping& expected, RestoreRow& row) {
  drop_store(options, scratch);
  VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = options.bytes,
                                                          .offset = options.setup.offset,
                                                          .huge_pages = huge_pages(options.setup),
                                                          .populate = false}));
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_options(options.setup, options.setup.back_ends, scratch.store())));
  VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size()));
  const std::uint64_t open_ns = monotonic_ns() - begin_ns;
  if (options.touched) fill(memory.bytes(), DataKind::random, 2);  // as a program that has set up its arrays
  const std::uint64_t restore_begin_ns = monotonic_ns();
  if (options.lazy) {
    VARVE_TRY(restore_lazily(engine, memory, restore_begin_ns, row));
  } else {
    VARVE_TRY(engine.restore("latest"));
    row.restore.add(monotonic_ns() - restore_begin_ns);
  }
  const std::uint64_t restore_ns = monotonic_ns() - restore_begin_ns;
  row.choices = engine.choices();
  VARVE_TRY(engine.close());
  if (std::memcmp(memory.bytes().data(), expected.bytes().data(), memory.bytes().size()) != 0)
    return fail(ErrorCode::corruption, {"restore of the benchmark's image is wrong", "memory differs from the original",
                                        "this is a bug in Varve: keep the store (--keep) and report it"});
  row.open.add(open_ns);
  row.rate.add(per_second(options.bytes, open_ns + restore_ns));
  if (!options.lazy) return {};
  drop_store(options, scratch);
  VARVE_TRY_ASSIGN(const auto manifest_ns, read_manifest_ns(scratch.store()));
  row.manifest.add(manifest_ns);
  return {};
}

Status yardsticks_once(const RestoreBench& options, Scratch& scratch, const Mapping& expected, RestoreRow& row) {
  VARVE_TRY_ASSIGN(const auto disk, read_direct(scratch.segments(), row.store_bytes));
  row.disk_rate.add(per_second(row.store_bytes, disk.ns));
  VARVE_TRY_ASSIGN(const Lz4Alone lz4, lz4_alone(expected.bytes(), usable_processors()));
  row.unpack_rate.add(lz4.unpack_bytes_per_second);
  VARVE_TRY_ASSIGN(
      const Mapping fresh,
      Mapping::create({.bytes = options.bytes, .huge_pages = huge_pages(options.setup), .populate = false}));
  const std::uint64_t populate_ns = monotonic_ns();
  populate(fresh.bytes());
  row.populate.add(monotonic_ns() - populate_ns);
  return {};
}

Result<RestoreRow> measure(const RestoreBench& options, DataKind data, Scratch& scratch) {
  Progress progress(fmt::format("ckpt-bench restore, {}", to_string(data)), options.setup.common.show_progress());
  RestoreRow row;
  row.data = data;
  row.bytes = options.bytes;
  VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = options.bytes, .offset = options.setup.offset}));
  fill(memory.bytes(), data, 1);
  VARVE_TRY(write_chain(options, scratch, memory, data));
  for (unsigned i = 0; i < options.repetitions; ++i) {
    progress.update(i, options.repetitions, "restores");
    VARVE_TRY(check_interrupted());
    // Now this one first, now that one: below a virtual machine's disk may lie a cache that no one here can drop.
    if (i % 2 == 1) VARVE_TRY(yardsticks_once(options, scratch, memory, row));
    VARVE_TRY(restore_once(options, scratch, memory, row));
    if (i % 2 == 0) VARVE_TRY(yardsticks_once(options, scratch, memory, row));
  }
  return row;
}

// Memory a second at most: read by the disk alone, or unpacked and hashed by LZ4 and XXH3 alone, whichever takes
// longer.
double limit_rate(const RestoreRow& row) {
  const double by_disk = static_cast<double>(row.bytes) * row.disk_rate.median() / static_cast<double>(row.store_bytes);
  return std::min(by_disk, row.unpack_rate.median());
}

nlohmann::json as_json(const RestoreRow& row, const RestoreBench& options) {
  return {
      {"workload",
       fmt::format("restore of {} {}, {} deltas", format_bytes(row.bytes), to_string(row.data), options.deltas)},
      {"data", to_string(row.data)},
      {"bytes", row.bytes},
      {"deltas", options.deltas},
      {"store_bytes", row.store_bytes},
      {"cached", options.cached},
      {"open_ns", row.open.json()},
      {"lazy", options.lazy},
      {"touched", options.touched},
      {"restore_ns", row.restore.json()},
      {"manifest_ns", row.manifest.json()},
      {"first_instruction_ns", row.first.json()},
      {"in_place_ns", row.in_place.json()},
      {"faults", row.faults.json()},
      {"eager_why", row.eager_why},
      {"bytes_per_second", row.rate.median()},
      {"disk_bytes_per_second", row.disk_rate.median()},
      {"unpack_bytes_per_second", row.unpack_rate.median()},
      {"rate_over_limit", per_second(row.bytes, static_cast<std::uint64_t>(row.restore.median())) / limit_rate(row)},
      {"populate_ns", row.populate.json()},
      {"io", row.choices.io}};
}

std::string as_text(const std::vector<RestoreRow>& rows) {
  using Align = Table::Align;
  Table table({{"RESTORE OF"},
               {"STORE", Align::right},
               {"OPEN", Align::right},
               {"RESTORE", Align::right},
               {"RESTORED", Align::right},
               {"DISK ALONE", Align::right},
               {"UNPACKING ALONE", Align::right},
               {"/SLOWER OF THEM", Align::right},
               {"FAULTING IN ALONE", Align::right}});
  for (const auto& row : rows)
    table.add({fmt::format("{} {}", format_bytes(row.bytes), to_string(row.data)), format_bytes(row.store_bytes),
               format_ns(row.open.median()), row.restore.text_ns(), format_rate(row.rate.median()),
               format_rate(row.disk_rate.median()), format_rate(row.unpack_rate.median()),
               fmt::format("{:.2f}",
                           per_second(row.bytes, static_cast<std::uint64_t>(row.restore.median())) / limit_rate(row)),
               format_ns(row.populate.median())});
  return table.text();
}

std::string lazily_as_text(const std::vector<RestoreRow>& rows) {
  using Align = Table::Align;
  Table table({{"LAZY RESTORE OF"},
               {"STORE", Align::right},
               {"OPEN", Align::right},
               {"MANIFEST ALONE", Align::right},
               {"RETURNED", Align::right},
               {"FIRST BYTE", Align::right},
               {"IN PLACE", Align::right}});
  std::string why;
  for (const auto& row : rows) {
    table.add({fmt::format("{} {}", format_bytes(row.bytes), to_string(row.data)), format_bytes(row.store_bytes),
               format_ns(row.open.median()), format_ns(row.manifest.median()), row.restore.text_ns(),
               row.first.text_ns(), row.in_place.text_ns()});
    if (!row.eager_why.empty()) why = "restored eagerly: " + row.eager_why + "\n";
  }
  return table.text() + why;
}

Status measure_all(const RestoreBench& options, std::vector<RestoreRow>& rows) {
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, disk_need(options)));
  for (const auto& name : options.data) {
    VARVE_TRY_ASSIGN(auto row, measure(options, *parse_data(name), scratch));
    rows.push_back(std::move(row));
  }
  return {};
}

ReportSection section_of(const std::vector<RestoreRow>& rows) {
  ReportSection section{.title = "Restore",
                        .text = "The newest image, from opening the store to memory that is right and was compared."};
  std::vector<plot::BarGroup> rates, times;
  for (const auto& row : rows) {
    const std::string name = fmt::format("{} {}", format_bytes(row.bytes), to_string(row.data));
    rates.push_back({name, {bar_of(0, row.rate), bar_of(1, row.disk_rate, true)}});
    times.push_back({name, {bar_of(0, row.open), bar_of(1, row.restore), bar_of(2, row.populate, true)}});
  }
  section.plots.push_back(plot::bars(
      {"Speed against the disk alone", "The disk alone: O_DIRECT sequential reading of the store's files.", "rate"},
      {"restored memory", "disk alone"}, rates));
  section.plots.push_back(plot::bars({"Time", "Faulting in: as much memory, touched for the first time.", "ns"},
                                     {"open the store", "restore", "faulting in alone"}, times));
  return section;
}

}  // namespace

DiskNeed disk_need(const RestoreBench& options) {
  const std::uint64_t pages = PageSequence({.bytes = options.bytes, .dirty = kDeltaDirty}).pages_per_epoch();
  return {.store_bytes = full_image_bytes(options.bytes) + options.deltas * delta_image_bytes(pages)};
}

Result<BenchResult> bench_restore(const RestoreBench& options) {
  std::vector<RestoreRow> rows;
  VARVE_TRY(measure_all(options, rows));
  BenchResult result;
  for (const auto& row : rows) result.rows.push_back(as_json(row, options));
  result.text = options.lazy ? lazily_as_text(rows) : as_text(rows);
  result.sections.push_back(section_of(rows));
  return result;
}

BenchCommand add_restore(CLI::App& parent) {
  auto options = std::make_shared<RestoreBench>();
  auto* app = parent.add_subcommand("restore",
                                    "Measure restoring the newest image into memory that was never touched, from the\n"
                                    "disk (not its cache); what came back is compared. Beside it: O_DIRECT reading of\n"
                                    "the same bytes, and faulting in the same memory.");
  add_size(*app, "--size", options->bytes, "of the protected memory");
  add_data_list(*app, options->data);
  app->add_option("--repetitions", options->repetitions, "restores of each kind")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  app->add_option("--deltas", options->deltas, "delta images of 1 % each behind the full one")
      ->check(CLI::Range(0u, 10'000u))
      ->capture_default_str();
  app->add_flag("--cached", options->cached, "leave the store in the page cache");
  app->add_flag("--lazy", options->lazy,
                "RestoreOptions::lazy: the time until restore() returns, to the first byte, until all is in place");
  app->add_flag("--touched", options->touched, "into memory that was written before, instead of untouched memory");
  add_back_ends(*app, options->setup.back_ends);
  add_setup(*app, options->setup);
  add_html(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench restore --size 1GiB --data particles --deltas 20 --store /scratch/bench\n"
             "  ckpt-bench restore --size 4GiB --lazy --store /scratch/bench\n"
             "  ckpt-bench restore --size 1GiB --huge-pages always --store /scratch/bench --json\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_benchmark(options->setup, "restore", [&] { return bench_restore(*options); });
          }};
}

}  // namespace varve::tools
