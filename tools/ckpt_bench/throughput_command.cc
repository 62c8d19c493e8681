// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench throughput: a full image, from the cut to durable, in turns with writing as many bytes as it wrote; and
// what it costs a program that goes on meanwhile.
#include <algorithm>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "base/try.h"
#include "tools/ckpt_bench/benchmarks.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/lz4_alone.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/stages.h"
#include "tools/ckpt_bench/yardstick.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

/// A program that sums up its memory again and again, alone and while an image of it is being written.
struct Slowdown {
  unsigned threads = 0;  ///< of the engine
  Samples plain, with;   ///< time of a sweep
  double share() const { return plain.median() > 0 && !with.empty() ? with.median() / plain.median() - 1 : 0; }
  nlohmann::json json() const {
    const auto known = with.empty() ? nlohmann::json() : nlohmann::json(share());
    return {{"threads", threads}, {"slowdown", known}, {"sweep_ns", with.json()}, {"sweep_ns_alone", plain.json()}};
  }
};

struct ThroughputRow {
  DataKind data = DataKind::random;
  std::uint64_t bytes = 0;
  Choices choices;
  Samples durable, reduce, commit, stall, written;
  Samples rate;          ///< protected bytes a second, cut to durable
  Samples written_rate;  ///< bytes that reached the disk
  Samples disk_rate;
  Samples lz4_rate;  ///< memory that LZ4 alone packs, with as many threads
  double lz4_ratio = 1;
  std::vector<StageTimes> stages;
  bool direct = true;
  std::vector<Slowdown> slowdowns;
};

Status repeat_once(const ThroughputBench& options, Scratch& scratch, const Mapping& memory, ThroughputRow& row) {
  VARVE_TRY(check_interrupted());
  // Each is written while the other's file is there: a disk may be slower, or faster, as long as little is on it.
  VARVE_TRY(scratch.remove_store());
  scratch.settle();
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_options(options.setup, options.setup.back_ends, scratch.store())));
  RegionOptions region;
  region.element_bytes = element_bytes(row.data);
  VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size(), region));
  CheckpointOptions full;
  full.full = true;
  VARVE_TRY_ASSIGN(const Ticket ticket, engine.checkpoint(full));
  VARVE_TRY_ASSIGN(const ImageResult image, ticket.wait());
  row.choices = engine.choices();
  VARVE_TRY(engine.close());

  row.durable.add(image.durable_ns);
  row.reduce.add(image.reduce_ns);
  row.commit.add(image.commit_ns);
  row.stall.add(image.stall_ns);
  row.stages.push_back(stages_of(image));
  row.written.add(image.written_bytes);
  row.rate.add(per_second(row.bytes, image.durable_ns));
  row.written_rate.add(per_second(image.written_bytes, image.durable_ns));
  VARVE_TRY(scratch.remove_yardstick());
  scratch.settle();
  VARVE_TRY_ASSIGN(const DirectTiming disk, write_direct(scratch.yardstick(), image.written_bytes));
  row.disk_rate.add(per_second(image.written_bytes, disk.ns));
  const unsigned threads = engine_options(options.setup, options.setup.back_ends, scratch.store()).threads;
  VARVE_TRY_ASSIGN(const Lz4Alone lz4, lz4_alone(memory.bytes(), threads));
  row.lz4_rate.add(lz4.pack_bytes_per_second);
  row.lz4_ratio = lz4.ratio;
  row.direct = row.direct && disk.direct;
  return {};
}

Result<Slowdown> measure_slowdown(const ThroughputBench& options, unsigned threads, Scratch& scratch,
                                  const Mapping& memory, DataKind data) {
  constexpr std::size_t kSweepBytes = std::size_t{64} << 20;  // so that there are many while an image is written
  constexpr unsigned kPlainSweeps = 20;
  VARVE_TRY(check_interrupted());
  VARVE_TRY(scratch.remove_store());
  Slowdown slowdown;
  slowdown.threads = threads;
  const auto swept = memory.bytes().first(std::min(memory.bytes().size(), kSweepBytes));
  const auto sweep = [&] { return run_epoch(swept, {}, data, 1).ns; };
  sweep();
  for (unsigned i = 0; i < kPlainSweeps; ++i) slowdown.plain.add(sweep());
  Options engine_with = engine_options(options.setup, options.setup.back_ends, scratch.store());
  engine_with.threads = threads;
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_with));
  RegionOptions region;
  region.element_bytes = element_bytes(data);
  VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size(), region));
  VARVE_TRY_ASSIGN(const Ticket ticket, engine.checkpoint());
  while (!ticket.ready()) {
    const std::uint64_t ns = sweep();
    if (!ticket.ready()) slowdown.with.add(ns);  // else a part of it was swept alone
  }
  VARVE_TRY(ticket.wait());
  VARVE_TRY(engine.close());
  return slowdown;
}

