// SPDX-License-Identifier: Apache-2.0
//
// Copies spans into staging extents and hands each to the stream when it is full. Within the stall: no allocation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "engine/capture.h"
#include "engine/capture_page_copy.h"
#include "engine/capture_stream.h"
#include "engine/staging.h"

namespace varve {

class Copier {
 public:
  /// Asked before staging is faulted in, with the bytes that are left of all spans. Empty: goes on.
  using Stop = std::function<bool(std::uint64_t left_bytes)>;

  /// `bytes`: of all spans to come.
  Copier(StagingPool& pool, StagedStream& stream, std::size_t chunk_bytes, std::uint64_t bytes, const Stop& stop)
      : pool_(pool),
        stream_(stream),
        chunk_bytes_(chunk_bytes),
        bytes_(bytes),
        stop_(stop),
        pages_(bytes >= kPastCacheBytes) {}
  /// Waits for room where it has to. How many bytes of the span were copied: fewer if it was told to stop, up to the
  /// end of a chunk.
  std::size_t copy(const MemorySpan& span);
  std::uint64_t copied_bytes() const { return copied_; }
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
  const Stop& stop_;
  PageCopy pages_;
  std::uint64_t copied_ = 0;
  Extent extent_;
  StagingStall stall_;
};

}  // namespace varve
