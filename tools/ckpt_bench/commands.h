// SPDX-License-Identifier: Apache-2.0
//
// The subcommands of ckpt-bench. Each adds itself to the command line; its `run` is called when it was chosen.
#pragma once

#include <functional>
#include <string>

#include "tools/command.h"

namespace varve::tools {

struct BenchCommand {
  CLI::App* app;
  std::function<int(const std::string& command_line)> run;  ///< gives the exit code
};

BenchCommand add_stall(CLI::App& parent);
BenchCommand add_matrix(CLI::App& parent);
BenchCommand add_compare(CLI::App& parent);
BenchCommand add_all(CLI::App& parent);
BenchCommand add_phases(CLI::App& parent);
BenchCommand add_throughput(CLI::App& parent);
BenchCommand add_restore(CLI::App& parent);
BenchCommand add_retention(CLI::App& parent);
BenchCommand add_scale(CLI::App& parent);

}  // namespace varve::tools
