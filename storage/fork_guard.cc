// SPDX-License-Identifier: Apache-2.0
#include "storage/fork_guard.h"

#include <pthread.h>

#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/mutex.h"

namespace varve::storage {

/// The list of all guarded descriptors of this process. Never destroyed: children are forked until the very end.
struct GuardedFds {
  using Entry = GuardedFd::Entry;
  Mutex mutex;
  Entry* first VARVE_GUARDED_BY(mutex) = nullptr;

  static GuardedFds& of_process() {
    static GuardedFds* const fds = [] {
      auto* made = new GuardedFds;
      VARVE_CHECK(pthread_atfork(&prepare, &parent, &child) == 0);
      return made;
    }();
    return *fds;
  }

  void add(Entry* entry) VARVE_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    entry->next = first;
    if (first != nullptr) first->previous = entry;
    first = entry;
  }
  /// Closes too, under the lock: a fork just before the close would leave the child a copy, and with it a lock held.
  void close_and_remove(Entry* entry) VARVE_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    if (entry->previous != nullptr) entry->previous->next = entry->next;
    if (entry->next != nullptr) entry->next->previous = entry->previous;
    if (first == entry) first = entry->next;
    if (entry->fd >= 0) close(entry->fd);
  }

  // The list is held still over the fork, so that the child finds it whole.
  static void prepare() VARVE_NO_THREAD_SAFETY_ANALYSIS { of_process().mutex.lock(); }
  static void parent() VARVE_NO_THREAD_SAFETY_ANALYSIS { of_process().mutex.unlock(); }
  // Child of a process with threads: async-signal-safe calls only.
  static void child() VARVE_NO_THREAD_SAFETY_ANALYSIS {
    GuardedFds& all = of_process();
    for (Entry* entry = all.first; entry != nullptr; entry = entry->next) {
      close(entry->fd);
      entry->fd = -1;
    }
    all.mutex.unlock();
  }
};

Error forked_error(std::string what) {
  return fail(ErrorCode::unsupported,
              {std::move(what),
               "this process is a fork of the one that opened the store, and must not touch what is its parent's",
               "open the store anew in this process"});
}

GuardedFd::GuardedFd(UniqueFd fd) {
  if (!fd.valid()) return;
  auto entry = std::make_unique<Entry>();
  entry->fd = fd.release();
  entry_.reset(entry.release());
  GuardedFds::of_process().add(entry_.get());
}

int GuardedFd::release() { return entry_ == nullptr ? -1 : std::exchange(entry_->fd, -1); }

void GuardedFd::Unregister::operator()(Entry* entry) const {
  GuardedFds::of_process().close_and_remove(entry);
  delete entry;
}

}  // namespace varve::storage
