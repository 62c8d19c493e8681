// SPDX-License-Identifier: Apache-2.0
//
// Sizes, fractions and times, as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "varve/result.h"

namespace varve::tools {

/// "1GiB", "512MiB", "1.5G", "4096", "1 GB": K, M, G, T and KiB to TiB are powers of 1024; kB, MB, GB, TB of 1000.
Result<std::uint64_t> parse_size(std::string_view text);
/// "1%" or "0.01": from 0 to 1.
Result<double> parse_fraction(std::string_view text);

std::string format_bytes(std::uint64_t bytes);     ///< "10.24 MiB"
std::string format_rate(double bytes_per_second);  ///< "1.92 GB/s", powers of 1000 as disks are sold
std::string format_ns(double nanoseconds);         ///< "1.24 ms"
std::string format_percent(double fraction);       ///< "1.2 %"
std::string format_count(std::uint64_t count);     ///< "262,144"
/// "2024-05-17T09:30:01.123456Z"
std::string format_time(std::uint64_t ns_since_1970);

}  // namespace varve::tools
