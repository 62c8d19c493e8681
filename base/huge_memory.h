// SPDX-License-Identifier: Apache-2.0
//
// Memory of our own in huge pages: faulted in some times faster than small ones, and one segment of a disk's request
// where small pages are hundreds.
//
// Threads: any.
#pragma once

#include <cstddef>

namespace varve {

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

/// mmap of `bytes` (a multiple of kHugePageBytes) at a multiple of kHugePageBytes: huge pages where the kernel has
/// them, not inherited, not dumped. nullptr with errno when refused. Given back by munmap(2).
std::byte* map_huge(std::size_t bytes, int protection);

/// Faults the memory in for writing. False, with errno, when there is none.
bool populate(std::byte* memory, std::size_t bytes);

}  // namespace varve
