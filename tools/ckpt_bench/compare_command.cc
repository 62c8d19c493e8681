// SPDX-License-Identifier: Apache-2.0
//
// ckpt-bench compare: the same program, checkpointed by several means, in turns.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "base/clock.h"
#include "base/os_error.h"
#include "base/try.h"
#include "base/unique_fd.h"
#include "tools/ckpt_bench/benchmarks.h"
#include "tools/ckpt_bench/commands.h"
#include "tools/ckpt_bench/yardstick.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

constexpr unsigned kDeltas = 3;  // counted in each turn
constexpr unsigned kWarmUp = 2;  // deltas before them
enum Method : std::size_t { kDelta, kFull, kWrite, kFork, kFirstPeer };
constexpr std::array<const char*, kFirstPeer> kNames = {"varve, delta", "varve, full", "write", "fork"};

struct MethodRow {
  std::string name;
  std::string setup;  // how it was set up, in a sentence
  Samples stall = {}, durable = {}, bytes = {}, restore = {};
  Samples idle = {};    // what a peer's stall would have been found to be without a checkpoint
  Samples epoch = {};   // of the program, right behind the cut
  Samples beside = {};  // the share of it during which the checkpoint was on its way to the disk
  std::string failure = {};
};

std::vector<MethodRow> method_rows(const CompareBench& options) {
  std::vector<MethodRow> rows(kFirstPeer);
  rows[kDelta] = {.name = kNames[kDelta],
                  .setup =
                      "Engine::checkpoint() after each epoch: what the epoch changed. Stall: the call. Restored from "
                      "the full image and the deltas behind it, opening the store included."};
  rows[kFull] = {.name = kNames[kFull], .setup = "the first checkpoint() of an engine: everything. Stall: the call."};
  rows[kWrite] = {.name = kNames[kWrite],
                  .setup =
                      "write(2) of all memory in pieces of 8 MiB to a fresh file, and fdatasync(2); the program waits. "
                      "Restored by read(2) into fresh memory, from the disk."};
  rows[kFork] = {
      .name = kNames[kFork],
      .setup =
          "fork(2), and the child does what 'write' does, with its fdatasync(2), as libckpt did; the program "
          "goes on, and copies each page that it writes first. Stall: the fork. The file is that of 'write'."};
  for (const auto& peer : options.peers)
    rows.push_back(
        {.name = peer.name,
         .setup = fmt::format(
             "'{}' by /bin/sh, on a process of its own with as much memory of the same content "
             "that only looks at the clock. Stall: the longest time for which it did not; "
             "beside it, the same without a checkpoint, for as long. Durable: the command and a syncfs(2) behind it.",
             peer.command)});
  return rows;
}

class CompareRun {
 public:
  CompareRun(const CompareBench& options, Scratch& scratch, Progress& progress)
      : options_(options), scratch_(scratch), progress_(progress), pages_(options.shape), rows_(method_rows(options)) {}

  Result<std::vector<MethodRow>> run();
  const Samples& plain_epoch() const { return plain_; }

 private:
  Status turn();
  Status by_varve();
  Status by_write();
  Status by_fork();
  Status by_peer(std::size_t index);
  static Result<std::uint64_t> idle_gap_ns(Victim& victim, std::uint64_t for_ns);
  Status checkpoint(Engine& engine, MethodRow& row, bool counted);
  static void add_epoch(MethodRow& row, std::uint64_t begin_ns, std::uint64_t took_ns, std::uint64_t durable_at_ns);
  Status restore_varve();
  Status restore_file(const std::string& path, MethodRow& row);
  Result<Mapping> fresh_memory(bool populated) const {
    return Mapping::create({.bytes = options_.shape.bytes,
                            .offset = options_.setup.offset,
                            .huge_pages = huge_pages(options_.setup),
                            .populate = populated});
  }
  Status check_same(const Mapping& restored, const MethodRow& row) const;
  std::uint64_t epoch() { return run_epoch(memory_->bytes(), pages_.next(), options_.shape.data, ++salt_).ns; }

  const CompareBench& options_;
  Scratch& scratch_;
  Progress& progress_;
  PageSequence pages_;
  std::vector<MethodRow> rows_;
  Samples plain_;
  std::optional<Mapping> memory_;
  std::uint64_t salt_ = 0;
};

