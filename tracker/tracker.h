// SPDX-License-Identifier: Apache-2.0
//
// Tracking: which pages may have been written? One interface for every back end, and one service per process that
// shares what the kernel gives only once (a page belongs to one userfaultfd, soft-dirty bits to the process, SIGSEGV to
// one handler).
//
// Words. A page that the back end has protected is *clean* until it is written; a written page stays *written* until it
// is protected again. A suspect of a cut is a page that may differ from the last committed image:
//
//     suspects(cut N) = pages written now  ∪  pages pending
//
// A page becomes *pending* when a list-and-protect step reports it (its written mark is gone then), or by touch(); it
// leaves by committed(N), and only if it became pending before cut N and was not reported again since, or by settled()
// after it was protected and found equal. So a failed image forgets nothing, and several cuts may be in flight: a page
// counts as a suspect until an image that holds it has been committed. Reports go to every Tracking whose range holds
// the page, since protecting is shared.
//
// Cuts only list (well under a millisecond for a GiB); protecting again happens in cool(), in the background: hot pages
// stay writable and cause no faults. A new range is not protected until its first cool(), so that filling it or
// restoring into it costs no faults.
//
// With mprotect, no thread that blocks SIGSEGV may write tracked pages, or what shares a page with them: the kernel
// would end the program. Threads of the engine that hold off signals must leave that one alone.
//
// Threads: the Service and every Tracking may be used from any thread; cut() of one Tracking is not called from two
// threads at once. Writers may race everything except cut() of their own range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "varve/result.h"

namespace varve::tracker {

enum class BackEndKind : std::uint8_t { uffd, soft_dirty, mprotect, hash };

std::string_view to_string(BackEndKind kind);
/// "uffd", "soft-dirty", "mprotect", "hash"; empty for anything else.
std::optional<BackEndKind> parse_back_end(std::string_view name);

/// Half-open, page-aligned.
struct PageRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  std::size_t size_bytes() const { return end - begin; }
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

/// Ascending, disjoint, not touching.
using PageRuns = std::vector<PageRange>;

/// The system's page size in bytes.
std::size_t page_bytes();

/// What a Tracking has seen; counters only grow.
struct TrackingCounters {
  std::uint64_t cuts = 0;
  std::uint64_t cuts_not_listed = 0;      ///< of these: nearly all of it is written in every epoch, so nobody looked
  std::uint64_t suspect_pages = 0;        ///< summed over cuts, over-reported ones included
  std::uint64_t protected_pages = 0;      ///< by the back end on behalf of this range
  std::uint64_t mistakes = 0;             ///< of these: written again so soon that protecting them did not pay
  std::uint64_t gathered_huge_pages = 0;  ///< hot memory that protecting had split, put together again
  std::uint64_t faults = 0;               ///< handled by our own handler (mprotect); 0 where the kernel resolves them
  std::uint64_t scan_ns = 0;              ///< within cuts
  std::uint64_t protect_ns = 0;           ///< outside and within cuts
};

/// What a page costs on this machine, in nanoseconds; 0: unknown. Measured at first, then followed.
struct Costs {
  double fault_ns = 0;    ///< a first write to a protected page, less a plain write
  double protect_ns = 0;  ///< protecting a page, in a range
  double list_ns = 0;     ///< a page of a range whose written pages are listed
  double visit_ns = 0;    ///< a page that is left writable, at a cut: copied, and read once more (hashed)
};

/// What became of the suspects of a cut whose image was committed.
struct Reduced {
  const PageRuns& suspects;
  const PageRuns& unchanged;  ///< of these: found equal to what had been committed before
  double visit_ns = 0;        ///< what copying and hashing a page took; 0: unknown
};

/// The tracking of one page range for one user of it. Destroying it ends the tracking (the last user of a page disarms
/// it). The memory must stay mapped as long, or be announced by ending the Tracking first.
class Tracking {
 public:
  virtual ~Tracking() = default;

  virtual PageRange range() const = 0;
  /// The back end that serves this range now; it may differ from what was asked for, and may change to `hash` when the
  /// range can no longer be tracked: why() then says the reason in words.
  virtual BackEndKind back_end() const = 0;
  virtual std::string why() const = 0;

  /// The suspects, as of now, of the image numbered `epoch` (any number that grows from cut to cut, from 1).
  /// REQUIRES: no thread writes the range meanwhile; with soft-dirty, whose bits are cleared all at once, no range of
  /// the same owner. Within the stall: no allocation beyond `suspects` growing.
  ///
  /// Errors: `invalid_argument` when part of the range is no longer mapped. A range whose tracking was lost (mremap,
  /// MAP_FIXED, closed descriptor) is registered anew and reported whole, never an error.
  virtual Status cut(std::uint64_t epoch, PageRuns& suspects) = 0;

