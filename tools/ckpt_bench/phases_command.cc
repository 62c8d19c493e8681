// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench phases: a program whose pattern changes, and how many checkpoints the engine takes to follow.
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"
#include "tools/ckpt_bench/workload.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

struct PhasesOptions {
  BenchSetup setup;
  BackEnds back_ends;
  std::uint64_t bytes = std::uint64_t{1} << 30;
  unsigned epochs = 20;
  DataKind data = DataKind::random;
};

struct Epoch {
  ImageResult image;
  EpochTime time;
};

struct Phase {
  std::string name;
  std::uint64_t pages = 0;  ///< written in each epoch
  std::vector<Epoch> epochs;

  Samples steady(std::uint64_t (*figure)(const Epoch&)) const {
    Samples samples;
    for (std::size_t i = epochs.size() / 2; i < epochs.size(); ++i) samples.add(figure(epochs[i]));
    return samples;
  }
  double steady_stall_ns() const {
    return steady([](const Epoch& epoch) { return epoch.image.stall_ns; }).median();
  }
  /// The epochs before the first one that stalls for at most half as much again as the later ones, and names at most
  /// a quarter more pages than are written.
  std::size_t recovered_after() const {
    const double stall_ns = 1.5 * steady_stall_ns();
    const double suspects = 1.25 * static_cast<double>(pages);
    for (std::size_t i = 0; i < epochs.size(); ++i) {
      const ImageResult& image = epochs[i].image;
      if (static_cast<double>(image.stall_ns) <= stall_ns && static_cast<double>(image.suspect_pages) <= suspects)
        return i;
    }
    return epochs.size();
  }
};

WorkloadShape shape_of(const PhasesOptions& options, double dirty, std::uint64_t variation) {
  return {.bytes = options.bytes,
          .dirty = dirty,
          .pattern = Pattern::scattered,
          .repeat_pages = true,
          .data = options.data,
          .variation = variation};
}

Result<std::vector<Phase>> measure_phases(const PhasesOptions& options) {
  Progress progress("ckpt-bench phases", options.setup.common.show_progress());
  // A full image, and the deltas of four phases, one of which writes half of the memory.
  const std::uint64_t images = options.bytes + options.epochs * (options.bytes / 2 + options.bytes / 16);
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, {.store_bytes = full_image_bytes(images)}));
  VARVE_TRY_ASSIGN(auto memory, Mapping::create({.bytes = options.bytes,
                                                 .offset = options.setup.offset,
                                                 .huge_pages = huge_pages(options.setup)}));
  fill(memory.bytes(), options.data, 1);
  VARVE_TRY_ASSIGN(auto engine, Engine::open(engine_options(options.setup, options.back_ends, scratch.store())));
  VARVE_TRY(engine.protect("memory", memory.bytes().data(), memory.bytes().size()));
  CheckpointOptions full;
  full.sync = true;
  VARVE_TRY(engine.checkpoint(full));

  std::vector<Phase> phases;
  std::uint64_t salt = 1;
  for (const auto& [name, dirty, variation] : {std::tuple("1 % here", 0.01, 1U),
                                               {"1 % elsewhere", 0.01, 2U},
                                               {"50 %", 0.5, 3U},
                                               {"1 % here again", 0.01, 1U}}) {
    PageSequence pages(shape_of(options, dirty, variation));
    Phase phase{.name = name, .pages = pages.pages_per_epoch(), .epochs = {}};
    for (unsigned i = 0; i < options.epochs; ++i) {
      VARVE_TRY(check_interrupted());
      const EpochTime time = run_epoch(memory.bytes(), pages.next(), options.data, ++salt);
      VARVE_TRY_ASSIGN(const Ticket ticket, engine.checkpoint());
      VARVE_TRY_ASSIGN(const ImageResult image, ticket.wait());
      phase.epochs.push_back({image, time});
      progress.update(phases.size() * options.epochs + i + 1, 4 * options.epochs, "checkpoints");
    }
    phases.push_back(std::move(phase));
  }
  VARVE_TRY(engine.close());
  return phases;
}

