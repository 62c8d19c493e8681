// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing at a bounded rate: a TokenBucket says when the next bytes may go, a Pace waits for that and can
// end it all; PacedReads and PacedWrites are Ios that ask it before each read or write.
//
// Threads: a TokenBucket one at a time; Pace any; the Ios as their inner Io.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/mutex.h"
#include "storage/forwarding_io.h"

namespace varve::storage {

struct PaceOptions {
  std::uint64_t bytes_per_second = 0;  ///< 0: as fast as it goes
  std::uint64_t burst_bytes = 0;       ///< what may go ahead of the rate after a pause
};

/// The arithmetic, for any clock. In t seconds at most t * bytes_per_second + burst_bytes go, and the last taking.
class TokenBucket {
 public:
  explicit TokenBucket(const PaceOptions& options);

  /// How long the next bytes have to wait; 0: not at all.
  std::uint64_t wait_ns(std::uint64_t now_ns) const;
  void take(std::uint64_t bytes, std::uint64_t now_ns);

 private:
  std::uint64_t cost_ns(std::uint64_t bytes) const;

  const std::uint64_t bytes_per_second_;
  std::uint64_t burst_ns_ = 0;
  std::uint64_t paid_at_ns_ = 0;  // when what was taken so far has been paid for
};

class Pace {
 public:
  explicit Pace(const PaceOptions& options) : bucket_(options) {}

  /// Waits until `bytes` more may go. False: stop() was called.
  bool take(std::uint64_t bytes) VARVE_EXCLUDES(mutex_);
  /// From now on nothing goes any more; who waits returns at once.
  void stop() VARVE_EXCLUDES(mutex_);
  bool stopped() const { return stopped_.load(); }

  /// What has gone, and how long takers waited for it.
  std::uint64_t bytes() const { return bytes_.load(); }
  std::uint64_t waited_ns() const { return waited_ns_.load(); }
  /// For progress: what is to go in all, as far as it is known.
  std::uint64_t expected_bytes() const { return expected_bytes_.load(); }
  void expect(std::uint64_t bytes) { expected_bytes_.fetch_add(bytes); }

 private:
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> waited_ns_{0};
  std::atomic<std::uint64_t> expected_bytes_{0};
  Mutex mutex_;
  Condition changed_;
  TokenBucket bucket_ VARVE_GUARDED_BY(mutex_);
};

/// What files opened for reading give is paced, and comes from the disk where it can: what the page cache holds may
/// differ from what a restart finds. Everything else goes to `inner`, which must outlive it.
class PacedReads final : public ForwardingIo {
 public:
  PacedReads(Io& inner, Pace& pace) : ForwardingIo(inner), pace_(pace) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;

 private:
  Pace& pace_;
};

/// What is written to files is paced: each write waits before it is submitted. After stop() writes are refused with
/// ECANCELED.
class PacedWrites final : public ForwardingIo {
 public:
  PacedWrites(std::unique_ptr<Io> inner, std::shared_ptr<Pace> pace)
      : ForwardingIo(*inner), inner_(std::move(inner)), pace_(std::move(pace)) {}
  Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) override;

 private:
  const std::unique_ptr<Io> inner_;
  const std::shared_ptr<Pace> pace_;
};

}  // namespace varve::storage
