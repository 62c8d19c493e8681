// SPDX-License-Identifier: Apache-2.0
//
// Hotness: for how many consecutive cuts was a page a suspect and found unchanged? A page that reaches the threshold is
// cold: a candidate for protecting. Two bytes a page, faulted in where something was reported: the low ten bits count,
// the high six are the number of the last cut counted, so that a cut in which the page did change breaks the row
// without anyone having to say so. Cut numbers are compared modulo 64; a false hit costs a fault, nothing else. Not
// synchronised: the Tracking's mutex guards it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tracker/page_bitmap.h"
#include "tracker/tracker.h"
#include "tracker/zeroed_array.h"

namespace varve::tracker {

class Hotness {
 public:
  /// False when there is no memory for it. `threshold`: 1 to 64.
  bool allocate(PageRange range, unsigned threshold);

  /// REQUIRES: `pages` lies within the range.
  void unchanged(std::uint64_t cut_number, PageRange pages);
  /// Whether any page is cold.
  bool any_cold() const { return !cold_.empty(); }

  /// Cuts `written` (ascending) into ranges that hold cold and protected pages only, each from its first to its last
  /// cold page. Pages that were cold are no longer: they are about to be protected, or are.
  void take_cold(const PageRuns& written, PageRuns& ranges);

 private:
  std::size_t page_number(std::uintptr_t address) const { return (address - range_.begin) / page_bytes(); }

  PageRange range_;
  unsigned threshold_ = 1;
  ZeroedArray<std::uint16_t> rows_;
  PageBitmap cold_;
};

}  // namespace varve::tracker
