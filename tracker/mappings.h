// SPDX-License-Identifier: Apache-2.0
//
// What is mapped where: /proc/self/maps, and a cheap check for holes.
#pragma once

#include <cstdint>
#include <vector>

#include "tracker/tracker.h"

namespace varve::tracker {

struct Mapping {
  PageRange range;
  PageRange whole;     ///< not cut
  int protection = 0;  ///< PROT_*
  bool shared = false;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  bool stack = false;  ///< the main thread's

  /// The same memory object: not told by address.
  bool same_object(const Mapping& other) const {
    return shared == other.shared && device == other.device && inode == other.inode;
  }
};

/// The mappings that meet the range, cut to it, ascending; replaces `mappings`. Costs some 0.3 us for every mapping of
/// the process below the range's end.
Status read_mappings(PageRange range, std::vector<Mapping>& mappings);

/// How many mappings the process has, and how many it may have (/proc/sys/vm/max_map_count).
Result<std::size_t> count_mappings();
std::size_t mapping_limit();

/// `invalid_argument` when part of the range is not mapped. Costs a microsecond.
Status check_mapped(PageRange range);

}  // namespace varve::tracker