Status CompareRun::check_same(const Mapping& restored, const MethodRow& row) const {
  if (std::memcmp(restored.bytes().data(), memory_->bytes().data(), memory_->bytes().size()) == 0) return {};
  return fail(ErrorCode::corruption, {"comparison of what '" + row.name + "' restored failed",
                                      "memory differs from the original", "keep the store (--keep) and report it"});
}

void CompareRun::add_epoch(MethodRow& row, std::uint64_t begin_ns, std::uint64_t took_ns, std::uint64_t durable_at_ns) {
  const double beside = durable_at_ns > begin_ns ? static_cast<double>(durable_at_ns - begin_ns) : 0;
  row.epoch.add(took_ns);
  row.beside.add(took_ns == 0 ? 0 : std::min(1.0, beside / static_cast<double>(took_ns)));
}

Status CompareRun::checkpoint(Engine& engine, MethodRow& row, bool counted) {
  VARVE_TRY(check_interrupted());
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(const Ticket ticket, engine.checkpoint());
  const std::uint64_t epoch_begin_ns = monotonic_ns();
  const std::uint64_t epoch_ns = epoch();
  VARVE_TRY_ASSIGN(const ImageResult image, ticket.wait());
  if (!counted) return {};
  row.stall.add(image.stall_ns);
  row.durable.add(image.durable_ns);
  row.bytes.add(image.written_bytes);
  add_epoch(row, epoch_begin_ns, epoch_ns, begin_ns + image.durable_ns);
  return {};
}

Status CompareRun::by_varve() {
  VARVE_TRY(scratch_.remove_store());
  VARVE_TRY_ASSIGN(auto engine,
                   Engine::open(engine_options(options_.setup, options_.setup.back_ends, scratch_.store())));
  RegionOptions region;
  region.element_bytes = element_bytes(options_.shape.data);
  VARVE_TRY(engine.protect("memory", memory_->bytes().data(), memory_->bytes().size(), region));
  VARVE_TRY(checkpoint(engine, rows_[kFull], true));
  for (unsigned i = 0; i < kWarmUp + kDeltas; ++i) VARVE_TRY(checkpoint(engine, rows_[kDelta], i >= kWarmUp));
  CheckpointOptions last;  // of what the epoch behind the last one changed, so that a restore gives what is there
  last.sync = true;
  VARVE_TRY(engine.checkpoint(last));
  VARVE_TRY(engine.close());
  return restore_varve();
}

Status CompareRun::restore_varve() {
  for (const auto& segment : scratch_.segments()) drop_cached(segment);
  VARVE_TRY_ASSIGN(const Mapping fresh, fresh_memory(false));
  const std::uint64_t begin_ns = monotonic_ns();
  VARVE_TRY_ASSIGN(auto engine,
                   Engine::open(engine_options(options_.setup, options_.setup.back_ends, scratch_.store())));
  VARVE_TRY(engine.protect("memory", fresh.bytes().data(), fresh.bytes().size()));
  VARVE_TRY(engine.restore("latest"));
  rows_[kDelta].restore.add(monotonic_ns() - begin_ns);
  VARVE_TRY(engine.close());
  return check_same(fresh, rows_[kDelta]);
}

Status CompareRun::restore_file(const std::string& path, MethodRow& row) {
  drop_cached(path);
  VARVE_TRY_ASSIGN(const Mapping fresh, fresh_memory(false));
  VARVE_TRY_ASSIGN(const std::uint64_t ns, read_file(path, fresh.bytes()));
  row.restore.add(ns);
  return check_same(fresh, row);
}

Status CompareRun::by_write() {
  MethodRow& row = rows_[kWrite];
  VARVE_TRY_ASSIGN(const std::uint64_t ns, write_file(scratch_.yardstick(), memory_->bytes()));
  row.stall.add(ns);
  row.durable.add(ns);
  row.bytes.add(options_.shape.bytes);
  const auto restored = restore_file(scratch_.yardstick(), row);
  unlink(scratch_.yardstick().c_str());
  return restored;
}