  /// A child that shares the range's memory was forked since the cut of this epoch, within the same stall: from here on
  /// changed_since_fork() tells which pages of this part are no longer what that child holds. Written pages that are
  /// present become clean, which costs their next writes nothing: fork(2) makes them fault anyway. They stay suspects
  /// of this cut, and pending until its image is committed. False: it can't be told here. Holds up other threads'
  /// changes of mappings meanwhile, so that a large range is best watched in parts. REQUIRES: as cut().
  virtual bool watch_fork(std::uint64_t epoch, PageRange part) = 0;
  /// The pages of `range` that may differ from what that child holds: written since, not present, or not shared with
  /// another process. In no order; they may overlap. Content that was read before the call, and of which no page is
  /// named here, is the child's. Background; by one thread at a time.
  virtual void changed_since_fork(std::uint64_t epoch, PageRange range, PageRuns& changed) = 0;

  /// The image of that cut was committed: its pages stop being pending (see above). Background.
  virtual void committed(std::uint64_t epoch) = 0;

  /// Declares pages written: suspects of the next cut. For writes that the back end cannot see.
  virtual void touch(PageRange pages) = 0;

  /// Background feedback on the cut of that epoch, after committed(). Feeds the policy of cool(); never changes what is
  /// a suspect by itself.
  virtual void reduced(std::uint64_t epoch, const Reduced& found) = 0;

  /// Background, never within a stall: protects the pages that the policy holds for cold, list and protect in one
  /// step, in large ranges; `cooled` gets them. They are pending now. The caller then compares each, read *after* this
  /// returned, with the last committed content, and says settled() for those that are equal. A back end that can only
  /// protect everything at a cut (soft-dirty), or nothing (hash), cools nothing here.
  virtual Status cool(PageRuns& cooled) = 0;
  /// Does the first cool()'s work for the pages up to `end`, from where the last call ended: for who knows that they
  /// won't be written before that, and has nothing else to do. cool() then names them with the others, unless a cut
  /// came between. No effect after the first one, nor where nothing is cooled.
  virtual void cool_ahead(std::uintptr_t end) = 0;
  /// These pages, of the last cool(), were read since and are equal to the last committed content: no longer pending.
  /// Passes over pages that were cooled while an older cut was neither committed nor followed by a committed one: its
  /// image may yet become the last committed content. So cool() after committed(), not before.
  virtual void settled(const PageRuns& pages) = 0;

  /// The range's content is about to be dropped, and this Tracking to end before anybody writes there: what was marked
  /// need not be taken back, which takes time that grows with the range.
  virtual void expect_drop() = 0;

  virtual TrackingCounters counters() const = 0;
  /// As the policy of this range has them now; all 0 where it has none (soft-dirty, hash).
  virtual Costs costs() const = 0;
};

/// What probing by doing found out about one back end on this kernel, for this user.
struct BackEndReport {
  BackEndKind kind;
  bool available;
  std::string reason;  ///< why not, or a remark ("UFFD_USER_MODE_ONLY"); may be empty
};

/// The one tracker service of the process. Made at first use, never destroyed.
class Service {
 public:
  static Service& process();
  virtual ~Service() = default;

  /// Tracks the range, which is rounded out to pages by the caller. Every page is written (a suspect) at first.
  /// `wanted` empty: the best that works (uffd, else soft-dirty, else hash), falling to `hash` with a reason where the
  /// range can't be shared or tracked. `wanted` set: that one, or `unsupported`; soft-dirty held by another owner
  /// serves as `hash`, saying so. `owner` groups the ranges of one engine: soft-dirty serves one owner at a time.
  virtual Result<std::unique_ptr<Tracking>> track(PageRange range, std::optional<BackEndKind> wanted,
                                                  const void* owner) = 0;

  /// Probes once per process, by doing, and caches.
  virtual std::vector<BackEndReport> probe() = 0;

  /// Costs of a back end that works here, measured at the first call in a few milliseconds, on memory of its own; all 0
  /// but visit_ns for those that have no policy to feed.
  virtual Costs costs(BackEndKind kind) = 0;

  /// Makes pages writable before the kernel writes into them (read(2)): with `mprotect` such a call fails with EFAULT
  /// otherwise. The pages become written. A no-op for other back ends and for memory that is not tracked.
  /// Async-signal-safe: no. Cost: one system call per protected run.
  virtual Status writable(PageRange pages) = 0;
};

}  // namespace varve::tracker
