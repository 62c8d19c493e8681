// SPDX-License-Identifier: Apache-2.0
//
// OwnedFile: a descriptor that lives long inside somebody else's program, which may close it (programs that become
// daemons close all they find) and then get the same number for a file of its own. Told by the inode.
#pragma once

#include <sys/stat.h>

#include "base/unique_fd.h"

namespace varve::tracker {

class OwnedFile {
 public:
  OwnedFile() = default;
  explicit OwnedFile(int fd) : fd_(fd) { fstat(fd, &made_); }

  int get() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  bool still_ours() const {
    struct stat now {};
    return fd_.valid() && fstat(fd_.get(), &now) == 0 && now.st_dev == made_.st_dev && now.st_ino == made_.st_ino;
  }
  /// Closes the descriptor, or gives its number up if it is the program's by now.
  void forget() {
    if (still_ours())
      fd_.reset();
    else
      static_cast<void>(fd_.release());
  }

 private:
  UniqueFd fd_;
  struct stat made_ {};
};

}  // namespace varve::tracker
