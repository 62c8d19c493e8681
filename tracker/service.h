// SPDX-License-Identifier: Apache-2.0
//
// ServiceImpl: the process's back ends, who uses which page of them, and all Trackings, so that a report of one reaches
// every other whose range holds the page.
//
// soft-dirty serves one owner. Its bits can be cleared only all at once, so the first cut of a round (of a Tracking
// that has had no clearing since its own last cut) lists the ranges of all Trackings of the owner, makes what it found
// pending in each, and clears; the cuts that follow in the same round only list. So a checkpoint of many regions clears
// once. No thread may write any range of the owner during a cut.
#pragma once

#include <memory>
#include <vector>

#include "base/mutex.h"
#include "tracker/back_end.h"
#include "tracker/gate.h"
#include "tracker/pagemap.h"
#include "tracker/range_counts.h"

namespace varve::tracker {

class MprotectBackEnd;
class SoftDirtyBackEnd;
class TrackingImpl;
class UffdBackEnd;

/// A back end once it was tried, with what it needs to be shared.
struct Mechanism {
  std::unique_ptr<BackEnd> back_end;  // null: does not work here
  std::string reason;
  RangeCounts users;
  bool tried = false;
};

class ServiceImpl final : public Service {
 public:
  ServiceImpl();

  Result<std::unique_ptr<Tracking>> track(PageRange range, std::optional<BackEndKind> wanted,
                                          const void* owner) override;
  std::vector<BackEndReport> probe() override;
  Costs costs(BackEndKind kind) override;
  Status writable(PageRange pages) override;

  // For TrackingImpl.
  Gate& gate() VARVE_THREAD_ANNOTATION(lock_returned(gate_)) { return gate_; }
  /// Protects written pages of the range and makes them pending in every Tracking that holds them; appends to `found`.
  Result<Seen> protect(BackEnd& back_end, PageRange range, TrackingImpl& by, ScanBuffer& buffer, PageRuns& found)
      VARVE_REQUIRES(gate_);
  /// The same for pages that are present, within the cut of that epoch of `by`, which has them as suspects.
  Result<Seen> protect_for_fork(BackEnd& back_end, PageRange range, TrackingImpl& by, std::uint64_t epoch,
                                ScanBuffer& buffer) VARVE_REQUIRES(gate_);
  Pagemap& pagemap() { return pagemap_; }
  /// Makes a whole range pending in every Tracking that shares pages with it, since what was tracked of it is lost.
  void report_lost(PageRange range) VARVE_THREAD_ANNOTATION(requires_shared_capability(gate_));
  /// The part of a cut that soft-dirty needs: lists `by`, and clears if it leads the round.
  void list_and_clear(TrackingImpl& by, PageRuns& written) VARVE_REQUIRES(gate_);
  void end(TrackingImpl& tracking);

 private:
  struct Choice {
    Mechanism* mechanism = nullptr;  // null: hash
    std::string why;
  };
  Mechanism& tried(BackEndKind kind) VARVE_REQUIRES(registration_);
  Result<Choice> choose(std::optional<BackEndKind> wanted, const void* owner) VARVE_REQUIRES(registration_);
  static Status add(Mechanism& mechanism, PageRange range);
  static void remove(Mechanism& mechanism, PageRange range, bool drop_expected = false);

  Mutex registration_;
  Mechanism uffd_ VARVE_GUARDED_BY(registration_);
  Mechanism soft_dirty_ VARVE_GUARDED_BY(registration_);
  Mechanism mprotect_ VARVE_GUARDED_BY(registration_);
  const void* soft_dirty_owner_ VARVE_GUARDED_BY(registration_) = nullptr;
  std::size_t soft_dirty_users_ VARVE_GUARDED_BY(registration_) = 0;

  Pagemap pagemap_;
  Gate gate_;
  std::vector<TrackingImpl*> trackings_ VARVE_GUARDED_BY(gate_);
  std::uint64_t clearings_ VARVE_GUARDED_BY(gate_) = 0;
};

}  // namespace varve::tracker
