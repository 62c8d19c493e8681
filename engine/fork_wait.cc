// SPDX-License-Identifier: Apache-2.0
#include "engine/fork_wait.h"

#include <pthread.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace varve {
namespace {

struct Waiters {
  Mutex mutex;
  std::vector<ForkWaiter*> all VARVE_GUARDED_BY(mutex);
};

Waiters& waiters_of_process() {
  static auto* const waiters = new Waiters;  // never destroyed: children are forked until the very end
  return *waiters;
}

// The list is held still over the fork, so that the child finds it whole.
void prepare() VARVE_NO_THREAD_SAFETY_ANALYSIS {
  Waiters& waiters = waiters_of_process();
  waiters.mutex.lock();
  for (ForkWaiter* waiter : waiters.all) waiter->wait_before_fork();
}
void parent() VARVE_NO_THREAD_SAFETY_ANALYSIS { waiters_of_process().mutex.unlock(); }
// What the parent's waiters are waited for is done by threads that the child does not have.
void child() VARVE_NO_THREAD_SAFETY_ANALYSIS {
  waiters_of_process().all.clear();
  waiters_of_process().mutex.unlock();
}

}  // namespace

void ForkWait::enter(ForkWaiter& waiter) {
  static const bool installed = pthread_atfork(&prepare, &parent, &child) == 0;
  VARVE_CHECK(installed);
  Waiters& waiters = waiters_of_process();
  MutexLock lock(waiters.mutex);
  waiters.all.push_back(&waiter);
}

void ForkWait::leave(ForkWaiter& waiter) {
  Waiters& waiters = waiters_of_process();
  MutexLock lock(waiters.mutex);
  std::erase(waiters.all, &waiter);
}

}  // namespace varve
