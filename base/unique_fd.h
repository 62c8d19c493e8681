// SPDX-License-Identifier: Apache-2.0
//
// UniqueFd owns a file descriptor and closes it. Values; not shared between threads.
#pragma once

#include <unistd.h>

#include <utility>

namespace varve {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);  // its error is nobody's: data files are flushed before they are closed
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace varve
