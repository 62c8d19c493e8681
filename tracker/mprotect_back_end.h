// SPDX-License-Identifier: Apache-2.0
//
// The back end `mprotect`: protected pages are read-only mappings, and the SIGSEGV handler makes a page writable and
// marks it written. Works on every kernel. Does not see writes by the kernel: they fail with EFAULT unless writable()
// was called before; nor that content was dropped (madvise); nor writes after an mprotect of the program's own.
//
// Every change of protection within a mapping splits it, and a process may have some 65,000 mappings. So splits are
// counted, and once half of what was free is used up, a fault opens the smallest block of 1 to 512 pages that brings
// the count no further up: blocks that hold several open pages join them. All pages of the block count as written.
//
// Memory that can't be protected is always written: what the program may not write (never made writable by us), and
// the main thread's stack and the caller's (the kernel could not push the signal's frame), and the control blocks of
// threads (thread_pages.h). A thread that blocks SIGSEGV must not write tracked memory: the kernel ends the program.
//
// Why no write is lost. All changes are made under `lock`, by the handler too:
//
//     protecting:  mark := protected;  then mprotect(read-only);  then the page is reported (it becomes pending)
//     handler:     mprotect(writable);  then mark := written
//
// Whenever the lock is free, mark == written means writable, and mark == protected means read-only. A write that came
// before the read-only step is covered by the report, one that comes after it faults. If protecting fails half-way, the
// run is made writable and marked written again. The order within the steps keeps the mark on the safe side in a forked
// or vforked child, too. A fault on a page whose mark says written was either resolved by another thread meanwhile (the
// page is writable now, which a futex operation that adds 0 tells without changing anything) or is the program's own.
//
// While `lock` is held no memory is written that could be tracked itself (the heap, globals): that would fault and wait
// for the lock for ever. So all that is written then lies in mappings of our own: Shared, Area.
#pragma once

#include <memory>
#include <optional>

#include "base/mutex.h"
#include "tracker/back_end.h"
#include "tracker/mappings.h"
#include "tracker/mprotect_area.h"

namespace varve::tracker {

class MprotectBackEnd final : public BackEnd {
 public:
  /// Installs nothing before the first add(). `unsupported` with the reason when it does not work here.
  static Result<std::unique_ptr<MprotectBackEnd>> create();

  BackEndKind kind() const override { return BackEndKind::mprotect; }
  Protects protects() const override { return Protects::ranges; }
  Status add(PageRange range) override;
  void remove(PageRange range) override;
  Status add_again(PageRange range) override;
  Result<Seen> list(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Status begin_protecting() override;
  Result<Seen> list_and_protect(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Status protect_everything() override;
  Status writable(PageRange range) override;
  std::uint64_t faults(PageRange range) const override;
  Costs costs() override;

 private:
  MprotectBackEnd() = default;
  static Status try_everything();
  Status add_areas(PageRange range) VARVE_REQUIRES(mutex_);
  Status remove_areas(PageRange range) VARVE_REQUIRES(mutex_);
  Status open_all(PageRange range) VARVE_REQUIRES(mutex_);
  void publish(std::vector<AreaPointer> next, std::vector<AreaPointer> gone, OwnPages table) VARVE_REQUIRES(mutex_);
  /// Whether the mappings are those that the areas stand for.
  Result<bool> mapped_as_known(PageRange range) VARVE_REQUIRES(mutex_);
  static void protect_written(Area& area, PageRange part, PageRuns& written);
  static void open_protected(Area& area, PageRange range);
  template <class Visit>
  void for_each_area(PageRange range, Visit visit) const VARVE_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::vector<AreaPointer> areas_ VARVE_GUARDED_BY(mutex_);  // ascending, disjoint
  std::vector<AreaPointer> retired_ VARVE_GUARDED_BY(mutex_);
  OwnPages table_ VARVE_GUARDED_BY(mutex_);
  OwnPages retired_table_ VARVE_GUARDED_BY(mutex_);
  PageRuns thread_pages_ VARVE_GUARDED_BY(mutex_);  // never protected
  std::vector<Mapping> mappings_ VARVE_GUARDED_BY(mutex_);
  std::optional<Costs> costs_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::tracker
