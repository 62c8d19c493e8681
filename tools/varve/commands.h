// SPDX-License-Identifier: Apache-2.0
//
// The commands of `varve`. Each adds itself to the command line; its `run` is called when it was chosen. None makes a
// store, and all but those of change.cc only read.
#pragma once

#include <functional>

#include "tools/command.h"

namespace varve::tools {

struct Command {
  CLI::App* app;
  std::function<int()> run;  ///< gives the exit code
};

Command add_list(CLI::App& parent);
Command add_show(CLI::App& parent);
Command add_diff(CLI::App& parent);
Command add_report(CLI::App& parent);
Command add_verify(CLI::App& parent);
Command add_scrub(CLI::App& parent);
Command add_export(CLI::App& parent);
Command add_inspect(CLI::App& parent);
Command add_doctor(CLI::App& parent);
Command add_pin(CLI::App& parent);
Command add_unpin(CLI::App& parent);
Command add_label(CLI::App& parent);
Command add_rm(CLI::App& parent);

/// What IMAGE may be, for --help.
inline constexpr const char* kImageHelp = "[CHAIN/]NUMBER, [CHAIN/]LABEL or [CHAIN/]latest";

}  // namespace varve::tools
