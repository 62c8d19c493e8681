// SPDX-License-Identifier: Apache-2.0
//
// Signals of our own threads: the program's handlers run in the program's threads, so ours block what can be sent. What
// a thread's own instructions raise stays open: the kernel kills a process that raises a blocked SIGSEGV, and with the
// `mprotect` tracker a write of ours to a page that holds tracked memory raises one and is meant to be handled.
#pragma once

#include <signal.h>

#include <initializer_list>

namespace varve {

/// While it lives, threads that are started block every signal but SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int raised : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&blocked, raised);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;

 private:
  sigset_t before_;
};

}  // namespace varve
