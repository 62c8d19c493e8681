// SPDX-License-Identifier: Apache-2.0
//
// Writing a whole state to a file: write(2) and fsync(2), which is what a program without checkpoints of its own does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace example {

/// Replaces the file. False when that failed; standard error says why. `took_ns`: from open to the end of the flush.
bool write_state(const std::string& path, std::span<const std::span<const std::byte>> parts, std::uint64_t& took_ns);

}  // namespace example
