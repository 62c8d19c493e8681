// SPDX-License-Identifier: Apache-2.0
//
// BackEnd: what a kernel mechanism must do for us. It knows pages only; who asked, what is pending and what is cold is
// kept above it (tracking.h). One object per mechanism and process; `hash` needs none.
//
// A page is written or protected. add() makes all pages of a range written. list() reports the written ones and changes
// nothing. list_and_protect() reports written pages and protects them in one step that no write can fall into: a page
// that it protected is in its report, also when it ends with an error or `lost`.
//
// Threads: list() from several threads; everything else by one thread at a time, which the Service sees to by its gate
// and its registration mutex. Writers may race all of it.
#pragma once

#include <cstdint>
#include <vector>

#include "tracker/costs.h"
#include "tracker/kernel_abi.h"
#include "tracker/tracker.h"

namespace varve::tracker {

/// What list and protect can be done on.
enum class Protects : std::uint8_t { ranges, everything };

/// `lost`: the kernel no longer tracks part of the range (mapped over, moved, descriptor closed); see add_again().
enum class Seen : std::uint8_t { done, lost };

/// Room for what the kernel reports in one call; kept by the caller so that cuts allocate nothing.
using ScanBuffer = std::vector<abi::PageRegion>;

/// Appends a run that lies at or behind the end of the last one, joining those that touch.
inline void append_run(PageRuns& runs, PageRange run) {
  if (!runs.empty() && runs.back().end >= run.begin) {
    if (run.end > runs.back().end) runs.back().end = run.end;
  } else {
    runs.push_back(run);
  }
}

class BackEnd {
 public:
  virtual ~BackEnd() = default;
  virtual BackEndKind kind() const = 0;
  virtual Protects protects() const = 0;

  /// Starts to track pages that this back end does not track yet. Nothing stays behind on failure.
  virtual Status add(PageRange range) = 0;
  /// Ends tracking; every page is as the program had it.
  virtual void remove(PageRange range) = 0;
  /// The same where the content is about to be dropped (Tracking::expect_drop()): marks may stay behind.
  virtual void remove_before_drop(PageRange range) { remove(range); }
  /// After `lost`: tracks the range as it is mapped now, all pages written. The range is part of what was added.
  virtual Status add_again(PageRange range) = 0;

  /// Appends ascending runs to `written`.
  virtual Result<Seen> list(PageRange range, ScanBuffer& buffer, PageRuns& written) = 0;
  /// Appends the runs of the range that are mapped by huge pages; none where the back end does not split them.
  virtual Result<Seen> list_huge(PageRange, ScanBuffer&, PageRuns&) { return Seen::done; }
  /// Called once before a row of list_and_protect().
  virtual Status begin_protecting() = 0;
  /// REQUIRES: protects() == ranges.
  virtual Result<Seen> list_and_protect(PageRange range, ScanBuffer& buffer, PageRuns& written) = 0;
  /// Whether a write to a page that both this and fork(2) have protected costs one fault, as it does after either.
  virtual bool shares_faults_with_fork() const { return false; }
  /// list_and_protect() of the pages that are present. REQUIRES: shares_faults_with_fork().
  virtual Result<Seen> list_and_protect_present(PageRange range, ScanBuffer& buffer, PageRuns& written) {
    return list_and_protect(range, buffer, written);
  }
  /// Protects every page of the process, reporting nothing. REQUIRES: protects() == everything.
  virtual Status protect_everything() = 0;

  /// Makes pages writable for the kernel; they are written then.
  virtual Status writable(PageRange range) = 0;
  /// Faults that our own handler took in the range.
  virtual std::uint64_t faults(PageRange range) const = 0;
  /// Measured at the first call, in a few milliseconds.
  virtual Costs costs() = 0;
};

}  // namespace varve::tracker
