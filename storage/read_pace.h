// SPDX-License-Identifier: Apache-2.0
//
// Reading at a bounded rate: a ReadPace says when the next bytes may be read, and can end it all; PacedIo is an Io that
// asks it before each read.
//
// Threads: ReadPace any; PacedIo as its inner Io.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/mutex.h"
#include "storage/forwarding_io.h"

namespace varve::storage {

class ReadPace {
 public:
  /// 0: as fast as it goes.
  explicit ReadPace(std::uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  /// Waits until `bytes` more may be read. False: stop() was called.
  bool take(std::uint64_t bytes);
  /// From now on nothing is read any more; who waits returns at once.
  void stop();
  bool stopped() const { return stopped_.load(); }

  /// For progress: what has been read, and what is to be read in all, as far as it is known.
  std::uint64_t bytes() const { return bytes_.load(); }
  std::uint64_t expected_bytes() const { return expected_bytes_.load(); }
  void expect(std::uint64_t bytes) { expected_bytes_.fetch_add(bytes); }

 private:
  const std::uint64_t bytes_per_second_;
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> expected_bytes_{0};
  Mutex mutex_;
  Condition changed_;
  std::uint64_t due_ns_ VARVE_GUARDED_BY(mutex_) = 0;  // when what was taken so far has been paid for
};

/// What files opened for reading give is paced, and comes from the disk where it can: what the page cache holds may
/// differ from what a restart finds. Everything else goes to `inner`, which must outlive it.
class PacedIo final : public ForwardingIo {
 public:
  PacedIo(Io& inner, ReadPace& pace) : ForwardingIo(inner), pace_(pace) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;

 private:
  ReadPace& pace_;
};

}  // namespace varve::storage
