// SPDX-License-Identifier: Apache-2.0
//
// fork(2) in the program waits for those who asked: what a child can't do without is finished first (pthread_atfork). A
// child made by a bare clone(2) does not wait. Nobody may wait, before a fork, for what holds a lock of its own over
// forks: handlers run in reverse order, and this one is installed late.
//
// Threads: any. leave() does not return while a fork is waiting.
#pragma once

namespace varve {

class ForkWaiter {
 public:
  virtual ~ForkWaiter() = default;
  /// Called in the thread that forks. REQUIRES: needs nothing of a thread that may be in enter() or leave().
  virtual void wait_before_fork() = 0;
};

class ForkWait {
 public:
  static void enter(ForkWaiter& waiter);
  static void leave(ForkWaiter& waiter);
};

}  // namespace varve
