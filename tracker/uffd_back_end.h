// SPDX-License-Identifier: Apache-2.0
//
// The back end `uffd`: userfaultfd write protection in asynchronous mode, in which the kernel itself resolves the fault
// and only clears the page's mark, and PAGEMAP_SCAN, which lists pages without the mark and can set it in the same
// step. Linux 6.7. Sees writes by threads and by the kernel (read(2), io_uring without fixed buffers), and that content
// was dropped (MADV_DONTNEED; MADV_FREE once the kernel has taken the page): an empty page table entry has no mark.
//
// A range of memory that was never populated, or was dropped as a whole huge page, has no page table to look at. Old
// kernels' scans pass over it in silence, newer ones (some stable series too) report it as written. Which one we have
// is found by doing; on old ones a slower scan asks for pages that are not present as well.
#pragma once

#include <memory>
#include <optional>

#include "base/mutex.h"
#include "tracker/back_end.h"
#include "tracker/owned_file.h"
#include "tracker/pagemap.h"

namespace varve::tracker {

class UffdBackEnd final : public BackEnd {
 public:
  /// Opens and tries everything that the back end promises. `unsupported` with the reason when one thing fails.
  static Result<std::unique_ptr<UffdBackEnd>> create();

  BackEndKind kind() const override { return BackEndKind::uffd; }
  Protects protects() const override { return Protects::ranges; }
  Status add(PageRange range) override;
  void remove(PageRange range) override;
  void remove_before_drop(PageRange range) override;
  Status add_again(PageRange range) override;
  Result<Seen> list(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Result<Seen> list_huge(PageRange range, ScanBuffer& buffer, PageRuns& huge) override;
  Status begin_protecting() override { return {}; }
  Result<Seen> list_and_protect(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  bool shares_faults_with_fork() const override { return true; }
  Result<Seen> list_and_protect_present(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Status protect_everything() override;
  Status writable(PageRange) override { return {}; }
  std::uint64_t faults(PageRange) const override { return 0; }
  Costs costs() override;

  /// Works as on a kernel whose scan passes over holes, for tests.
  void assume_scan_passes_over_holes() { scan_passes_over_holes_ = true; }
  /// Which way the descriptor was got, and the kind of scan, for people.
  std::string remark() const VARVE_EXCLUDES(mutex_);

 private:
  struct Question {
    std::uint64_t flags = 0;
    std::uint64_t inverted = 0;
    std::uint64_t all_of = 0;
    std::uint64_t any_of = 0;
    std::uint64_t answer = 0;
  };

  UffdBackEnd() = default;
  Status open_descriptor() VARVE_REQUIRES(mutex_);
  bool register_range(PageRange range) VARVE_REQUIRES(mutex_);  // false with errno
  void unregister_range(PageRange range) VARVE_REQUIRES(mutex_);
  Status try_everything();
  Status try_marks(PageRange pages);
  Result<Seen> scan(PageRange range, const Question& question, ScanBuffer& buffer, PageRuns& found);

  Pagemap pagemap_;
  mutable Mutex mutex_;
  OwnedFile uffd_ VARVE_GUARDED_BY(mutex_);
  std::string way_ VARVE_GUARDED_BY(mutex_);
  bool scan_passes_over_holes_ = false;  // set by create()
  std::optional<Costs> costs_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::tracker
