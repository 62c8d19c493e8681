// SPDX-License-Identifier: Apache-2.0
//
// Gate: the lock between cuts and protecting. A cut lists written pages and then adds the pending ones; protecting
// takes the written mark of a page and then makes it pending. If the two steps of one fell between the two of the
// other, a page would be in neither list. So cuts hold the gate shared, and each slice of protecting holds it alone.
// Readers come first (glibc's default): a cut waits for one slice at most.
//
// Order of locks: Service's registration mutex, gate, a Tracking's mutex.
#pragma once

#include <shared_mutex>

#include "base/mutex.h"

namespace varve::tracker {

class VARVE_CAPABILITY("gate") Gate {
 public:
  void lock() VARVE_ACQUIRE() { mutex_.lock(); }
  void unlock() VARVE_RELEASE() { mutex_.unlock(); }
  void lock_shared() VARVE_THREAD_ANNOTATION(acquire_shared_capability()) { mutex_.lock_shared(); }
  void unlock_shared() VARVE_THREAD_ANNOTATION(release_shared_capability()) { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

class VARVE_SCOPED_CAPABILITY GateAlone {
 public:
  explicit GateAlone(Gate& gate) VARVE_ACQUIRE(gate) : gate_(gate) { gate_.lock(); }
  ~GateAlone() VARVE_RELEASE() { gate_.unlock(); }
  GateAlone(const GateAlone&) = delete;
  GateAlone& operator=(const GateAlone&) = delete;

 private:
  Gate& gate_;
};

class VARVE_SCOPED_CAPABILITY GateShared {
 public:
  explicit GateShared(Gate& gate) VARVE_THREAD_ANNOTATION(acquire_shared_capability(gate)) : gate_(gate) {
    gate_.lock_shared();
  }
  ~GateShared() VARVE_RELEASE() { gate_.unlock_shared(); }
  GateShared(const GateShared&) = delete;
  GateShared& operator=(const GateShared&) = delete;

 private:
  Gate& gate_;
};

}  // namespace varve::tracker