nlohmann::json phase_json(const Phase& phase) {
  auto epochs = nlohmann::json::array();
  for (const Epoch& epoch : phase.epochs)
    epochs.push_back({{"stall_ns", epoch.image.stall_ns},
                      {"suspect_pages", epoch.image.suspect_pages},
                      {"cooled_pages", epoch.image.cooled_pages},
                      {"mistaken_pages", epoch.image.mistaken_pages},
                      {"unlisted_bytes", epoch.image.unlisted_bytes},
                      {"epoch_ns", epoch.time.ns},
                      {"epoch_processor_ns", epoch.time.processor_ns}});
  const auto processor = [](const Epoch& epoch) { return epoch.time.processor_ns; };
  return {{"phase", phase.name},
          {"written_pages", phase.pages},
          {"recovered_after_epochs", phase.recovered_after()},
          {"steady_stall_ns", phase.steady_stall_ns()},
          {"steady_epoch_processor_ns", phase.steady(processor).json()},
          {"epochs", std::move(epochs)}};
}

std::string phases_table(const std::vector<Phase>& phases) {
  using Align = Table::Align;
  constexpr std::size_t kShown = 5;
  std::vector<Table::Column> columns = {{"PHASE"}, {"WRITTEN", Align::right}};
  for (std::size_t i = 1; i <= kShown; ++i) columns.push_back({fmt::format("EPOCH {}", i), Align::right});
  columns.push_back({"LATER", Align::right});
  columns.push_back({"RECOVERED AFTER", Align::right});
  Table stalls(columns), suspects(columns);
  for (const Phase& phase : phases) {
    std::vector<std::string> stall = {phase.name, format_count(phase.pages)}, named = stall;
    for (std::size_t i = 0; i < kShown; ++i) {
      const bool there = i < phase.epochs.size();
      stall.push_back(there ? format_ns(static_cast<double>(phase.epochs[i].image.stall_ns)) : "-");
      named.push_back(there ? format_count(phase.epochs[i].image.suspect_pages) : "-");
    }
    const auto recovered = fmt::format("{} epochs", phase.recovered_after());
    stall.insert(stall.end(), {format_ns(phase.steady_stall_ns()), recovered});
    const auto later = phase.steady([](const Epoch& epoch) { return epoch.image.suspect_pages; }).median();
    named.insert(named.end(), {format_count(static_cast<std::uint64_t>(later)), recovered});
    stalls.add(std::move(stall));
    suspects.add(std::move(named));
  }
  return "stall\n" + stalls.text() + "\nsuspect pages\n" + suspects.text();
}

int run_phases(const PhasesOptions& options) {
  auto header = header_json(options.setup, "phases");
  const auto phases = measure_phases(options);
  if (!phases) return report("ckpt-bench phases", phases.error());
  auto rows = nlohmann::json::array();
  for (const Phase& phase : *phases) rows.push_back(phase_json(phase));
  return print_rows(options.setup, "phases", std::move(header), std::move(rows), nlohmann::json::array(),
                    phases_table(*phases));
}

}  // namespace

BenchCommand add_phases(CLI::App& parent) {
  auto options = std::make_shared<PhasesOptions>();
  auto* app = parent.add_subcommand(
      "phases",
      "Measure how many checkpoints the engine takes to follow a program whose pattern changes: the same 1 % of the\n"
      "pages in each epoch, then as many others, then half of all, then the first 1 % again.");
  add_size(*app, "--size", options->bytes, "of the protected memory");
  add_data(*app, options->data);
  app->add_option("--epochs", options->epochs, "in each phase")->check(CLI::Range(2U, 100'000U))->capture_default_str();
  add_back_ends(*app, options->back_ends);
  add_setup(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench phases --size 1GiB --store /scratch/bench\n"
             "  ckpt-bench phases --store /scratch/bench --json | jq '.rows[].recovered_after_epochs'\n");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_phases(*options);
          }};
}

}  // namespace varve::tools
