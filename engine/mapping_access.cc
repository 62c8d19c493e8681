// SPDX-License-Identifier: Apache-2.0
#include "engine/mapping_access.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/os_error.h"
#include "base/unique_fd.h"
#include "tracker/kernel_abi.h"
#include "tracker/tracker.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // since Linux 5.14: include/uapi/asm-generic/mman-common.h
#endif

namespace varve {
namespace {

namespace abi = tracker::abi;

/// Whether reading a byte of the page would end the program. Older kernels than 5.14 don't say: no.
bool is_unreadable(std::uintptr_t page) {
  while (madvise(reinterpret_cast<void*>(page), tracker::page_bytes(), MADV_POPULATE_READ) != 0) {
    if (errno == EAGAIN || errno == EINTR) continue;
    return errno == EFAULT || errno == EHWPOISON;
  }
  return false;
}

}  // namespace

Result<std::optional<AddressRange>> find_guard_region(AddressRange range, GuardSearch search) {
  const UniqueFd pagemap(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!pagemap.valid()) return os_error("looking for guard regions failed", errno);
  std::array<abi::PageRegion, 128> found{};
  const bool by_category = search == GuardSearch::category;
  std::uintptr_t at = round_down(range.begin, tracker::page_bytes());
  const std::uintptr_t end = round_up(range.end, tracker::page_bytes());
  while (at < end) {
    abi::ScanArguments arguments{};
    arguments.size = sizeof arguments;
    arguments.start = at;
    arguments.end = end;
    arguments.vec = reinterpret_cast<std::uint64_t>(found.data());
    arguments.vec_len = by_category ? 1 : found.size();
    arguments.category_inverted = by_category ? 0 : abi::kPageIsPresent;
    arguments.category_mask = by_category ? abi::kPageIsGuard : abi::kPageIsSwapped | abi::kPageIsPresent;
    arguments.return_mask = arguments.category_mask;
    const int regions = ioctl(pagemap.get(), abi::kPagemapScan, &arguments);
    if (regions < 0 && errno == EINTR) continue;
    if (regions < 0) return os_error("looking for guard regions failed", errno);
    for (int i = 0; i < regions; ++i) {
      const abi::PageRegion& region = found[static_cast<std::size_t>(i)];
      if (by_category) return std::optional(AddressRange{region.start, region.end});
      for (std::uintptr_t page = region.start; page < region.end; page += tracker::page_bytes())
        if (is_unreadable(page)) return std::optional(AddressRange{page, page + tracker::page_bytes()});
    }
    at = arguments.walk_end;
  }
  return std::optional<AddressRange>();
}

std::string why_unreadable(AddressRange range, const std::vector<std::uintptr_t>& file_ends) {
  auto guard = find_guard_region(range, GuardSearch::category);
  if (!guard) guard = find_guard_region(range, GuardSearch::entries);
  if (guard && guard->has_value())
    return fmt::format("[{:#x}, {:#x}) is a guard region (MADV_GUARD_INSTALL), which nobody can read",
                       guard.value()->begin, guard.value()->end);
  // A file that ends within a mapping ends before the mapping's last page.
  for (const std::uintptr_t end : file_ends)
    if (const std::uintptr_t last = round_down(end - 1, tracker::page_bytes()); is_unreadable(last))
      return fmt::format("at {:#x} it can't be read: the file mapped there ends before, or its storage fails", last);
  return {};
}

}  // namespace varve
