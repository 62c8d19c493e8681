// SPDX-License-Identifier: Apache-2.0
//
// BackgroundWriter: the one consumer of cuts. A thread that takes jobs in the order of their cuts, has each written
// (ImageWriter), resolves its ticket, lets cold pages be protected (Cooler), and old images and garbage go
// (Maintenance).
//
//     push()  ->  queue  ->  write  ->  resolve the ticket  ->  cool  ->  maintenance
//                            \__ counts as in flight __/                  \__ busy until here
//
// Bounds: the queue holds what the caller lets in (wait_for_room). Failures that nobody asked for are kept until
// wait().
//
// Threads: push(), the waits and the counts from any thread; stop() once.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "engine/capture.h"
#include "engine/cooler.h"
#include "engine/image_job.h"
#include "engine/image_writer.h"
#include "engine/maintenance.h"

namespace varve {

class BackgroundWriter {
 public:
  BackgroundWriter(ImageWriter& writer, Cooler& cooler, Capturer& capturer, Maintenance& maintenance)
      : writer_(writer), cooler_(cooler), capturer_(capturer), maintenance_(maintenance) {}
  /// Like stop(drop), where stop() was not called.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  /// Starts the thread, with every signal blocked and at least that niceness.
  Status start(int niceness);
  void push(std::shared_ptr<ImageJob> job) VARVE_EXCLUDES(mutex_);

  /// Has memory faulted in for what the capturer expects, and to write from, while no image is to be written. Done at
  /// the start as well.
  void warm_up() VARVE_EXCLUDES(mutex_);

  /// Images captured or being captured whose tickets are not resolved.
  std::size_t in_flight() VARVE_EXCLUDES(mutex_);
  /// Images that failed so far.
  std::uint64_t failed() VARVE_EXCLUDES(mutex_);
  std::vector<std::shared_ptr<TicketState>> tickets_in_flight() VARVE_EXCLUDES(mutex_);
  bool label_in_flight(const std::string& label) VARVE_EXCLUDES(mutex_);
  void wait_for_room(std::size_t in_flight_max) VARVE_EXCLUDES(mutex_);
  /// Waits until every image that is in flight now is resolved.
  void wait_resolved() VARVE_EXCLUDES(mutex_);
  /// Waits until the thread has nothing to do; what it wrote last is visible to the caller then.
  void wait_idle() VARVE_EXCLUDES(mutex_);

  enum class Failure : std::uint8_t { first, last };
  /// The first or last failure that nobody asked for through its ticket; all of them count as reported then.
  std::optional<Error> take_failure(Failure which) VARVE_EXCLUDES(mutex_);

  enum class Stop : std::uint8_t { finish, drop };
  /// Ends the thread: `finish` writes what is queued first, `drop` fails it.
  void stop(Stop how) VARVE_EXCLUDES(mutex_);

  /// Vectors of suspects that finished jobs gave back: so that a cut does not grow them anew within its stall.
  tracker::PageRuns take_spare_runs() VARVE_EXCLUDES(mutex_);
  /// Of the jobs in flight and the spare vectors.
  std::uint64_t memory_bytes() VARVE_EXCLUDES(mutex_);

 private:
  void run();
  bool take_warm_up() VARVE_EXCLUDES(mutex_);
  std::shared_ptr<ImageJob> next_job() VARVE_EXCLUDES(mutex_);
  void process(ImageJob& job) VARVE_EXCLUDES(mutex_);
  Maintenance::Demand demand() VARVE_EXCLUDES(mutex_);
  void give_back(ImageJob& job) VARVE_REQUIRES(mutex_);

  ImageWriter& writer_;
  Cooler& cooler_;
  Capturer& capturer_;
  Maintenance& maintenance_;
  std::atomic<bool> dropping_{false};
  int niceness_ = 0;  // set before the thread starts

  Mutex mutex_;
  Condition changed_;
  std::deque<std::shared_ptr<ImageJob>> queue_ VARVE_GUARDED_BY(mutex_);  // the first one may be being written
  std::uint64_t pushed_ VARVE_GUARDED_BY(mutex_) = 0;
  std::uint64_t resolved_ VARVE_GUARDED_BY(mutex_) = 0;
  std::uint64_t failed_ VARVE_GUARDED_BY(mutex_) = 0;
  bool busy_ VARVE_GUARDED_BY(mutex_) = false;
  std::size_t waiting_for_idle_ VARVE_GUARDED_BY(mutex_) = 0;
  bool warming_up_ VARVE_GUARDED_BY(mutex_) = true;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<TicketState>> failures_ VARVE_GUARDED_BY(mutex_);
  std::vector<tracker::PageRuns> spare_runs_ VARVE_GUARDED_BY(mutex_);
  std::optional<pthread_t> thread_;  // of the thread that owns the engine
};

}  // namespace varve
