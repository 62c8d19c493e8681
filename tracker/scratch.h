// SPDX-License-Identifier: Apache-2.0
//
// Scratch: a private mapping of small pages, unmapped at the end.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "base/os_error.h"
#include "tracker/tracker.h"

namespace varve::tracker {

class Scratch {
 public:
  static Result<Scratch> make(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return os_error("mapping memory to try and measure the tracker failed", errno);
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    const auto begin = reinterpret_cast<std::uintptr_t>(memory);
    return Scratch({begin, begin + bytes});
  }
  Scratch(Scratch&& other) noexcept : range_(std::exchange(other.range_, {})) {}
  Scratch& operator=(Scratch&&) = delete;
  ~Scratch() {
    if (range_.begin != 0) munmap(reinterpret_cast<void*>(range_.begin), range_.size_bytes());
  }
  PageRange range() const { return range_; }

 private:
  explicit Scratch(PageRange range) : range_(range) {}
  PageRange range_;
};

}  // namespace varve::tracker
