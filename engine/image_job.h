// SPDX-License-Identifier: Apache-2.0
//
// ImageJob: one image on its way from the cut to durable. Made by the thread that cuts, read by the background writer
// from push() on; only StallFigures is written by the one while the other runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/capture.h"
#include "engine/region.h"
#include "engine/ticket.h"
#include "tracker/tracker.h"

namespace varve {

/// What the cut measures after the writer has begun to read: the writer takes it before it resolves the ticket.
class StallFigures {
 public:
  struct Figures {
    std::uint64_t stall_ns = 0;
    std::uint64_t capture_ns = 0;
    Capture capture = Capture::copy;
    std::string capture_why = {};
    std::uint64_t copied_bytes = 0;
    std::uint64_t copy_ns = 0;  ///< for these, without waiting for room
  };

  void set(const Figures& figures) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    figures_ = figures;
    known_ = true;
    changed_.notify_all();
  }
  Figures wait() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (!known_) changed_.wait(mutex_);
    return figures_;
  }

 private:
  Mutex mutex_;
  Condition changed_;
  Figures figures_ VARVE_GUARDED_BY(mutex_);
  bool known_ VARVE_GUARDED_BY(mutex_) = false;
};

/// A region as of the cut.
struct RegionCut {
  std::shared_ptr<Region> region;
  std::shared_ptr<const Exclusions> exclusions;
  tracker::PageRuns suspects;  ///< as the tracker named them
};

struct ImageJob {
  std::uint64_t number = 0;
  std::uint64_t epoch = 0;
  bool want_full = false;
  std::string label;
  std::uint64_t time_ns = 0;   ///< wall clock, of the cut
  std::uint64_t begin_ns = 0;  ///< monotonic, of the call of checkpoint()
  std::vector<RegionCut> regions;
  std::shared_ptr<CaptureStream> stream;
  std::shared_ptr<TicketState> ticket;
  ImageResult result;  ///< what the cut knows before it captures
  StallFigures stall;
};

}  // namespace varve
