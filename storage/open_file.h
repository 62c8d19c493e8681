// SPDX-License-Identifier: Apache-2.0
//
// OpenFile: what every real back end does with a file the same way: whole reads and writes that go on after short ones
// and interrupts, space, size, flush, and the words of the errors.
//
// Threads: its calls may run in several threads at once (they only use the descriptor).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "storage/fork_guard.h"
#include "varve/result.h"

namespace varve::storage {

/// How often a transfer is tried again when the kernel says "later". Each transfer has its own.
class Retry {
 public:
  /// Whether to try again after this errno; waits a little when there is cause to.
  bool again(int os_errno);

 private:
  unsigned left_ = 1000;
};

class OpenFile {
 public:
  OpenFile(UniqueFd fd, std::string name, std::string path, bool direct)
      : fd_(std::move(fd)), name_(std::move(name)), path_(std::move(path)), direct_(direct) {}

  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }
  bool direct() const { return direct_; }
  bool owned() const { return owner_.is_this(); }

  Result<std::uint64_t> size_bytes() const;
  /// Any offset and length, also by O_DIRECT (then through an aligned buffer).
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) const;
  Status flush() const;
  Status allocate(std::uint64_t offset, std::uint64_t bytes) const;
  Status truncate(std::uint64_t size_bytes) const;

  /// All of it; 0 or an errno.
  int write_all(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Whether a read goes by O_DIRECT as it is.
  bool aligned(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// How much of a transfer of which `done` bytes are through counts: by O_DIRECT whole blocks only.
  std::size_t settled(std::size_t done) const;

  Error write_error(std::uint64_t offset, int os_errno) const;
  Error read_error(std::uint64_t offset, int os_errno) const;
  /// "ACTION of PATH refused: this process is a fork …"
  Error refusal(const char* action) const;

 private:
  Result<std::size_t> read_plain(std::uint64_t offset, std::span<std::byte> into) const;
  Result<std::size_t> read_through_buffer(std::uint64_t offset, std::span<std::byte> into) const;

  GuardedFd fd_;
  std::string name_;
  std::string path_;
  bool direct_;
  OwnerProcess owner_;
};

}  // namespace varve::storage
