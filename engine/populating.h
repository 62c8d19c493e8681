// SPDX-License-Identifier: Apache-2.0
//
// Memory that is about to be filled, faulted in many pages at once (MADV_POPULATE_WRITE, Linux 5.14), which costs a
// fraction of faulting in page by page. A block of it is faulted in by whoever comes to fill it first: so all threads
// that fill share that work, and what was just cleared is still in the cache when it is written.
//
// Asking for pages that are there costs some 0.2 us each. Where the kernel tells faster which were written, a block of
// such pages is left alone.
//
// Threads: built by one; prepare() by any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/mapping.h"
#include "tracker/pagemap.h"

namespace varve {

class Populating {
 public:
  /// Whether pages are looked at first. `written`: those that userfaultfd tracks, and says were written since, take no
  /// fault, but for a few that a fork made read-only and the tracker had left unmarked. With other trackers nobody
  /// knows what a fork did.
  enum class Look : std::uint8_t { no, written };

  /// Whole pages, disjoint from those added before. Nothing outside of what was added is faulted in.
  void add(AddressRange pages, Look look = Look::no);
  /// After the last add().
  void sort();
  /// What of the range was added is faulted in now. Where the kernel can't, nothing happens: it is faulted in as it is
  /// written.
  void prepare(AddressRange range);

 private:
  enum State : std::uint32_t { untouched, under_way, done };

  /// Whether each of them was written since its tracker marked it last.
  bool were_written(AddressRange pages);

  struct Block {
    AddressRange pages;
    Look look = Look::no;
  };

  std::vector<Block> blocks_;                            // ascending, disjoint
  std::unique_ptr<std::atomic<std::uint32_t>[]> state_;  // of each
  std::atomic<bool> refused_{false};
  tracker::Pagemap pagemap_;
};

}  // namespace varve
