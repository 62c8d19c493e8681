// SPDX-License-Identifier: Apache-2.0
//
// What every example does with the engine: open, protect, resume, a checkpoint every so many steps, a line when an
// image is durable, statistics at the end. Without a store it does nothing, so that the same program runs plain.
//
// Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/arguments.h"
#include "varve/varve.h"

namespace example {

class Checkpoints {
 public:
  /// Opens the store that the arguments name. The object must not move: the engine's hook refers to it.
  static varve::Result<std::unique_ptr<Checkpoints>> open(const Arguments& arguments);

  varve::Status protect(const char* name, void* address, std::size_t bytes, std::uint32_t element_bytes);
  /// Restores the newest image, if there is one, and says so. `step`: the program's own counter, a protected variable.
  varve::Status resume(const std::uint64_t& step);
  /// To be called after each step: reports what has become durable, and cuts an image when its time has come.
  varve::Status step_done(std::uint64_t step);
  /// Waits for the last image and closes the store.
  varve::Status finish();
  /// One line for people, and the summary of --stats. `state_write_ns`: time to write(2) and fsync(2) the whole state
  /// once, or 0 when that was not done.
  varve::Status report(std::uint64_t state_write_ns);

  std::uint64_t newest_durable() const { return newest_durable_; }

  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;

 private:
  struct Pending {
    varve::Ticket ticket;
    std::uint64_t step;
  };
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  explicit Checkpoints(const Arguments& arguments) : arguments_(arguments) {}
  void collect(const Pending& pending);
  void write_image_line(const varve::ImageResult& image, std::uint64_t step);

  Arguments arguments_;
  std::optional<varve::Engine> engine_;
  varve::Choices choices_;
  std::deque<Pending> in_flight_;
  std::vector<varve::ImageResult> images_;
  std::uint64_t failed_ = 0;
  std::uint64_t resumed_image_ = 0;
  std::uint64_t newest_durable_ = 0;
  std::unique_ptr<std::FILE, Close> stats_;
};

/// The line of progress: overwritten in place on a terminal, else a line each.
class Progress {
 public:
  Progress(const Arguments& arguments, std::uint64_t first_step);
  void step_done(std::uint64_t step, std::uint64_t newest_durable);
  void end();

 private:
  void show(std::uint64_t step, std::uint64_t newest_durable, std::uint64_t now_ns);

  Arguments arguments_;
  bool terminal_ = false;
  bool shown_ = false;
  std::uint64_t first_step_ = 0;
  std::uint64_t begin_ns_ = 0;
  std::uint64_t last_ns_ = 0;
};

/// Prints the error in one line and returns the exit code of a failure.
int failed(const std::string& program, const varve::Error& error);

}  // namespace example