Status CompareRun::by_fork() {
  MethodRow& row = rows_[kFork];
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return os_error("pipe for a child that writes failed", errno);
  const UniqueFd from_child(ends[0]), to_parent(ends[1]);
  const std::uint64_t begin_ns = monotonic_ns();
  const pid_t child = fork();
  if (child == 0) {  // it says when it has written, since the program may be within an epoch then
    const bool written = write_file(scratch_.yardstick(), memory_->bytes()).has_value();
    const std::uint64_t now_ns = monotonic_ns();
    _exit(written && write(to_parent.get(), &now_ns, sizeof now_ns) == sizeof now_ns ? 0 : 1);
  }
  if (child < 0) {
    row.failure = "fork: " + describe_errno(errno);
    return {};
  }
  const std::uint64_t epoch_begin_ns = monotonic_ns();
  const std::uint64_t epoch_ns = epoch();
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  unlink(scratch_.yardstick().c_str());
  std::uint64_t durable_at_ns = 0;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 ||
      read(from_child.get(), &durable_at_ns, sizeof durable_at_ns) != sizeof durable_at_ns) {
    row.failure = "the child could not write " + scratch_.yardstick();
    return {};
  }
  row.stall.add(epoch_begin_ns - begin_ns);
  row.durable.add(durable_at_ns - begin_ns);
  row.bytes.add(options_.shape.bytes);
  add_epoch(row, epoch_begin_ns, epoch_ns, durable_at_ns);
  return {};
}

