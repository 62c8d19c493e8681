// SPDX-License-Identifier: Apache-2.0
//
// WritePrefix: which of the writes of a file, counted in order of submission, have ended. At most `depth` lie between
// the oldest that has not ended and the newest, so that a slot each is enough and the queue is bounded.
//
// Threads: none of its own; the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "varve/result.h"

namespace varve::storage {

class WritePrefix {
 public:
  explicit WritePrefix(std::size_t depth) : ended_(depth, false) {}

  bool full() const { return submitted_ - prefix_ == ended_.size(); }
  bool idle() const { return submitted_ == prefix_; }
  std::uint64_t submitted() const { return submitted_; }
  std::uint64_t prefix() const { return prefix_; }
  std::size_t slot(std::uint64_t index) const { return index % ended_.size(); }

  /// REQUIRES: !full(). Returns the index of the new write.
  std::uint64_t submit() {
    VARVE_CHECK(!full());
    ended_[slot(submitted_)] = false;
    return submitted_++;
  }
  void end(std::uint64_t index) {
    VARVE_CHECK(index >= prefix_ && index < submitted_);
    ended_[slot(index)] = true;
    while (prefix_ < submitted_ && ended_[slot(prefix_)]) ++prefix_;
  }
  /// Keeps the error of the earliest write that failed.
  void fail(std::uint64_t index, Error error) {
    if (error_ && failed_ <= index) return;
    error_ = std::move(error);
    failed_ = index;
  }
  /// The error since the last take_error(), if any; it stays.
  Status error() const { return error_ ? Status(*error_) : Status(); }
  Status take_error() {
    Status status = error();
    error_.reset();
    return status;
  }

 private:
  std::vector<bool> ended_;
  std::uint64_t submitted_ = 0;
  std::uint64_t prefix_ = 0;
  std::optional<Error> error_;
  std::uint64_t failed_ = 0;  // index of the write behind error_
};

}  // namespace varve::storage
