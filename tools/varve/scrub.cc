// SPDX-License-Identifier: Apache-2.0
//
// varve scrub: what `varve verify --deep` does, slowly, so that it may run beside the program all the time.
#include <algorithm>
#include <csignal>
#include <memory>

#include <fmt/format.h>

#include "storage/pace.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/verify_report.h"

namespace varve::tools {
namespace {

struct ScrubOptions {
  CommonOptions common;
  StoreArgument store;
  std::uint64_t rate = std::uint64_t{64} << 20;
};

volatile std::sig_atomic_t interrupted = 0;
void interrupt(int) { interrupted = 1; }

/// SIGINT and SIGTERM end the scrub with what was found so far; a second one ends the program.
void watch_signals() {
  struct sigaction action {};
  action.sa_handler = interrupt;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int run_scrub(const ScrubOptions& options) {
  if (options.rate == 0)
    return report("varve scrub",
                  fail(ErrorCode::invalid_argument, {"scrub of " + options.store.directory + " refused",
                                                     "at a rate of 0 bytes a second nothing is read",
                                                     "give a rate, or read at full speed: varve verify --deep"}),
                  kUsage);
  watch_signals();
  storage::Pace pace({.bytes_per_second = options.rate});
  auto report = [&] {
    Progress progress("scrubbing", options.common.show_progress());
    return run_verification(options.store, {.deep = true, .pace = &pace}, [&] {
      if (interrupted != 0) pace.stop();
      // Small pieces are read twice, so that it may be a little more than the files hold.
      const std::uint64_t expected = pace.expected_bytes();
      progress.update(std::min(pace.bytes(), expected), expected, "bytes");
    });
  }();
  if (!report) return tools::report("varve scrub", report.error());
  return print_report("varve scrub", *report, options.common.json);
}

}  // namespace

Command add_scrub(CLI::App& parent) {
  auto options = std::make_shared<ScrubOptions>();
  auto* app = parent.add_subcommand("scrub",
                                    "Read every byte of a store and check it, as 'verify --deep' does, at a bounded\n"
                                    "rate and from the disk rather than from the page cache. May run beside writers,\n"
                                    "and be interrupted (SIGINT, SIGTERM): it ends with what it has found so far.");
  add_store(*app, options->store);
  add_rate(*app, "--rate", options->rate, "bytes a second, at most");
  add_common(*app, options->common);
  add_footer(*app,
             "  varve scrub ckpt\n"
             "  varve scrub ckpt --rate 16MiB/s --json | jq .status\n",
             "Exit codes: 0 good, 1 damage or failure, 2 usage, 3 unfinished tail (see verify), 4 interrupted, and\n"
             "nothing that was read before is damaged.");
  return {app, [options] { return run_scrub(*options); }};
}

}  // namespace varve::tools
