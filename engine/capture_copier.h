// SPDX-License-Identifier: Apache-2.0
//
// Copies spans into staging extents and hands each to the stream when it is full. Within the stall: no allocation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/capture.h"
#include "engine/capture_page_copy.h"
#include "engine/capture_stream.h"
#include "engine/staging.h"

namespace varve {

class Copier {
 public:
  /// `bytes`: of all spans to come.
  Copier(StagingPool& pool, StagedStream& stream, std::size_t chunk_bytes, std::uint64_t bytes)
      : pool_(pool), stream_(stream), chunk_bytes_(chunk_bytes), bytes_(bytes), pages_(bytes >= kPastCacheBytes) {}
  /// Waits for room where it has to.
  void copy(const MemorySpan& span);
  /// Hands over the last extent.
  StagingStall finish();

 private:
  /// Cuts of this size are copied past the cache. Up to 10 MiB both ways cost the same here or memcpy less (0.1 %:
  /// less than half); from 30 MiB on streaming takes about half the time.
  static constexpr std::uint64_t kPastCacheBytes = std::uint64_t{16} << 20;

  void publish();
  void count(std::size_t bytes);

  StagingPool& pool_;
  StagedStream& stream_;
  const std::size_t chunk_bytes_;
  const std::uint64_t bytes_;
  PageCopy pages_;
  std::uint64_t copied_ = 0;
  Extent extent_;
  StagingStall stall_;
};

}  // namespace varve
