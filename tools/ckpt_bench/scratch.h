// SPDX-License-Identifier: Apache-2.0
//
// The directory of a benchmark: made fresh, bounded, removed at the end. It holds `store` and the yardsticks' files. A
// marker file tells it from anything else, so that only what a benchmark made is ever removed.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "varve/result.h"

namespace varve::tools {

class Scratch {
 public:
  /// Refuses a directory that is not empty and was not left by an earlier benchmark, and a file system with less than
  /// `needed_bytes` free.
  static Result<Scratch> create(const std::string& directory, std::uint64_t needed_bytes, bool keep);
  Scratch(Scratch&& other) noexcept;
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch();

  /// The store, or one to compare it with.
  enum class Which : std::uint8_t { store, other, full };
  std::string store(Which which = Which::store) const;
  std::string yardstick() const { return directory_ + "/yardstick"; }
  /// A store that is not there. REQUIRES: no engine has it open.
  Status remove_store(Which which = Which::store);
  Status remove_yardstick();
  /// After something was removed, and before the disk is measured: waits until the file system has given its space back
  /// to the disk (discard), as far as that can be seen, and for 5 s at most.
  void settle() const;
  std::uint64_t store_bytes(Which which = Which::store) const;  ///< allocated, of all its files
  /// An empty directory for somebody else's files.
  Result<std::string> fresh_directory();
  /// Allocated, of all files below it.
  static std::uint64_t allocated_bytes(const std::string& directory);
  std::vector<std::string> segments(Which which = Which::store) const;

 private:
  Scratch() = default;
  std::string directory_;
  bool made_ = false;  ///< the directory itself is ours
  bool keep_ = false;
};

}  // namespace varve::tools
