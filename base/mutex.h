// SPDX-License-Identifier: Apache-2.0
//
// Mutex, MutexLock and Condition with clang's thread-safety annotations, so that lock rules are checked when compiling
// (-Wthread-safety is an error). Members say VARVE_GUARDED_BY(mutex_), functions VARVE_REQUIRES(mutex_).
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define VARVE_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define VARVE_THREAD_ANNOTATION(x)
#endif
#define VARVE_CAPABILITY(x) VARVE_THREAD_ANNOTATION(capability(x))
#define VARVE_SCOPED_CAPABILITY VARVE_THREAD_ANNOTATION(scoped_lockable)
#define VARVE_GUARDED_BY(x) VARVE_THREAD_ANNOTATION(guarded_by(x))
#define VARVE_REQUIRES(...) VARVE_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define VARVE_EXCLUDES(...) VARVE_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define VARVE_ACQUIRE(...) VARVE_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define VARVE_RELEASE(...) VARVE_THREAD_ANNOTATION(release_capability(__VA_ARGS__))
#define VARVE_NO_THREAD_SAFETY_ANALYSIS VARVE_THREAD_ANNOTATION(no_thread_safety_analysis)

namespace varve {

class VARVE_CAPABILITY("mutex") Mutex {
 public:
  void lock() VARVE_ACQUIRE() { mutex_.lock(); }
  void unlock() VARVE_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class VARVE_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) VARVE_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() VARVE_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// Wait in a loop: `while (!ready_) changed_.wait(mutex_);`
class Condition {
 public:
  void wait(Mutex& mutex) VARVE_REQUIRES(mutex) { condition_.wait(mutex); }
  /// False when the time has passed.
  bool wait_for(Mutex& mutex, std::chrono::nanoseconds time) VARVE_REQUIRES(mutex) {
    return condition_.wait_for(mutex, time) == std::cv_status::no_timeout;
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable_any condition_;
};

}  // namespace varve
