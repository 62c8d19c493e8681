// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/diagnosis.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

#include "base/env.h"
#include "engine/capture.h"
#include "storage/chunk_name.h"
#include "tracker/tracker.h"

namespace varve::tools {
namespace {

constexpr std::size_t kProbeStagingBytes = std::size_t{4} << 20;

void probe_trackers(Diagnosis& diagnosis) {
  for (const auto& report : tracker::Service::process().probe())
    diagnosis.back_ends.push_back(
        {"tracker", std::string(tracker::to_string(report.kind)), report.available, false, report.reason});
}

void probe_capture(Diagnosis& diagnosis) {
  for (const auto& [capture, name] : {std::pair(Capture::copy, "copy"), std::pair(Capture::fork, "fork")}) {
    CapturerOptions options;
    options.wanted = capture;
    options.staging_bytes = kProbeStagingBytes;
    auto capturer = Capturer::create(options);
    diagnosis.back_ends.push_back(
        {"capture", name, capturer.has_value(), false, capturer ? (*capturer)->describe() : capturer.error().cause()});
  }
}

void probe_io(Diagnosis& diagnosis) {
  for (const auto& report : storage::probe_io())
    diagnosis.back_ends.push_back(
        {"io", std::string(storage::to_string(report.kind)), report.available, false, report.reason});
}

void look_at_file_system(Diagnosis& diagnosis) {
  storage::IoOptions options;
  options.create = false;
  options.allow_foreign = true;  // a place for a store, not yet a store
  options.kind = storage::IoKind::posix;
  auto io = storage::open_io(diagnosis.directory, options);
  if (io) {
    auto traits = (*io)->file_system();
    if (traits)
      diagnosis.file_system = std::move(traits).value();
    else
      diagnosis.file_system_error = traits.error().message();
  } else {
    diagnosis.file_system_error = io.error().message();
  }
  diagnosis.usable = diagnosis.usable && diagnosis.file_system.has_value();
}

bool works(const Diagnosis& diagnosis, std::string_view name) {
  return std::any_of(diagnosis.back_ends.begin(), diagnosis.back_ends.end(),
                     [name](const BackEndRow& row) { return row.name == name && row.works; });
}

void advise(Diagnosis& diagnosis) {
  auto& advice = diagnosis.advice;
  if (!works(diagnosis, "uffd"))
    advice.push_back(
        "uffd finds written pages without faults of our own: it needs kernel 6.7 or newer, and a container whose "
        "seccomp profile lets userfaultfd(2) pass; root is not needed");
  if (!works(diagnosis, "uring")) {
    const std::string disabled = first_line("/proc/sys/kernel/io_uring_disabled");
    advice.push_back(
        disabled.empty() || disabled == "0"
            ? "io_uring would write with fewer threads: it needs kernel 5.6 or newer, and a container whose "
              "seccomp profile lets io_uring_setup(2) pass"
            : "io_uring would write with fewer threads: root can do 'sysctl kernel.io_uring_disabled=0'");
  }
  if (diagnosis.machine.huge_pages == "never")
    advice.push_back(
        "staging memory would be faulted in some 50 times faster in huge pages: root can do 'echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled'");
  if (!works(diagnosis, "fork"))
    advice.push_back(
        "capture by fork would let a checkpoint be larger than staging memory without waiting: it needs clone(2) "
        "of a process, which a seccomp profile, a process limit or a lack of memory refuses");
  if (diagnosis.file_system && !diagnosis.file_system->durable)
    advice.push_back("images in this directory do not survive a reboot: choose one on a disk");
  if (diagnosis.file_system && !diagnosis.file_system->direct)
    advice.push_back(
        "this file system takes no O_DIRECT: images go through the page cache, which costs memory and time");
}

void look_at_costs(Diagnosis& diagnosis) {
  std::vector<std::string> trackers;
  std::string chosen;
  for (const auto& row : diagnosis.back_ends) {
    if (row.kind != "tracker" || !row.works) continue;
    trackers.push_back(row.name);
    if (row.chosen) chosen = row.name;
  }
  diagnosis.costs = measure_costs(trackers, chosen, diagnosis.machine.huge_pages);
  const auto& advice = diagnosis.costs.advice;
  diagnosis.advice.insert(diagnosis.advice.end(), advice.begin(), advice.end());
}

}  // namespace

bool choose(std::vector<BackEndRow>& rows, const std::string& kind, const std::vector<std::string>& order,
            const char* variable) {
  const char* forced = std::getenv(variable);
  const std::vector<std::string> wanted =
      forced != nullptr && *forced != '\0' ? std::vector<std::string>{forced} : order;
  for (const auto& name : wanted)
    for (auto& row : rows) {
      if (row.kind != kind || row.name != name || !row.works) continue;
      row.chosen = true;
      if (wanted.size() == 1 && forced != nullptr)
        row.remark += fmt::format("{}{}={}", row.remark.empty() ? "" : "; ", variable, forced);
      return true;
    }
  return false;
}

Diagnosis diagnose(const std::string& directory) {
  Diagnosis diagnosis;
  diagnosis.machine = look_at_machine();
  diagnosis.root = geteuid() == 0;
  diagnosis.user = fmt::format("user {}", geteuid());
  diagnosis.hash = storage::hash_implementation();
  diagnosis.directory = directory;
  probe_trackers(diagnosis);
  probe_capture(diagnosis);
  probe_io(diagnosis);

  struct Choice {
    const char* kind;
    std::vector<std::string> order;
    const char* variable;
  };
  // The order of the engine (docs/architecture.md). Between copy and fork it decides anew at each cut, copy first.
  const Choice choices[] = {{"tracker", {"uffd", "soft-dirty", "hash"}, env::kTracker},
                            {"capture", {"copy", "fork"}, env::kCapture},
                            {"io", {"uring", "posix"}, env::kIo}};
  for (const auto& choice : choices) {
    if (choose(diagnosis.back_ends, choice.kind, choice.order, choice.variable)) continue;
    diagnosis.usable = false;
    diagnosis.advice.push_back(fmt::format("{} names a {} that does not work here: unset it, or choose one that works",
                                           choice.variable, choice.kind));
  }
  look_at_file_system(diagnosis);
  advise(diagnosis);
  look_at_costs(diagnosis);
  return diagnosis;
}

}  // namespace varve::tools
