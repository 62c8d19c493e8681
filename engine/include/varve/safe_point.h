// SPDX-License-Identifier: Apache-2.0
//
// SafePoint: the means to cut while other threads compute.
//
//     varve::SafePoint safe_point;
//     // each thread that writes protected memory:                    // whoever wants an image:
//     varve::SafePoint::Worker worker(safe_point);                     safe_point.cut([&] { return take_image(engine);
//     }); while (work()) worker.pass();         // a safe point
//
// cut() waits until every worker stands at a safe point (or has stepped out), calls its body, and lets them go on. What
// the workers wrote before is visible to the body. A worker that is about to block for long (in a lock, a system call,
// a barrier that others reach only after the cut) steps out first: within an Outside it must not write protected
// memory.
//
// Threads: a Worker belongs to the thread that made it; everything else may be called from any. Bodies run one at a
// time. A body must not throw, not call cut() or pass() of the same SafePoint, and not wait for a worker. The SafePoint
// must outlive its Workers. Costs: pass() is one load while no cut is wanted.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

#include "varve/result.h"

namespace varve {

class SafePoint {
 public:
  SafePoint() = default;
  SafePoint(const SafePoint&) = delete;
  SafePoint& operator=(const SafePoint&) = delete;

  class Outside;

  /// One thread that writes protected memory, from construction to destruction. Making one waits while a cut is made.
  class Worker {
   public:
    explicit Worker(SafePoint& point) : point_(point) { point_.enter(); }
    ~Worker() { point_.leave(); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    /// A safe point: waits here while a cut is made.
    void pass() {
      if (point_.wanted_.load(std::memory_order_relaxed)) point_.stand();
    }
    /// cut() from a worker's own thread, at a safe point of it.
    Status cut(const std::function<Status()>& body,
               std::chrono::milliseconds patience = std::chrono::milliseconds::max());

   private:
    friend class SafePoint::Outside;
    SafePoint& point_;
  };

  /// While it lives, its worker is left out of cuts and must not write protected memory. Its end waits while a cut is
  /// made.
  class Outside {
   public:
    explicit Outside(Worker& worker) : point_(worker.point_) { point_.leave(); }
    ~Outside() { point_.enter(); }
    Outside(const Outside&) = delete;
    Outside& operator=(const Outside&) = delete;

   private:
    SafePoint& point_;
  };

  /// Brings all workers to a stand, calls `body`, lets them go on, and returns what it returned. `busy`, without having
  /// called it, when not all came within `patience`. For threads that are no workers; a worker calls its own.
  Status cut(const std::function<Status()>& body,
             std::chrono::milliseconds patience = std::chrono::milliseconds::max());

 private:
  void enter();
  void leave();
  void stand();

  std::atomic<bool> wanted_{false};  // written under the mutex; true from the wish to the end of a cut
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t inside_ = 0;  // workers that may be writing
};

}  // namespace varve
