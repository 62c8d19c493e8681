// SPDX-License-Identifier: Apache-2.0
#include "common/arguments.h"

#include <getopt.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>

namespace example {
namespace {

std::vector<ExtraOption> all_options(const Program& program, Arguments& arguments) {
  const auto text = [](std::string& into) {
    return [&into](const std::string& value) {
      into = value;
      return !value.empty();
    };
  };
  const auto number = [](std::uint64_t& into) {
    return [&into](const std::string& value) { return parse_number(value, into); };
  };
  const auto by_default = [](std::uint64_t value) { return " (" + std::to_string(value) + ")"; };
  const Arguments& defaults = program.defaults;
  std::vector<ExtraOption> options = {
      {"store", "DIR", "directory of the checkpoints, made when missing; without it none are made",
       text(arguments.store)},
      {"chain", "NAME", "the chain of images in the store (main)", text(arguments.chain)},
      {"size", "N", "side of the square grid, in cells" + by_default(defaults.size), number(arguments.size)},
      {"steps", "N", "the step at which to end" + by_default(defaults.steps), number(arguments.steps)},
      {"every", "K", "steps between checkpoints, 0 for none" + by_default(defaults.every), number(arguments.every)},
      {"out", "FILE", "write the final state there, raw bytes", text(arguments.out)},
      {"stats", "FILE", "write a line per image and a summary there, as key=value", text(arguments.stats)},
      {"delay-ms", "N", "sleep that long after each step (0)", number(arguments.delay_ms)},
      {"progress-ms", "N", "time between lines of progress, 0 for each step" + by_default(defaults.progress_ms),
       number(arguments.progress_ms)},
  };
  options.insert(options.end(), program.extras.begin(), program.extras.end());
  return options;
}

void print_help(const Program& program, const std::vector<ExtraOption>& options) {
  std::printf("usage: %s [OPTION...]\n\n%s\n\n", program.name.c_str(), program.purpose.c_str());
  for (const auto& option : options) {
    const auto left = "--" + option.name + " " + option.argument;
    std::printf("  %-20s %s\n", left.c_str(), option.help.c_str());
  }
  std::printf("  %-20s %s\n  %-20s %s\n  %-20s %s\n", "--fallback",
              "where the newest image is damaged, resume from the newest good one", "--quiet", "no progress", "--help",
              "this text");
  std::printf(
      "\nStandard output, a line each, at once:\n"
      "  passed over image I: REASON        it is damaged (--fallback)\n"
      "  resumed from image I at step S     the newest image of the chain was restored\n"
      "  checkpoint I step S                an image was cut, and is being written\n"
      "  durable I step S                   it survives a loss of power from now on\n"
      "  written I step S                   the same on a file system that promises nothing (tmpfs)\n"
      "Exit codes: 0 good, 1 failure, 2 usage.\n"
      "VARVE_TRACKER, VARVE_CAPTURE and VARVE_IO force a back end.\n\n"
      "example: %s --store ckpt --steps %llu --every %llu --out state.raw\n",
      program.name.c_str(), static_cast<unsigned long long>(program.defaults.steps),
      static_cast<unsigned long long>(program.defaults.every));
}

Parsed refuse(const Program& program, const std::string& cause) {
  std::fprintf(stderr, "%s: command line refused: %s; run '%s --help'\n", program.name.c_str(), cause.c_str(),
               program.name.c_str());
  return Parsed::usage;
}

}  // namespace

bool parse_number(const std::string& text, std::uint64_t& number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end;
}

Parsed parse_arguments(int argc, char** argv, const Program& program, Arguments& arguments) {
  arguments = program.defaults;
  const auto options = all_options(program, arguments);
  std::vector<option> table;
  for (const auto& each : options) table.push_back({each.name.c_str(), required_argument, nullptr, 0});
  table.push_back({"fallback", no_argument, nullptr, 'f'});
  table.push_back({"quiet", no_argument, nullptr, 'q'});
  table.push_back({"help", no_argument, nullptr, 'h'});
  table.push_back({nullptr, 0, nullptr, 0});

  opterr = 0;  // refused here, in one form
  int index = 0;
  for (int found = 0; (found = getopt_long(argc, argv, "", table.data(), &index)) != -1;) {
    if (found == 'h') {
      print_help(program, options);
      return Parsed::done;
    }
    if (found == 'q') {
      arguments.quiet = true;
    } else if (found == 'f') {
      arguments.fallback = true;
    } else if (found == 0) {
      const auto& chosen = options[static_cast<std::size_t>(index)];
      if (!chosen.set(optarg)) return refuse(program, "--" + chosen.name + " does not take '" + optarg + "'");
    } else {
      return refuse(program, "'" + std::string(argv[optind - 1]) + "' is no option, or lacks its value");
    }
  }
  if (optind < argc) return refuse(program, "'" + std::string(argv[optind]) + "' is no option");
  return Parsed::run;
}

}  // namespace example
