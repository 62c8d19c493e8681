// SPDX-License-Identifier: Apache-2.0
//
// Programs that a test runs as a user would: arguments in, exit code and output back.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace varve::test {

/// Of this build: built_program("tools/varve"). Found from the place of the test's own executable, <build>/tests/.
std::string built_program(const std::string& name);

struct Outcome {
  int exit_code = -1;  ///< -1 when a signal ended it
  int signal = 0;
  std::string out;
  std::string err;
};

struct Invocation {
  std::vector<std::string> words;                       ///< the program and its arguments
  std::map<std::string, std::string> environment = {};  ///< beside the test's own
  std::string in_terminal = {};                         ///< "out": standard output is a pseudo-terminal
};

/// Runs it to its end. A program that takes longer than two minutes is killed.
Outcome run_program(const Invocation& invocation);

/// A program that runs beside the test; killed by destruction. Its standard output is read line by line.
class RunningProgram {
 public:
  explicit RunningProgram(const Invocation& invocation);
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  pid_t pid() const { return pid_; }
  /// The next line; false at the end of output, or when `patience` has passed.
  bool next_line(std::string& line, std::chrono::milliseconds patience);
  /// SIGKILL, then the end.
  Outcome kill_and_wait();
  /// Waits for its own end. `out` is what next_line() had not returned yet.
  Outcome wait();

 private:
  bool read_some(std::chrono::milliseconds patience);
  pid_t pid_ = -1;
  int out_ = -1;
  std::string buffer_;
};

}  // namespace varve::test
