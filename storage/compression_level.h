// SPDX-License-Identifier: Apache-2.0
//
// How hard LZ4 tries: as hard as it can without taking longer than the disk would for the raw bytes. Pure arithmetic
// over measured speeds, all in bytes a second; 0: not known yet.
#pragma once

#include <cstdint>

namespace varve::storage {

/// From the smallest result (0) to the fastest; LZ4's `acceleration` doubles from one to the next.
inline constexpr unsigned kCompressionLevels = 6;
constexpr int acceleration_of(unsigned level) { return 1 << level; }

struct CompressionSpeeds {
  double compress = 0;  ///< raw bytes, all threads together, at the level that is in use
  double disk = 0;
};

struct LevelChoice {
  unsigned level = 0;
  bool raw = false;  ///< not even the fastest keeps up
  friend bool operator==(const LevelChoice&, const LevelChoice&) = default;
};

/// The level for the next frames.
LevelChoice next_level(unsigned level, const CompressionSpeeds& speeds);

/// The disk's speed, from what was written and how long that took; later measurements count for more.
class DiskSpeed {
 public:
  /// Less than that says more about latencies.
  static constexpr std::uint64_t kFewestBytes = std::uint64_t{4} << 20;

  /// Bytes that were written, and for how long at least one write was under way. Few bytes are left out.
  void add(std::uint64_t bytes, std::uint64_t busy_ns);
  double bytes_per_second() const { return bytes_per_second_; }

 private:
  double bytes_per_second_ = 0;
};

}  // namespace varve::storage
