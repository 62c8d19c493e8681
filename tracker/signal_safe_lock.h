// SPDX-License-Identifier: Apache-2.0
//
// SignalSafeLock: a futex lock that a SIGSEGV handler may take. It waits in the kernel, so that a holder of lower
// priority gets on. Outside of handlers it is taken through SignalsHeld, which holds off all signals of the thread
// meanwhile: else a handler of the program that runs on top of the holder and writes tracked memory would wait for
// itself. Protects data by convention (annotations can't follow it into a handler).
#pragma once

#include <signal.h>

#include <atomic>
#include <cstdint>

namespace varve::tracker {

class SignalSafeLock {
 public:
  void lock();    ///< async-signal-safe
  void unlock();  ///< async-signal-safe

 private:
  std::atomic<std::uint32_t> state_{0};  // 0 free, 1 held, 2 held and waited for
};

class SignalsHeld {
 public:
  explicit SignalsHeld(SignalSafeLock& lock);
  ~SignalsHeld();
  SignalsHeld(const SignalsHeld&) = delete;
  SignalsHeld& operator=(const SignalsHeld&) = delete;

 private:
  SignalSafeLock& lock_;
  sigset_t before_;
};

}  // namespace varve::tracker
