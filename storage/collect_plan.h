// SPDX-License-Identifier: Apache-2.0
//
// Which segments a garbage collection removes. A pure function.
//
//     alive / length     0 %           ..............................................................  100 %
//                        removed as    rewritten, those with least alive first, until what is left of       kept
//                        they are      garbage is no more than the spare share of what is alive
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve::storage {

struct SegmentUse {
  std::uint32_t ordinal = 0;
  std::uint64_t bytes = 0;
  std::uint64_t live_bytes = 0;  ///< an estimate: by the number of chunks
  std::uint64_t live_chunks = 0;
  bool keeps_notes = false;  ///< there are notes in it that still mean something
};

struct CollectPlan {
  std::vector<SegmentUse> dead;     ///< nothing of them is needed
  std::vector<SegmentUse> rewrite;  ///< in this order
  std::uint64_t freed_bytes = 0;    ///< what both give back at the end, an estimate
};

/// `live_bytes`: of the whole chain. `spare`: the share of it that may stay as garbage.
CollectPlan plan_collection(std::vector<SegmentUse> segments, std::uint64_t live_bytes, double spare);

/// What rewriting these adds to the store, an estimate.
std::uint64_t rewritten_bytes(std::span<const SegmentUse> segments);

}  // namespace varve::storage
