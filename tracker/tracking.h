// SPDX-License-Identifier: Apache-2.0
//
// TrackingImpl: what one user knows about one range: pending pages, hotness, counters. The back end may be shared.
//
// Policy of cool(). The first one protects the whole range. Later ones protect the pages that hotness holds for cold
// (hotness.h). Protecting goes in slices, so that a cut never waits for more than one: a slice is sized by its own
// time, to about kSliceNs.
//
// A range that is written nearly whole in every epoch is not looked at: once visiting the few pages that are protected
// costs half of what listing the range does, cuts report all of it without asking the kernel, until cool(), which still
// looks, finds the share of protected pages to pay again.
#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "tracker/back_end.h"
#include "tracker/hotness.h"
#include "tracker/huge_blocks.h"
#include "tracker/pending.h"
#include "tracker/service.h"

namespace varve::tracker {

class TrackingImpl final : public Tracking {
 public:
  /// `back_end` null: hash.
  static Result<std::unique_ptr<TrackingImpl>> create(ServiceImpl& service, PageRange range, const void* owner,
                                                      BackEnd* back_end, std::string why);
  ~TrackingImpl() override;

  PageRange range() const override { return range_; }
  BackEndKind back_end() const override;
  std::string why() const override;
  Status cut(std::uint64_t epoch, PageRuns& suspects) override;
  bool watch_fork(std::uint64_t epoch, PageRange part) override;
  void changed_since_fork(std::uint64_t epoch, PageRange range, PageRuns& changed) override;
  void committed(std::uint64_t epoch) override;
  void touch(PageRange pages) override;
  void reduced(std::uint64_t epoch, const Reduced& found) override;
  Status cool(PageRuns& cooled) override;
  void cool_ahead(std::uintptr_t end) override;
  void settled(const PageRuns& pages) override;
  void expect_drop() override { drop_expected_.store(true); }
  TrackingCounters counters() const override;
  Costs costs() const override;

  // For ServiceImpl.
  const void* owner() const { return owner_; }
  BackEnd* mechanism() const { return back_end_.load(std::memory_order_acquire); }
  /// The back end that the range was added to, whatever serves it now.
  BackEnd* added_to() const { return added_to_; }
  bool drop_expected() const { return drop_expected_.load(); }
  void report(PageRange pages, Pending::Reporter reporter);
  void report_whole();
  /// These pages are suspects of the cut of that epoch, the last one, and lost their marks since; nobody wrote them.
  void report_suspects(PageRange pages, std::uint64_t epoch);
  /// Lists with the buffers of the cut. REQUIRES: the gate is held.
  Result<Seen> list(PageRuns& written);
  std::uint64_t seen_clearings = 0;  ///< the Service's, guarded by its gate
  bool registered = false;           ///< the Service's; destruction ends it

 private:
  TrackingImpl(ServiceImpl& service, PageRange range, const void* owner, BackEnd* back_end, std::string why);
  void list_for_cut(BackEnd& back_end) VARVE_THREAD_ANNOTATION(requires_shared_capability(service_.gate()));
  /// After the kernel lost the range: starts anew, everything is pending.
  void start_anew(BackEnd& back_end) VARVE_THREAD_ANNOTATION(requires_shared_capability(service_.gate()));
  void end_cut(std::uint64_t epoch, std::uint64_t began_ns, PageRuns& suspects, bool listed);
  /// Appends those of `range` that were written since the cut of that epoch. False: it can't be told.
  bool tell_written_since(std::uint64_t epoch, PageRange range, PageRuns& pages);
  void list_not_shared(PageRange range, PageRuns& pages);
  void give_up(const Error& error);
  Result<Seen> protect_slice(BackEnd& back_end, PageRange slice, PageRuns& found) VARVE_REQUIRES(cooling_);
  std::uintptr_t end_of_slice(std::uintptr_t at, std::uintptr_t end) const VARVE_REQUIRES(cooling_);
  Status protect_in_slices(BackEnd& back_end, PageRange range, PageRuns& cooled) VARVE_REQUIRES(cooling_);
  /// What to protect now. `written`: how many pages are.
  PageRuns plan(BackEnd& back_end, std::size_t& written) VARVE_REQUIRES(cooling_);
  void begin_cool();
  std::uint64_t cuts() const;
  bool all_pending() const;
  void arm() VARVE_REQUIRES(cooling_);
  void remember_huge_pages(BackEnd& back_end) VARVE_REQUIRES(cooling_);
  void gather_huge_pages() VARVE_REQUIRES(cooling_);
  void mark_cooled(const PageRuns& cooled) VARVE_REQUIRES(cooling_);
  void decide_whether_to_list(std::size_t protected_pages) VARVE_REQUIRES(cooling_);
  PageRange clip(PageRange pages) const;

  ServiceImpl& service_;
  const PageRange range_;
  const void* const owner_;
  BackEnd* const added_to_;
  std::atomic<BackEnd*> back_end_;
  ScanBuffer cut_buffer_;               // cut() and watch_fork() only
  PageRuns written_;                    // cut() only
  ScanBuffer since_buffer_;             // changed_since_fork() only
  std::vector<std::uint64_t> entries_;  // likewise

  mutable Mutex mutex_;
  std::string why_ VARVE_GUARDED_BY(mutex_);
  Pending pending_ VARVE_GUARDED_BY(mutex_);
  Hotness hotness_ VARVE_GUARDED_BY(mutex_);
  TrackingCounters counters_ VARVE_GUARDED_BY(mutex_);
  Costs costs_ VARVE_GUARDED_BY(mutex_);

  std::atomic<bool> not_listed_{false};  // set by cool(), for cuts: all of it counts as written
  std::atomic<bool> armed_{false};       // set by the first cool()
  std::atomic<bool> drop_expected_{false};

  Mutex cooling_;  // one cool() at a time; taken before the gate
  std::size_t slice_bytes_ VARVE_GUARDED_BY(cooling_) = std::size_t{4} << 20;
  ScanBuffer cool_buffer_ VARVE_GUARDED_BY(cooling_);
  HugeBlocks huge_blocks_ VARVE_GUARDED_BY(cooling_);
  /// What cool_ahead() did: up to where, what was written there, and how many cuts there were. Empty: nothing.
  struct Ahead {
    std::uintptr_t end = 0;
    std::uint64_t cuts = 0;
    PageRuns cooled;
  };
  std::optional<Ahead> ahead_ VARVE_GUARDED_BY(cooling_);
};

}  // namespace varve::tracker
