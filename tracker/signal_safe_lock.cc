// SPDX-License-Identifier: Apache-2.0
#include "tracker/signal_safe_lock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace varve::tracker {
namespace {

void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
  syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

}  // namespace

// The mutex of Drepper's "Futexes Are Tricky", section 5.
void SignalSafeLock::lock() {
  std::uint32_t free = 0;
  if (state_.compare_exchange_strong(free, 1, std::memory_order_acquire)) return;
  while (state_.exchange(2, std::memory_order_acquire) != 0) futex(state_, FUTEX_WAIT, 2);
}

void SignalSafeLock::unlock() {
  if (state_.exchange(0, std::memory_order_release) == 2) futex(state_, FUTEX_WAKE, 1);
}

SignalsHeld::SignalsHeld(SignalSafeLock& lock) : lock_(lock) {
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGSEGV);  // a fault with SIGSEGV blocked would end the program without a word to its handler
  pthread_sigmask(SIG_SETMASK, &all, &before_);
  lock_.lock();
}

SignalsHeld::~SignalsHeld() {
  lock_.unlock();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace varve::tracker