Result<ThroughputRow> measure(const ThroughputBench& options, DataKind data, Scratch& scratch) {
  Progress progress(fmt::format("ckpt-bench throughput, {}", to_string(data)), options.setup.common.show_progress());
  ThroughputRow row;
  row.data = data;
  row.bytes = options.bytes;
  VARVE_TRY_ASSIGN(const Mapping memory, Mapping::create({.bytes = options.bytes,
                                                          .offset = options.setup.offset,
                                                          .huge_pages = huge_pages(options.setup)}));
  fill(memory.bytes(), data, 1);
  VARVE_TRY(scratch.remove_yardstick());
  VARVE_TRY(write_direct(scratch.yardstick(), options.bytes));
  for (unsigned i = 0; i < options.repetitions; ++i) {
    progress.update(i, options.repetitions, "images");
    VARVE_TRY(repeat_once(options, scratch, memory, row));
  }
  const std::vector<unsigned> counts =
      options.setup.threads == 0 ? std::vector<unsigned>{1, 2} : std::vector<unsigned>{options.setup.threads};
  for (const unsigned threads : counts) {
    progress.update(fmt::format("a program beside {} threads", threads));
    VARVE_TRY_ASSIGN(auto slowdown, measure_slowdown(options, threads, scratch, memory, data));
    row.slowdowns.push_back(std::move(slowdown));
  }
  return row;
}

// Memory a second at most: as many bytes written by the disk alone, or all of it packed by LZ4 alone, whichever takes
// longer.
double disk_limit(const ThroughputRow& row) {
  return static_cast<double>(row.bytes) * row.disk_rate.median() / row.written.median();
}
double limit_rate(const ThroughputRow& row) { return std::min(disk_limit(row), row.lz4_rate.median()); }

nlohmann::json as_json(const ThroughputRow& row) {
  const double disk = row.disk_rate.median();
  auto slowdowns = nlohmann::json::array();
  for (const auto& slowdown : row.slowdowns) slowdowns.push_back(slowdown.json());
  return {{"workload", fmt::format("full image, {} {}", format_bytes(row.bytes), to_string(row.data))},
          {"data", to_string(row.data)},
          {"bytes", row.bytes},
          {"bytes_per_second", row.rate.median()},
          {"disk_bytes_per_second", disk},
          {"written_bytes_per_second", row.written_rate.median()},
          {"written_over_disk", disk > 0 ? nlohmann::json(row.written_rate.median() / disk) : nlohmann::json()},
          {"lz4_bytes_per_second", row.lz4_rate.median()},
          {"lz4_ratio", row.lz4_ratio},
          {"rate_over_limit", disk > 0 ? nlohmann::json(row.rate.median() / limit_rate(row)) : nlohmann::json()},
          {"written_bytes", row.written.json()},
          {"durable_ns", row.durable.json()},
          {"stall_ns", row.stall.json()},
          {"reduce_ns", row.reduce.json()},
          {"commit_ns", row.commit.json()},
          {"disk_by_direct_io", row.direct},
          {"slowdowns", std::move(slowdowns)},
          {"tracker", row.choices.tracker},
          {"capture", row.choices.capture},
          {"io", row.choices.io}};
}

std::string slowdowns_text(const ThroughputRow& row) {
  std::string text;
  for (const auto& slowdown : row.slowdowns)
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ",
                        slowdown.with.empty() ? "-" : format_percent(slowdown.share()), slowdown.threads);
  return text;
}

