// SPDX-License-Identifier: Apache-2.0
//
// The back end `soft-dirty`: bit 55 of /proc/self/pagemap, cleared by writing 4 to /proc/self/clear_refs, for the whole
// process at once. Needs CONFIG_MEM_SOFT_DIRTY. Sees writes by the kernel; new mappings count as written. Does not see
// that content was dropped (madvise), and is blinded by anybody else who clears.
//
// Between reading the bits and clearing them a write would be lost, so both happen within a cut, in which nobody writes
// any range of the owner; see Service.
#pragma once

#include <memory>

#include "tracker/back_end.h"
#include "tracker/pagemap.h"

namespace varve::tracker {

class SoftDirtyBackEnd final : public BackEnd {
 public:
  /// `unsupported` with the reason when the bits don't work here.
  static Result<std::unique_ptr<SoftDirtyBackEnd>> create();

  BackEndKind kind() const override { return BackEndKind::soft_dirty; }
  Protects protects() const override { return Protects::everything; }
  Status add(PageRange) override { return {}; }
  void remove(PageRange) override {}
  Status add_again(PageRange) override { return {}; }
  Result<Seen> list(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Status begin_protecting() override { return {}; }
  Result<Seen> list_and_protect(PageRange range, ScanBuffer& buffer, PageRuns& written) override;
  Status protect_everything() override;
  Status writable(PageRange) override { return {}; }
  std::uint64_t faults(PageRange) const override { return 0; }
  Costs costs() override { return {}; }

 private:
  SoftDirtyBackEnd() = default;
  Status try_everything();

  Pagemap pagemap_;
};

}  // namespace varve::tracker
