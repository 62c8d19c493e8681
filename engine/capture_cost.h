// SPDX-License-Identifier: Apache-2.0
//
// What capturing costs on this machine, and the choice between copy and fork that follows.
//
//     copy   bytes / rate of copying, or the time until the consumer has made room, if that is longer
//            + faulting in staging that is not warm yet
//     fork   a fixed part + a part per resident page of the process + what must be copied all the same
//            + the copy-on-write faults of the program afterwards: each suspect is likely to be written again
//
// Every figure is measured: at the start on a little memory, then from real cuts (moving averages). Until a first fork
// was measured on a large process, its cost per page is the constant kForkPageNs.
//
// Threads: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/mutex.h"

namespace varve {

/// The cut whose capture is to be chosen.
struct CutSize {
  std::uint64_t forkable_bytes = 0;  ///< private memory
  std::uint64_t other_bytes = 0;     ///< must be copied
  std::uint64_t room_bytes = 0;      ///< of staging, without waiting
  std::uint64_t growing_ns = 0;      ///< what faulting in takes, of room that copying everything needs
  std::uint64_t total_bytes() const { return forkable_bytes + other_bytes; }
};

struct CaptureChoice {
  bool fork = false;
  std::string why;  ///< for people, with figures
};

struct CaptureCosts {
  double copy_bytes_per_ns = 4;
  double consumer_bytes_per_ns = 1;
  double fork_fixed_ns = 300'000;
  double fork_page_ns = 100;  ///< of resident memory; 25 to 125 were seen, by machine
  double fault_ns = 1'000;    ///< copy-on-write, a page
};

class CaptureCostModel {
 public:
  CaptureCostModel() = default;
  explicit CaptureCostModel(const CaptureCosts& costs) : costs_(costs) {}

  void copied(std::uint64_t bytes, std::uint64_t ns);
  void consumed(std::uint64_t bytes, std::uint64_t ns);
  void forked(std::uint64_t resident_pages, std::uint64_t ns);
  void faulted(std::uint64_t pages, std::uint64_t ns);

  /// Whether fork could be the cheaper one if the process had no memory at all: spares looking up how much it has.
  bool fork_may_win(const CutSize& cut) const;
  CaptureChoice choose(const CutSize& cut, std::uint64_t resident_pages) const;
  /// The choice where fork can't win, or is not to be had for the reason given.
  CaptureChoice copy_because(const CutSize& cut, const std::string& reason = {}) const;
  CaptureCosts costs() const;

 private:
  mutable Mutex mutex_;
  CaptureCosts costs_ VARVE_GUARDED_BY(mutex_);
};

/// Pages of this process that are in memory: /proc/self/statm. 0 when it can't be read.
std::uint64_t resident_pages();

}  // namespace varve
