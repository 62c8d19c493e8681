// SPDX-License-Identifier: Apache-2.0
#include "storage/compression_level.h"

namespace varve::storage {
namespace {

/// A slower level is tried when this one has so much to spare: more than two neighbours differ by, so that the choice
/// does not swing.
constexpr double kSpare = 1.6;

}  // namespace

LevelChoice next_level(unsigned level, const CompressionSpeeds& speeds) {
  constexpr unsigned kFastest = kCompressionLevels - 1;
  if (speeds.compress <= 0 || speeds.disk <= 0) return {level, false};
  if (speeds.compress >= kSpare * speeds.disk) return {level == 0 ? 0 : level - 1, false};
  if (speeds.compress >= speeds.disk) return {level, false};
  if (level >= kFastest) return {kFastest, true};
  // Far behind: each level in between would cost more time than it could tell.
  return {2 * speeds.compress < speeds.disk ? kFastest : level + 1, false};
}

void DiskSpeed::add(std::uint64_t bytes, std::uint64_t busy_ns) {
  if (bytes < kFewestBytes || busy_ns == 0) return;
  const double measured = static_cast<double>(bytes) * 1e9 / static_cast<double>(busy_ns);
  bytes_per_second_ = bytes_per_second_ == 0 ? measured : (bytes_per_second_ + measured) / 2;
}

}  // namespace varve::storage
