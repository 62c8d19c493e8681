// SPDX-License-Identifier: Apache-2.0
//
// How much memory this process may use: the machine's, or less where a control group says so.
#pragma once

#include <cstdint>
#include <string>

namespace varve {

/// The smaller of MemTotal and the limits of this process's control groups (version 2 and 1), up the tree as far as it
/// can be seen. `root` stands before every path; it is empty but in tests. 0 when nothing can be read.
std::uint64_t usable_memory_bytes(const std::string& root = {});

}  // namespace varve
