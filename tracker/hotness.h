// SPDX-License-Identifier: Apache-2.0
//
// Hotness: which writable pages are cold, so that protecting them pays? Learnt page by page from what became of it.
//
// A page that is left writable costs a visit (copy it, hash it) at every cut; one that is protected costs the
// protecting, and a fault when it is written again. So protecting has paid once a page stayed untouched for
//
//     worth = (fault + protect) / visit        cuts        (costs.h)
//
// Nobody knows that beforehand. Each page has a patience: for how many cuts it must be found unchanged before it is
// protected. It begins at none: a page that was written once is protected as soon as an image holds it. If it is
// written again within `worth` cuts, that was a mistake, and its patience grows (0, 1, 3, 7, ... cuts); if it lasted
// longer, its patience shrinks by one step. So
//
//   - a page that changes in every epoch costs two faults at most, and none from then on;
//   - a page that is written once and left alone costs no visits besides that of its own change;
//   - a page that is written in every epoch with what was there before, which only a fault can tell, is tried at ever
//     longer intervals, up to four times `worth`, so that its faults cost a quarter of its visits at most;
//   - when the pattern changes, what was hot is protected after one unchanged cut, and what becomes hot is left
//     writable after one mistake.
//
// Memory: four bytes a page, faulted in where something was reported. Not synchronised: the Tracking's mutex guards it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tracker/tracker.h"
#include "tracker/zeroed_array.h"

namespace varve::tracker {

class Hotness {
 public:
  /// Ranges to protect, in the making: see look_at().
  struct ColdRanges {
    PageRuns ranges;
    PageRange open{};
  };

  /// False when there is no memory for it.
  bool allocate(PageRange range);
  /// For how many cuts a page must stay protected for that to pay.
  void set_worth(unsigned cuts);

  /// All pages were protected after that cut. Pages that were never reported go back to this.
  void armed(std::uint64_t cut_number) { armed_at_ = cut_number; }
  /// These pages were protected after that cut.
  void cooled(std::uint64_t cut_number, PageRange pages);
  /// These pages were suspects of that cut, whose image is the last committed one, and had changed or not.
  void found(std::uint64_t cut_number, PageRange pages, bool changed);

  /// These pages are writable now; `cut_number` is the last cut's. Learns from those that were protected; joins cold
  /// ones to ranges that hold cold and protected pages only, each from its first to its last cold page. Called for
  /// ascending runs, then finish().
  void look_at(std::uint64_t cut_number, PageRange written, ColdRanges& cold);
  static void finish(ColdRanges& cold);

  /// Pages that were written again so soon that protecting them had cost more than it had saved.
  std::uint64_t mistakes() const { return mistakes_; }

 private:
  struct Page;
  std::size_t page_number(std::uintptr_t address) const { return (address - range_.begin) / page_bytes(); }
  Page at(std::size_t number) const;
  void learn(Page& page, std::uint64_t cut_number);

  PageRange range_;
  unsigned worth_ = 1;
  unsigned top_level_ = 1;
  std::uint64_t armed_at_ = 0;
  std::uint64_t last_found_ = 0;
  std::uint64_t mistakes_ = 0;
  ZeroedArray<std::uint32_t> pages_;
};

}  // namespace varve::tracker
