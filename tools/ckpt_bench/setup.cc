// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/setup.h"

#include <signal.h>

#include <array>
#include <cstdlib>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/env.h"
#include "base/try.h"
#include "storage/chunk_name.h"
#include "storage/io.h"
#include "tools/machine.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

volatile sig_atomic_t g_signal = 0;  // written by the handler; read by check_interrupted()

void note_signal(int number) { g_signal = number; }

template <class T>
T named(const std::string& name, std::initializer_list<std::pair<const char*, T>> names) {
  for (const auto& [known, value] : names)
    if (name == known) return value;
  return T::automatic;  // the command line took only names that are there
}

std::string listed(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }

std::string file_system_of(const std::string& store) {
  const auto slash = store.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : store.substr(0, slash);
  storage::IoOptions options;
  options.create = false;
  options.allow_foreign = true;
  options.kind = storage::IoKind::posix;
  auto io = storage::open_io(parent, options);
  if (!io) return "unknown";
  auto traits = (*io)->file_system();
  return traits ? traits->type : "unknown";
}

}  // namespace

void add_back_ends(CLI::App& command, BackEnds& back_ends) {
  command.add_option("--tracker", back_ends.tracker, "auto, uffd, soft-dirty, mprotect or hash")
      ->check(CLI::IsMember({"auto", "uffd", "soft-dirty", "mprotect", "hash"}))
      ->capture_default_str();
  command.add_option("--capture", back_ends.capture, "auto, copy or fork")
      ->check(CLI::IsMember({"auto", "copy", "fork"}))
      ->capture_default_str();
  command.add_option("--io", back_ends.io, "auto, uring or posix")
      ->check(CLI::IsMember({"auto", "uring", "posix"}))
      ->capture_default_str();
}

void add_workload(CLI::App& command, WorkloadShape& shape) {
  const auto choose = [&shape](const std::string& name) { set_workload(shape, name); };
  command
      .add_option_function<std::string>("--workload", choose,
                                        "a kind of program, which sets the three below: " + listed(workload_names()))
      ->check(CLI::IsMember(workload_names()))
      ->type_name("NAME");
  add_data(command, shape.data);
  const auto set_pattern = [&shape](const std::string& name) { shape.pattern = parse_pattern(name); };
  command.add_option_function<std::string>("--pattern", set_pattern, listed(pattern_names()))
      ->check(CLI::IsMember(pattern_names()))
      ->type_name("PATTERN")
      ->default_str(std::string(to_string(shape.pattern)));
  command.add_flag("--repeat-pages", shape.repeat_pages, "the same pages in each epoch; else others");
}

void add_data_list(CLI::App& command, std::vector<std::string>& into) {
  command.add_option("--data", into, listed(data_names()) + "; several with commas")
      ->delimiter(',')
      ->check(CLI::IsMember(data_names()))
      ->capture_default_str();
}

CLI::Option* add_data(CLI::App& command, DataKind& into) {
  const auto set = [&into](const std::string& name) {
    const auto kind = parse_data(name);
    if (!kind) throw CLI::ValidationError("--data: '" + name + "' is none of " + listed(data_names()));
    into = *kind;
  };
  return command.add_option_function<std::string>("--data", set, listed(data_names()))
      ->type_name("KIND")
      ->default_str(std::string(to_string(into)));
}

void add_setup(CLI::App& command, BenchSetup& setup) {
  command.add_option("--store", setup.store, "directory to work in: made fresh, removed at the end")
      ->required()
      ->type_name("DIR");
  command.add_flag("--keep", setup.keep, "keep the store");
  add_size(command, "--max-store", setup.max_store_bytes,
           "the most that the store takes: it is made anew before that, or the benchmark is refused (0: as much as it "
           "needs, and for stalls at most 8 GiB, or four times --size)");
  command.add_option("--threads", setup.threads, "background threads of the engine (0: its default)")
      ->capture_default_str();
  command.add_option("--nice", setup.nice, "niceness of these threads, added to that of the benchmark")
      ->check(CLI::Range(0, 19))
      ->capture_default_str();
  add_rate(command, "--bytes-per-second", setup.bytes_per_second, "what they may write in a second (0: no bound)");
  command.add_flag("--favour-size", setup.favour_size, "the smallest images, however long compressing takes");
  add_size(command, "--staging", setup.staging_bytes, "bound of staging memory (0: the engine's default)");
  command.add_option("--huge-pages", setup.huge_pages, "for the protected memory: system, always or never")
      ->check(CLI::IsMember({"system", "always", "never"}))
      ->capture_default_str();
  add_size(command, "--offset", setup.offset, "begin of the memory within its page (16: like std::vector's)");
  add_common(command, setup.common);
}