// The longest gap of a process that nobody checkpoints: of a time as long as the checkpoint, up to a bound, since the
// longer one looks, the longer are the times for which the kernel runs somebody else.
Result<std::uint64_t> CompareRun::idle_gap_ns(Victim& victim, std::uint64_t for_ns) {
  constexpr std::uint64_t kShortest = 50'000'000, kLongest = 10'000'000'000;
  const std::uint64_t until = monotonic_ns() + std::clamp(for_ns, kShortest, kLongest);
  victim.forget_gaps();
  while (monotonic_ns() < until) {
    VARVE_TRY(check_interrupted());
    usleep(10'000);
  }
  return victim.longest_gap_ns();
}

Status CompareRun::by_peer(std::size_t index) {
  MethodRow& row = rows_[kFirstPeer + index];
  if (!row.failure.empty()) return {};  // once is enough
  VARVE_TRY_ASSIGN(const std::string directory, scratch_.fresh_directory());
  VARVE_TRY_ASSIGN(Victim victim, Victim::create(memory_->bytes()));
  victim.forget_gaps();
  const pid_t pid = victim.pid();
  VARVE_TRY_ASSIGN(const PeerRun run, run_peer(options_.peers[index], pid, directory, options_.peer_seconds));
  if (!run.failure.empty()) {
    row.failure = run.failure;
    return {};
  }
  usleep(50'000);        // what was killed may take a moment to be gone
  if (victim.alive()) {  // one that was ended by its checkpoint has no stall: it never went on
    row.stall.add(victim.longest_gap_ns());
    VARVE_TRY_ASSIGN(const std::uint64_t idle_ns, idle_gap_ns(victim, run.ns));
    row.idle.add(idle_ns);
  }
  row.durable.add(run.ns);
  if (const std::uint64_t bytes = Scratch::allocated_bytes(directory); bytes > 0) row.bytes.add(bytes);
  return {};
}

Status CompareRun::turn() {
  epoch();  // what the method before left in the caches
  plain_.add(epoch());
  VARVE_TRY(by_varve());
  epoch();
  VARVE_TRY(by_write());
  epoch();
  VARVE_TRY(by_fork());
  for (std::size_t i = 0; i < options_.peers.size(); ++i) {
    VARVE_TRY(check_interrupted());
    VARVE_TRY(by_peer(i));
  }
  return {};
}

Result<std::vector<MethodRow>> CompareRun::run() {
  progress_.update("filling memory");
  VARVE_TRY_ASSIGN(memory_, fresh_memory(true));
  fill(memory_->bytes(), options_.shape.data, 1);
  for (unsigned i = 0; i < options_.repetitions; ++i) {
    VARVE_TRY(check_interrupted());
    progress_.update(i, options_.repetitions, "turns");
    VARVE_TRY(turn());
  }
  return std::move(rows_);
}

nlohmann::json as_json(const MethodRow& row, const WorkloadShape& shape, const Samples& plain) {
  return {{"workload", describe(shape)},
          {"method", row.name},
          {"setup", row.setup},
          {"failed", row.failure.empty() ? nlohmann::json() : nlohmann::json(row.failure)},
          {"stall_ns", row.stall.json()},
          {"idle_gap_ns", row.idle.json()},
          {"durable_ns", row.durable.json()},
          {"disk_bytes", row.bytes.json()},
          {"restore_ns", row.restore.json()},
          {"epoch_ns", {{"without", plain.json()}, {"next", row.epoch.json()}}},
          {"epoch_share_beside", row.beside.json()}};
}

std::string slower_text(const MethodRow& row, const Samples& plain) {
  if (row.epoch.empty() || plain.median() <= 0) return "-";
  return format_percent(row.epoch.median() / plain.median() - 1);
}

std::string idle_text(const MethodRow& row) {
  return row.idle.empty() ? "" : fmt::format("; idle {}", format_ns(row.idle.median()));
}

std::string beside_text(const MethodRow& row) { return row.beside.empty() ? "-" : format_percent(row.beside.median()); }

std::vector<std::string> cells_of(const MethodRow& row, const Samples& plain) {
  const auto bytes = row.bytes.empty() ? "-" : format_bytes(static_cast<std::uint64_t>(row.bytes.median()));
  return {row.name,
          row.failure.empty() ? row.stall.text_ns() + idle_text(row) : "failed",
          row.durable.text_ns(),
          bytes,
          row.restore.text_ns(),
          slower_text(row, plain),
          beside_text(row)};
}

std::string as_text(const std::vector<MethodRow>& rows, const WorkloadShape& shape, const Samples& plain) {
  using Align = Table::Align;
  Table table({{"METHOD"},
               {"STALL", Align::right},
               {"DURABLE", Align::right},
               {"ON DISK", Align::right},
               {"RESTORE", Align::right},
               {"NEXT EPOCH SLOWER", Align::right},
               {"OF IT BESIDE", Align::right}});
  for (const auto& row : rows) table.add(cells_of(row, plain));
  std::string text = describe(shape) + "\n\n" + table.text() + "\nhow each was set up:\n";
  for (const auto& row : rows) text += fmt::format("  {}: {}\n", row.name, row.setup);
  for (const auto& row : rows)
    if (!row.failure.empty()) text += fmt::format("{} failed: {}\n", row.name, row.failure);
  return text;
}

ReportSection section_of(const std::vector<MethodRow>& rows, const WorkloadShape& shape, const Samples& plain) {
  ReportSection section{.title = "Against what one would do instead",
                        .text = describe(shape) + ". All in turns, in one run; below, how each was set up."};
  const auto group = [&rows](const Samples MethodRow::*figure) {
    std::vector<plot::BarGroup> groups;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      auto bar = bar_of(0, rows[i].*figure);
      if (!rows[i].failure.empty()) bar.note = "failed";
      groups.push_back({rows[i].name, {bar}});
    }
    return groups;
  };
  auto stalls = group(&MethodRow::stall);
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (!rows[i].idle.empty()) stalls[i].bars.push_back(bar_of(1, rows[i].idle, true));
  section.plots = {
      plot::bars({"Stall", "", "ns"},
                 {"the program stands still", "the same for a peer's process without a checkpoint"}, stalls, true),
      plot::bars({"To durable", "", "ns"}, {"begin to durable"}, group(&MethodRow::durable), true),
      plot::bars({"On disk", "", "bytes"}, {"bytes for a checkpoint"}, group(&MethodRow::bytes), true),
      plot::bars({"Restore", "", "ns"}, {"to memory that is right"}, group(&MethodRow::restore))};
  std::vector<std::vector<std::string>> cells, setups;
  for (const auto& row : rows) {
    cells.push_back(cells_of(row, plain));
    setups.push_back({row.name, row.failure.empty() ? row.setup : "failed: " + row.failure + ". " + row.setup});
  }
  section.plots.push_back(
      plot::table({"All methods",
                   "Next epoch slower: the epoch of the program right behind the cut, over one without any checkpoint. "
                   "Of it beside: "
                   "the share of that epoch during which the checkpoint was still on its way to the disk."},
                  {{"Method"},
                   {"Stall", true},
                   {"Durable", true},
                   {"On disk", true},
                   {"Restore", true},
                   {"Next epoch slower", true},
                   {"Of it beside", true}},
                  cells));
  section.plots.push_back(plot::table({"How each was set up"}, {{"Method"}, {"Set up"}}, setups));
  return section;
}

}  // namespace

