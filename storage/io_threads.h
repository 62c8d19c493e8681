// SPDX-License-Identifier: Apache-2.0
//
// IoThreads: a few threads that block sent signals and run short jobs, first come first served. They start when the
// first job comes. The queue needs no bound of its own: each file bounds what it has in flight.
//
// In a forked child there are no threads: an IoThreads is not used or destroyed there (see share()).
//
// Threads: any.
#pragma once

#include <pthread.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "storage/fork_guard.h"

namespace varve::storage {

class IoThreads {
 public:
  struct Job {
    void (*run)(void* context, std::uint64_t argument);
    void* context;
    std::uint64_t argument;
  };

  /// Shared by an Io and its files. In a forked child the last owner leaks it: its threads, and whoever waits in its
  /// conditions, are the parent's. `niceness`: the least that its threads have; empty: that of who starts them.
  static std::shared_ptr<IoThreads> share(unsigned threads_max, std::optional<int> niceness = {});

  explicit IoThreads(unsigned threads_max, std::optional<int> niceness = {})
      : threads_max_(threads_max), niceness_(niceness) {}
  ~IoThreads();  // runs what is queued, then ends the threads
  IoThreads(const IoThreads&) = delete;
  IoThreads& operator=(const IoThreads&) = delete;

  /// False when there is no thread and none can be started: the caller runs the job itself.
  bool submit(const Job& job);
  unsigned threads_max() const { return threads_max_; }

 private:
  static void* main(void* self);
  void run();
  void start_thread() VARVE_REQUIRES(mutex_);

  const unsigned threads_max_;
  const std::optional<int> niceness_;
  OwnerProcess owner_;
  Mutex mutex_;
  Condition changed_;
  std::deque<Job> queue_ VARVE_GUARDED_BY(mutex_);
  std::vector<pthread_t> threads_ VARVE_GUARDED_BY(mutex_);
  std::size_t idle_ VARVE_GUARDED_BY(mutex_) = 0;
  bool ending_ VARVE_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::storage