std::string as_text(const std::vector<ThroughputRow>& rows) {
  using Align = Table::Align;
  Table table({{"FULL IMAGE OF"},
               {"WRITTEN", Align::right},
               {"STALL", Align::right},
               {"DURABLE", Align::right},
               {"PROTECTED", Align::right},
               {"WRITTEN", Align::right},
               {"DISK ALONE", Align::right},
               {"LZ4 ALONE", Align::right},
               {"/SLOWER OF THEM", Align::right},
               {"SLOWER", Align::right}});
  for (const auto& row : rows) {
    const double disk = row.disk_rate.median();
    table.add({fmt::format("{} {}", format_bytes(row.bytes), to_string(row.data)),
               format_bytes(static_cast<std::uint64_t>(row.written.median())), format_ns(row.stall.median()),
               row.durable.text_ns(), format_rate(row.rate.median()), format_rate(row.written_rate.median()),
               format_rate(disk), format_rate(row.lz4_rate.median()),
               disk > 0 ? fmt::format("{:.2f}", row.rate.median() / limit_rate(row)) : "-", slowdowns_text(row)});
  }
  return table.text();
}

Status measure_all(const ThroughputBench& options, std::vector<ThroughputRow>& rows) {
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, disk_need(options)));
  for (const auto& name : options.data) {
    VARVE_TRY_ASSIGN(auto row, measure(options, *parse_data(name), scratch));
    rows.push_back(std::move(row));
  }
  return {};
}

ReportSection section_of(const std::vector<ThroughputRow>& rows) {
  ReportSection section{.title = "Full images", .text = "From the cut to durable."};
  std::vector<plot::BarGroup> rates, sizes;
  std::vector<plot::Lane> lanes;
  for (const auto& row : rows) {
    const std::string name = fmt::format("{} {}", format_bytes(row.bytes), to_string(row.data));
    rates.push_back({name, {bar_of(0, row.rate), bar_of(1, row.written_rate), bar_of(2, row.disk_rate, true)}});
    sizes.push_back({name,
                     {{.series = 0, .value = static_cast<double>(row.bytes), .reference = true, .note = {}},
                      bar_of(1, row.written)}});
    lanes.push_back(lane_of(name, typical(row.stages)));
  }
  section.plots.push_back(plot::bars(
      {"Speed against the disk alone",
       "The disk alone: O_DIRECT sequential writing of as many bytes to a fresh, preallocated file, with its flush.",
       "rate"},
      {"protected memory", "written to disk", "disk alone"}, rates));
  section.plots.push_back(
      plot::bars({"Bytes on disk", "Frames with names, manifest, padding.", "bytes"}, {"memory", "written"}, sizes));
  section.plots.push_back(stage_plot("A typical image, stage by stage", lanes));
  return section;
}

}  // namespace

// Once the store is closed, the yardstick beside it writes as much.
DiskNeed disk_need(const ThroughputBench& options) {
  return {.store_bytes = full_image_bytes(options.bytes), .beside_bytes = full_image_bytes(options.bytes)};
}

Result<BenchResult> bench_throughput(const ThroughputBench& options) {
  std::vector<ThroughputRow> rows;
  VARVE_TRY(measure_all(options, rows));
  BenchResult result;
  for (const auto& row : rows) result.rows.push_back(as_json(row));
  result.text = as_text(rows);
  result.sections.push_back(section_of(rows));
  return result;
}

BenchCommand add_throughput(CLI::App& parent) {
  auto options = std::make_shared<ThroughputBench>();
  auto* app =
      parent.add_subcommand("throughput",
                            "Measure a full image from the cut to durable, in turns with O_DIRECT sequential\n"
                            "writing and fdatasync(2) of as many bytes to a fresh, preallocated file. And how much\n"
                            "slower a program runs beside it that reads its memory: with 1 and 2 threads of the\n"
                            "engine, or with --threads.");
  add_size(*app, "--size", options->bytes, "of the protected memory");
  add_data_list(*app, options->data);
  app->add_option("--repetitions", options->repetitions, "images of each kind")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  add_back_ends(*app, options->setup.back_ends);
  add_setup(*app, options->setup);
  add_html(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench throughput --size 1GiB --data random,particles --store /scratch/bench\n"
             "  ckpt-bench throughput --size 4GiB --data field --store /scratch/bench --json | jq '.rows[0]'\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_benchmark(options->setup, "throughput", [&] { return bench_throughput(*options); });
          }};
}

}  // namespace varve::tools