// Beside the store, one after the other: a file of all memory, and what a peer writes, which is
// taken to be little more than that.
DiskNeed disk_need(const CompareBench& options) {
  const std::uint64_t delta = delta_image_bytes(PageSequence(options.shape).pages_per_epoch());
  return {.store_bytes = full_image_bytes(options.shape.bytes) + (kWarmUp + kDeltas + 1) * delta,
          .beside_bytes = full_image_bytes(options.shape.bytes)};
}

Result<BenchResult> bench_compare(const CompareBench& options) {
  Progress progress("ckpt-bench compare", options.setup.common.show_progress());
  VARVE_TRY_ASSIGN(auto scratch, scratch_for(options.setup, disk_need(options)));
  CompareRun run(options, scratch, progress);
  VARVE_TRY_ASSIGN(const auto rows, run.run());
  BenchResult result;
  for (const auto& row : rows) result.rows.push_back(as_json(row, options.shape, run.plain_epoch()));
  result.text = as_text(rows, options.shape, run.plain_epoch());
  result.sections.push_back(section_of(rows, options.shape, run.plain_epoch()));
  return result;
}

void add_peers(CLI::App& command, CompareBench& options) {
  const auto add = [&options](const std::vector<std::string>& texts) {
    for (const auto& text : texts) {
      auto peer = parse_peer(text);
      if (!peer) throw CLI::ValidationError("--peer: " + peer.error().message());
      const auto same = [&peer](const auto& name) { return name == peer->name; };
      if (std::any_of(kNames.begin(), kNames.end(), same) ||
          std::any_of(options.peers.begin(), options.peers.end(), [&](const Peer& other) { return same(other.name); }))
        throw CLI::ValidationError("--peer: there is a row '" + peer->name + "' already: choose another name");
      options.peers.push_back(std::move(peer).value());
    }
  };
  command
      .add_option_function<std::vector<std::string>>(
          "--peer", add, "another checkpointer; {dir}: a directory for its files. May be given several times")
      ->type_name("NAME='COMMAND with {pid}'")
      ->allow_extra_args(false);
  command.add_option("--peer-seconds", options.peer_seconds, "after which a peer is killed")
      ->check(CLI::Range(1u, 86'400u))
      ->capture_default_str();
}

BenchCommand add_compare(CLI::App& parent) {
  auto options = std::make_shared<CompareBench>();
  auto* app = parent.add_subcommand(
      "compare",
      "Measure checkpoints of the same program by several means, in turns: Varve (full and delta), write(2) and\n"
      "fdatasync(2) of all memory, fork(2) with a child that does that, and any command (--peer): stall, time to\n"
      "durable, bytes on disk, time to restore.");
  add_size(*app, "--size", options->shape.bytes, "of the protected memory");
  add_fraction(*app, "--dirty", options->shape.dirty, "share of the pages that an epoch changes");
  add_workload(*app, options->shape);
  app->add_option("--repetitions", options->repetitions, "turns")
      ->check(CLI::Range(1u, 10'000u))
      ->capture_default_str();
  add_peers(*app, *options);
  add_back_ends(*app, options->setup.back_ends);
  add_setup(*app, options->setup);
  add_html(*app, options->setup);
  add_footer(*app,
             "  ckpt-bench compare --size 1GiB --workload particles --store /scratch/bench --html compare.html\n"
             "  ckpt-bench compare --store /scratch/bench \\\n"
             "      --peer criu='criu dump --tree {pid} --images-dir {dir} --leave-running'\n",
             "Exit codes: 0 good, also when a peer failed (its row says so), 1 failure, 2 usage.");
  return {app, [options](const std::string& command_line) {
            options->setup.command_line = command_line;
            return run_benchmark(options->setup, "compare", [&] { return bench_compare(*options); });
          }};
}

}  // namespace varve::tools
