// SPDX-License-Identifier: Apache-2.0
//
// Kernel interfaces that are newer than the headers of the distributions we build on (Debian 12: Linux 6.1). Values are
// ABI and never change. Source: include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h of Linux 6.7.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace varve::tracker::abi {

// include/uapi/linux/userfaultfd.h
inline constexpr std::uint64_t kUffdFeatureWpHugetlbfsShmem = 1U << 12;  // 5.19
inline constexpr std::uint64_t kUffdFeatureWpUnpopulated = 1U << 13;     // 6.4
inline constexpr std::uint64_t kUffdFeatureWpAsync = 1U << 15;           // 6.7
inline constexpr int kUffdUserModeOnly = 1;                              // 5.11

// include/uapi/linux/fs.h, "Pagemap ioctl", Linux 6.7
inline constexpr std::uint64_t kPageIsWritten = 1U << 1;
inline constexpr std::uint64_t kPageIsPresent = 1U << 3;
inline constexpr std::uint64_t kPageIsSwapped = 1U << 4;
inline constexpr std::uint64_t kPageIsZero = 1U << 5;  // PAGE_IS_PFNZERO: the one page of zeros that all share
inline constexpr std::uint64_t kPageIsHuge = 1U << 6;
inline constexpr std::uint64_t kPageIsGuard = 1U << 8;  // 6.15

struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};
static_assert(sizeof(PageRegion) == 24);

inline constexpr std::uint64_t kScanWpMatching = 1U << 0;    // PM_SCAN_WP_MATCHING
inline constexpr std::uint64_t kScanCheckWpAsync = 1U << 1;  // PM_SCAN_CHECK_WPASYNC: EPERM where it isn't registered

struct ScanArguments {  // struct pm_scan_arg
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanArguments) == 96);

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);

// Documentation/admin-guide/mm/pagemap.rst: bits of an entry of /proc/PID/pagemap.
inline constexpr std::uint64_t kPagemapSoftDirty = std::uint64_t{1} << 55;
inline constexpr std::uint64_t kPagemapExclusive = std::uint64_t{1} << 56;  // mapped by nobody else; 4.2
inline constexpr std::uint64_t kPagemapPresent = std::uint64_t{1} << 63;

}  // namespace varve::tracker::abi
