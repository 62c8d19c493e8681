// SPDX-License-Identifier: Apache-2.0
//
// What all commands of the tools share: exit codes, options, how errors are shown, how a command line is run.
//
// Standard output has results only, standard error has messages and progress.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "storage/store.h"
#include "tools/progress.h"
#include "varve/result.h"

namespace varve::tools {

enum ExitCode : int {
  kGood = 0,
  kFailure = 1,         ///< damage, or the command failed
  kUsage = 2,           ///< the command line is wrong
  kUnfinishedTail = 3,  ///< verify, scrub: only what was being written is incomplete
  kInterrupted = 4,     ///< scrub: nothing is damaged in what was read before
};

/// For the end of every --help.
inline constexpr std::string_view kExitCodes = "Exit codes: 0 good, 1 damage or failure, 2 usage.";

struct CommonOptions {
  bool json = false;
  bool progress = false;  ///< also when standard error is no terminal
  Progress::Show show_progress() const { return progress ? Progress::Show::always : Progress::Show::on_terminal; }
};

struct StoreArgument {
  std::string directory;
  bool allow_foreign = false;
};

/// Adds STORE and --allow-foreign.
void add_store(CLI::App& command, StoreArgument& store);
/// Adds --json and --progress.
void add_common(CLI::App& command, CommonOptions& common);
/// Examples and exit codes below the options of --help.
void add_footer(CLI::App& command, std::string_view examples, std::string_view exit_codes = kExitCodes);
/// An option for a file that is to be written. An empty name is refused as usage.
CLI::Option* add_output(CLI::App& command, const std::string& name, std::string& into, const std::string& help);
/// An option for a size ("64MiB") or a share ("1%"). Both are refused as usage when they can't be read.
CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& into, const std::string& help);
/// A rate: a size, and "/s" behind it or not.
CLI::Option* add_rate(CLI::App& command, const std::string& name, std::uint64_t& into, const std::string& help);
CLI::Option* add_fraction(CLI::App& command, const std::string& name, double& into, const std::string& help);

/// Prints "PROGRAM COMMAND: what: cause; remedy" and returns `code`.
int report(std::string_view command, const Error& error, ExitCode code = kFailure);
/// Prints results; a standard output that is gone or full is an error.
int print(std::string_view command, const std::string& text, ExitCode code = kGood);
int print(std::string_view command, const nlohmann::json& json, ExitCode code = kGood);

/// Parses the command line and runs what it asks for, `run` giving the exit code. --help and --version print and give
/// 0; a refused command line gives 2.
int run_command_line(CLI::App& app, int argc, const char* const* argv, const std::function<int()>& run);

/// "varve 0.1.0 (a1b2c3d)"
std::string version_text(std::string_view program);
/// The commit that was built, or "unknown".
std::string_view built_commit();

/// Opens a store for reading: nothing is made. A directory that is no store is `not_found`.
Result<std::unique_ptr<storage::Store>> open_store(const StoreArgument& argument);

}  // namespace varve::tools
