// SPDX-License-Identifier: Apache-2.0
//
// Progress on standard error for what takes longer than a second: one line, overwritten, only on a terminal; or a line
// per second when it was asked for.
//
// Threads: update() from any; the rest from the owner.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace varve::tools {

class Progress {
 public:
  enum class Show : unsigned char { on_terminal, always };

  Progress(std::string action, Show show);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `detail`: "312 of 1,024 MiB".
  void update(std::uint64_t done, std::uint64_t total, const std::string& unit);
  /// A step that has no measure.
  void update(const std::string& detail);
  /// Clears the line.
  void finish();

 private:
  bool due();
  void show(const std::string& detail);

  std::string action_;
  bool terminal_;
  bool enabled_;
  bool shown_ = false;
  std::uint64_t begin_ns_;
  std::atomic<std::uint64_t> next_ns_;
};

}  // namespace varve::tools
