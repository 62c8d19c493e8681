// SPDX-License-Identifier: Apache-2.0
//
// Memory that is about to be filled, faulted in many pages at once (MADV_POPULATE_WRITE, Linux 5.14), which costs a
// fraction of faulting in page by page. A block of it is faulted in by whoever comes to fill it first: so all threads
// that fill share that work, and what was just cleared is still in the cache when it is written.
//
// Threads: built by one; prepare() by any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/mapping.h"

namespace varve {

class Populating {
 public:
  /// Whole pages, disjoint from those added before. Nothing outside of what was added is faulted in.
  void add(AddressRange pages);
  /// After the last add().
  void sort();
  /// What of the range was added is faulted in now. Where the kernel can't, nothing happens: it is faulted in as it is
  /// written.
  void prepare(AddressRange range);

 private:
  enum State : std::uint32_t { untouched, under_way, done };

  std::vector<AddressRange> blocks_;                     // ascending, disjoint
  std::unique_ptr<std::atomic<std::uint32_t>[]> state_;  // of each
  std::atomic<bool> refused_{false};
};

}  // namespace varve
