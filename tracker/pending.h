// SPDX-License-Identifier: Apache-2.0
//
// Pending: the pages of one Tracking that lost their written mark, or never had one, and that no committed image holds
// yet. Order is all that matters, so every page carries a stamp, and so do cuts and cools:
//
//     sequence_   even; grows by 2 at every cut, before every fork, and at the start of every cool
//     cut, fork   its stamp is the new sequence_
//     report      stamp = sequence_, so not below the last cut's and below the next one's; one more (odd) if our own
//                 cool reported it and no uncommitted cut is older than that: only those may be settled
//
//     suspect's   stamp = that of the last cut, less 2: just below it, and never one that may be settled
//     report
//
//     committed(N)  drops pages whose stamp lies below that of cut N: they were suspects of N
//     settled()     drops pages with an odd stamp at or above the start of the last cool
//
// Why a cut that is in flight forbids settling: the page was compared with the last committed content, and the cut's
// image, committed later, may hold other content (changed before the cut, changed back after it).
//
// Memory: 4 bytes and a bit for every page that was ever pending. Not synchronised: the Tracking's mutex guards it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "tracker/page_bitmap.h"
#include "tracker/tracker.h"
#include "tracker/zeroed_array.h"

namespace varve::tracker {

class Pending {
 public:
  enum class Reporter : std::uint8_t { own_cool, other };

  /// False when there is no memory for it. Everything is pending at first.
  bool allocate(PageRange range);

  bool empty() const { return whole_ == 0 && bits_.empty(); }
  bool whole() const { return whole_ != 0; }

  /// REQUIRES: `pages` lies within the range.
  void report(PageRange pages, Reporter reporter);
  void report_whole() { whole_ = sequence_; }
  /// The same for pages that are suspects of the cut of that epoch, the last one: its commit drops them.
  void report_suspects(PageRange pages, std::uint64_t epoch);
  /// A fork follows, within the stall of that cut, the last one: for since(), what was reported up to here was before.
  void begin_fork(std::uint64_t epoch);
  /// Appends the pages of `range` that were reported after the cut of that epoch, or after the fork that followed it.
  /// False: all of them, or not known.
  bool since(std::uint64_t epoch, PageRange range, PageRuns& pages);

  /// REQUIRES: epoch is above that of every earlier cut.
  void begin_cut(std::uint64_t epoch);
  std::uint64_t last_epoch() const { return last_epoch_; }
  /// How many cuts there were.
  std::uint64_t cuts() const { return cuts_; }
  /// How many cuts there were up to the cut of that epoch, if it is among the last kCutsKept.
  std::optional<std::uint64_t> cut_number(std::uint64_t epoch) const;
  /// `suspects` = `written` and the pending pages. REQUIRES: `written` is ascending.
  void merge(const PageRuns& written, PageRuns& suspects);

  /// The image of that cut was committed. What becomes of its pages is done by drop_committed().
  void committed(std::uint64_t epoch);
  /// Drops pages that committed images hold, looking at up to `pages` pages from page number `from` on. The page number
  /// to go on from, or nothing when it is done.
  std::optional<std::size_t> drop_committed(std::size_t from, std::size_t pages);

  void begin_cool();
  /// After a cool that protected the whole range: turns "all pages", if that is older than the cool, into pages, so
  /// that they can be settled one by one. In parts like drop_committed().
  std::optional<std::size_t> spread_whole(std::size_t from, std::size_t pages);
  void settled(PageRange pages);

 private:
  struct Cut {
    std::uint64_t epoch = 0;
    std::uint64_t number = 0;
    std::uint32_t stamp = 0;  // 0: none
    std::uint32_t fork = 0;   // the stamp of the fork that followed it, or its own
  };
  static constexpr std::size_t kCutsKept = 64;  // an older cut that is committed late drops nothing, which is safe
  static constexpr std::uint32_t kLastSequence = 0xFFFF'FF00;

  std::size_t page_number(std::uintptr_t address) const { return (address - range_.begin) / page_bytes(); }
  const Cut* find(std::uint64_t epoch) const;
  void advance();

  PageRange range_;
  std::size_t pages_ = 0;
  PageBitmap bits_;
  ZeroedArray<std::uint32_t> stamps_;  // valid where bits_ says so
  std::uint32_t whole_ = 0;            // stamp of "all pages", besides those in bits_; 0: not so
  std::uint32_t sequence_ = 2;
  std::uint32_t last_cut_ = 0;
  std::uint32_t before_last_cut_ = 0;
  std::uint32_t last_committed_ = 0;
  std::uint32_t cool_began_ = 0;
  std::uint64_t last_epoch_ = 0;
  std::uint64_t cuts_ = 0;
  std::array<Cut, kCutsKept> recent_{};
};

}  // namespace varve::tracker
