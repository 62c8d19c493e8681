// SPDX-License-Identifier: Apache-2.0
//
// Memory that its mapping says may be read, and that can't be: guard regions (MADV_GUARD_INSTALL, Linux 6.13), which
// live in page tables and not in mappings, and pages of a mapping that lie behind the end of its file. Reading either
// ends the program by a signal, and checkpoint() reads; so protect() looks, and refuses. What becomes unreadable later
// is the program's doing, as munmap(2) would be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/mapping.h"

namespace varve {

/// How guard regions are found: by the kernel's own category (6.15), or by reading a byte of each entry that is neither
/// present nor empty (what 6.13 and 6.14 need; older kernels have no guard regions).
enum class GuardSearch : std::uint8_t { category, entries };

/// The first guard region within; empty: none. An error where this kernel can't be asked so. REQUIRES: mapped.
Result<std::optional<AddressRange>> find_guard_region(AddressRange range, GuardSearch search);

/// In words, with the address; empty when all of it can be read. `file_ends`: the ends of the mappings of files.
/// Costs a walk of the page tables (under a millisecond a GiB) and a system call a file.
std::string why_unreadable(AddressRange range, const std::vector<std::uintptr_t>& file_ends);

}  // namespace varve
