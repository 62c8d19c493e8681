// SPDX-License-Identifier: Apache-2.0
//
// What a child that the program forks must leave alone. Descriptors held by GuardedFd are closed in the child by a
// pthread_atfork handler, so that locks, rings and files end with the parent and not with its last child; objects that
// own threads or rings ask OwnerProcess before they touch them. A child made by a bare clone(2) runs no such handler:
// it keeps copies of the descriptors until it closes them (the engine's own holder closes everything first).
//
// Threads: a GuardedFd is used by one thread at a time; different ones by any threads.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "varve/result.h"

namespace varve::storage {

class OwnerProcess {
 public:
  bool is_this() const { return getpid() == pid_; }

 private:
  pid_t pid_ = getpid();
};

/// The error of every call in a forked child: "<what>: this process is a fork of …".
Error forked_error(std::string what);

class GuardedFd {
 public:
  GuardedFd() = default;
  explicit GuardedFd(UniqueFd fd);

  /// -1 when empty, and in a forked child.
  int get() const { return entry_ == nullptr ? -1 : entry_->fd; }
  /// Gives the descriptor up without closing it; -1 in a forked child.
  int release();

 private:
  struct Entry {
    int fd = -1;
    Entry* next = nullptr;
    Entry* previous = nullptr;
  };
  struct Unregister {
    void operator()(Entry* entry) const;  // closes what is left
  };
  friend struct GuardedFds;
  std::unique_ptr<Entry, Unregister> entry_;
};

}  // namespace varve::storage