std::uint64_t full_image_bytes(std::uint64_t bytes) { return bytes + bytes / 16; }
std::uint64_t delta_image_bytes(std::uint64_t pages) { return pages * (kPageBytes + kPageBytes / 16) + 65536; }

Status check_store_bound(const BenchSetup& setup, const DiskNeed& need) {
  if (setup.max_store_bytes == 0 || need.store_bytes <= setup.max_store_bytes) return {};
  return fail(ErrorCode::invalid_argument,
              {"benchmark in " + setup.store + " refused",
               fmt::format("its store takes up to {} and --max-store is {}", format_bytes(need.store_bytes),
                           format_bytes(setup.max_store_bytes)),
               "choose a smaller --size or a larger --max-store"});
}

Result<Scratch> scratch_for(const BenchSetup& setup, const DiskNeed& need) {
  constexpr std::uint64_t kPreallocated = std::uint64_t{1} << 28;  // of segments that are being written
  VARVE_TRY(check_store_bound(setup, need));
  return Scratch::create(setup.store, need.store_bytes + need.beside_bytes + kPreallocated, setup.keep);
}

HugePages huge_pages(const BenchSetup& setup) {
  if (setup.huge_pages == "always") return HugePages::always;
  return setup.huge_pages == "never" ? HugePages::never : HugePages::system;
}

Options engine_options(const BenchSetup& setup, const BackEnds& back_ends, const std::string& store) {
  Options options;
  options.store = store;
  options.tracker = named<Tracker>(back_ends.tracker, {{"uffd", Tracker::uffd},
                                                       {"soft-dirty", Tracker::soft_dirty},
                                                       {"mprotect", Tracker::mprotect},
                                                       {"hash", Tracker::hash}});
  options.capture = named<Capture>(back_ends.capture, {{"copy", Capture::copy}, {"fork", Capture::fork}});
  options.io = named<IoBackEnd>(back_ends.io, {{"uring", IoBackEnd::uring}, {"posix", IoBackEnd::posix}});
  options.threads = setup.threads;
  options.nice = setup.nice;
  options.bytes_per_second = setup.bytes_per_second;
  options.favour_size = setup.favour_size;
  options.staging_bytes = setup.staging_bytes;
  return options;
}

nlohmann::json header_json(const BenchSetup& setup, const std::string& subcommand) {
  auto header = machine_json(look_at_machine());
  header["benchmark"] = "ckpt-bench " + subcommand;
  header["command_line"] = setup.command_line;
  header["commit"] = built_commit();
  header["hash"] = storage::hash_implementation();
  header["store_file_system"] = file_system_of(setup.store);
  header["memory_huge_pages"] = setup.huge_pages;
  header["memory_offset"] = setup.offset;
  header["threads"] = setup.threads;
  header["nice"] = setup.nice;
  header["bytes_per_second"] = setup.bytes_per_second;
  header["favour_size"] = setup.favour_size;
  header["environment"] = nlohmann::json::object();
  for (const char* name : {env::kTracker, env::kCapture, env::kIo})
    if (const char* value = std::getenv(name); value != nullptr) header["environment"][name] = value;
  return header;
}

std::string header_text(const nlohmann::json& header) {
  const auto text = [&header](const char* key) { return header.at(key).get<std::string>(); };
  return fmt::format(
      "{}, commit {}\n{}, {} processors{}, {}; Linux {}, transparent huge pages {}; store on {}; hash {}\n\n",
      text("command_line"), text("commit"), text("processor"), header.at("processors").get<unsigned>(),
      text("hypervisor").empty() ? "" : " (" + text("hypervisor") + ")",
      format_bytes(header.at("memory_bytes").get<std::uint64_t>()), text("kernel"), text("transparent_huge_pages"),
      text("store_file_system"), text("hash"));
}

int print_rows(const BenchSetup& setup, const std::string& subcommand, nlohmann::json header, nlohmann::json rows,
               nlohmann::json skipped, const std::string& text) {
  const std::string command = "ckpt-bench " + subcommand;
  if (!setup.common.json) return print(command, header_text(header) + text);
  return print(command, nlohmann::json{
                            {"header", std::move(header)}, {"rows", std::move(rows)}, {"skipped", std::move(skipped)}});
}

void catch_interrupts() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
}

Status check_interrupted() {
  if (g_signal == 0) return {};
  return fail(ErrorCode::busy, {"benchmark ended early", fmt::format("signal {} came", static_cast<int>(g_signal)),
                                "start it again for figures"});
}

}  // namespace varve::tools
