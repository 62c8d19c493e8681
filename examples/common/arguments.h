// SPDX-License-Identifier: Apache-2.0
//
// The options that all examples take, by getopt_long(3), and their --help.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace example {

struct Arguments {
  std::string store;  ///< empty: no checkpoints at all
  std::string chain = "main";
  std::uint64_t size = 0;         ///< side of the square grid, in cells
  std::uint64_t steps = 0;        ///< the step at which the program ends
  std::uint64_t every = 0;        ///< steps between checkpoints; 0: none
  std::string out;                ///< the final state, raw bytes
  std::string stats;              ///< one line per image, and a summary
  std::uint64_t delay_ms = 0;     ///< slept after each step
  std::uint64_t progress_ms = 0;  ///< between lines of progress
  bool quiet = false;
  bool fallback = false;  ///< resume from an older image where the newest is damaged
};

/// An option that only one example has. `set` returns false for a value that it does not take.
struct ExtraOption {
  std::string name;      ///< without the dashes
  std::string argument;  ///< as --help shows it
  std::string help;
  std::function<bool(const std::string&)> set;
};

struct Program {
  std::string name;
  std::string purpose;  ///< first lines of --help
  Arguments defaults;
  std::vector<ExtraOption> extras;
};

enum class Parsed : std::uint8_t { run, done, usage };

/// `done`: --help was printed (exit 0). `usage`: the command line was refused, and standard error says why (exit 2).
Parsed parse_arguments(int argc, char** argv, const Program& program, Arguments& arguments);

/// A whole number, nothing behind it.
bool parse_number(const std::string& text, std::uint64_t& number);

}  // namespace example
