// SPDX-License-Identifier: Apache-2.0
//
// Pagemap: the process's /proc/self/pagemap, for the PAGEMAP_SCAN ioctl and for reading entries. It opens itself again
// if the program closed its descriptor (programs that become daemons close all they find).
// Threads: any, at once.
#pragma once

#include <span>

#include "base/mutex.h"
#include "tracker/kernel_abi.h"
#include "tracker/owned_file.h"
#include "tracker/tracker.h"

namespace varve::tracker {

class Pagemap {
 public:
  /// ioctl(PAGEMAP_SCAN): the number of regions, or minus errno.
  long scan(abi::ScanArguments& arguments);
  /// Entries of the pages from `address` on: their number, or minus errno.
  long read_entries(std::uintptr_t address, std::span<std::uint64_t> entries);

 private:
  int descriptor(int failed) VARVE_EXCLUDES(mutex_);

  Mutex mutex_;
  OwnedFile file_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::tracker
