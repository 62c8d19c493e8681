// SPDX-License-Identifier: Apache-2.0
//
// A square field of doubles as a picture.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace example {

/// Values from 0 to `brightest` as shades from dark blue to white; at most 1024 × 1024 pixels (every k-th cell).
/// False when it failed; standard error says why.
bool write_png(const std::string& path, std::span<const double> field, std::size_t side, double brightest);

}  // namespace example
