// SPDX-License-Identifier: Apache-2.0
#include "tools/command.h"

#include <cerrno>
#include <cstdio>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "tools/build_info.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

// CLI11 has exceptions; they end here and in run_command_line().
template <class T>
T checked(const std::string& name, Result<T> result) {
  if (!result) {
    const Error& error = result.error();
    throw CLI::ValidationError(fmt::format("{}: {}: {}; {}", name, error.what(), error.cause(), error.remedy()));
  }
  return std::move(result).value();
}

std::string command_path(const CLI::App& app) {
  for (const auto* command : app.get_subcommands()) return app.get_name() + " " + command_path(*command);
  return app.get_name();
}

}  // namespace

void add_store(CLI::App& command, StoreArgument& store) {
  command.add_option("STORE", store.directory, "directory of the store")->required();
  command.add_flag("--allow-foreign", store.allow_foreign, "accept a store of another user, or writable by others");
}

void add_common(CLI::App& command, CommonOptions& common) {
  command.add_flag("--json", common.json, "print JSON for scripts");
  command.add_flag("--progress", common.progress, "show progress even when standard error is no terminal");
}

void add_footer(CLI::App& command, std::string_view examples, std::string_view exit_codes) {
  command.footer(fmt::format("\nExamples:\n{}\n{}", examples, exit_codes));
}

CLI::Option* add_output(CLI::App& command, const std::string& name, std::string& into, const std::string& help) {
  const auto set = [&into, name](const std::string& file) {
    if (file.empty()) throw CLI::ValidationError(name + ": the name of the file is empty");
    into = file;
  };
  return command.add_option_function<std::string>(name, set, help)->type_name("FILE");
}

CLI::Option* add_size(CLI::App& command, const std::string& name, std::uint64_t& into, const std::string& help) {
  const auto set = [&into, name](const std::string& text) { into = checked(name, parse_size(text)); };
  return command.add_option_function<std::string>(name, set, help)->type_name("SIZE")->default_str(format_bytes(into));
}

CLI::Option* add_rate(CLI::App& command, const std::string& name, std::uint64_t& into, const std::string& help) {
  const auto set = [&into, name](const std::string& text) {
    into = checked(name, parse_size(text.ends_with("/s") ? text.substr(0, text.size() - 2) : text));
  };
  return command.add_option_function<std::string>(name, set, help)
      ->type_name("SIZE/s")
      ->default_str(format_bytes(into) + "/s");
}

CLI::Option* add_fraction(CLI::App& command, const std::string& name, double& into, const std::string& help) {
  const auto set = [&into, name](const std::string& text) { into = checked(name, parse_fraction(text)); };
  return command.add_option_function<std::string>(name, set, help)
      ->type_name("SHARE")
      ->default_str(format_percent(into));
}

int report(std::string_view command, const Error& error, ExitCode code) {
  fmt::print(stderr, "{}: {}\n", command, error.message());
  return code;
}

int print(std::string_view command, const std::string& text, ExitCode code) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return code;
  return report(command, os_error("write to standard output failed", errno));
}

int print(std::string_view command, const nlohmann::json& json, ExitCode code) {
  // Names in a damaged store need not be UTF-8: such bytes are replaced, never an exception.
  return print(command, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n", code);
}

int run_command_line(CLI::App& app, int argc, const char* const* argv, const std::function<int()>& run) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success) == 0 && std::fflush(stdout) == 0 ? kGood : kFailure;
  } catch (const CLI::ParseError& error) {
    const std::string path = command_path(app);
    fmt::print(stderr, "{}: command line refused: {}; see '{} --help'\n", path, error.what(), path);
    return kUsage;
  }
  return run();
}

std::string version_text(std::string_view program) {
  return fmt::format("{} {} ({})", program, build_info::kVersion, build_info::kCommit);
}

std::string_view built_commit() { return build_info::kCommit; }

Result<std::unique_ptr<storage::Store>> open_store(const StoreArgument& argument) {
  storage::IoOptions io_options;
  io_options.create = false;
  io_options.allow_foreign = argument.allow_foreign;
  VARVE_TRY_ASSIGN(auto io, storage::open_io(argument.directory, io_options));
  storage::StoreOptions options;
  options.create = false;
  return storage::Store::open(std::move(io), options);
}

}  // namespace varve::tools
