// SPDX-License-Identifier: Apache-2.0
//
// Copying of captured pages past the cache. A cut of many MiB is not read before it has left the cache, so reading the
// old content of staging first (which a plain store does) and driving out what the program works with are waste.
// Four pages are copied at once, a few lines of each in turn: that keeps more of the memory's banks busy than page
// after page does, and gains half again (measured figures: bench/capture_bench.cc). On other processors: memcpy.
//
// Threads: a value of the thread that copies. What was copied may be read by others after fence().
#pragma once

#include <cstddef>

namespace varve {

class PageCopy {
 public:
  /// `past_cache`: false copies at once, by memcpy.
  explicit PageCopy(bool past_cache) : past_cache_(past_cache) {}
  /// Copies, perhaps not before fence() and in any order. REQUIRES: for a page or more, the two lie at the same offset
  /// within a page; what is added between two fences does not overlap.
  void add(std::byte* to, const std::byte* from, std::size_t bytes);
  /// Everything added before is copied, and seen by whoever synchronizes with this thread afterwards.
  void fence();

 private:
  static constexpr std::size_t kTogether = 4;  // pages
  const bool past_cache_;
  std::size_t waiting_ = 0;  // pages in the next two
  std::byte* to_[kTogether] = {};
  const std::byte* from_[kTogether] = {};
};

}  // namespace varve
