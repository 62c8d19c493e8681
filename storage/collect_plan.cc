// SPDX-License-Identifier: Apache-2.0
#include "storage/collect_plan.h"

#include <algorithm>

namespace varve::storage {
namespace {

// A new segment: header, footer and trailer, and the padding of its commits.
constexpr std::uint64_t kSegmentOverhead = 16 * 1024;
constexpr std::uint64_t kChunkOverhead = 20;  // in footer and frame
// Above this part alive, a segment costs ten bytes written for each that comes free.
constexpr double kDenseEnough = 0.9;
constexpr double kLeastGain = 0.02;  // of what is rewritten

double share_alive(const SegmentUse& segment) {
  return static_cast<double>(segment.live_bytes) / static_cast<double>(std::max<std::uint64_t>(segment.bytes, 1));
}

}  // namespace

std::uint64_t rewritten_bytes(std::span<const SegmentUse> segments) {
  std::uint64_t bytes = 0;
  for (const SegmentUse& segment : segments) bytes += segment.live_bytes + kChunkOverhead * segment.live_chunks;
  return segments.empty() ? 0 : bytes + kSegmentOverhead;
}

CollectPlan plan_collection(std::vector<SegmentUse> segments, std::uint64_t live_bytes, double spare) {
  std::ranges::sort(segments, [](const SegmentUse& a, const SegmentUse& b) {
    const double share_a = share_alive(a);
    const double share_b = share_alive(b);
    return share_a != share_b ? share_a < share_b : a.ordinal < b.ordinal;
  });
  CollectPlan plan;
  std::uint64_t garbage = 0;
  for (const SegmentUse& segment : segments) garbage += segment.bytes - std::min(segment.bytes, segment.live_bytes);
  const double allowed = spare * static_cast<double>(live_bytes);
  std::uint64_t gross = 0;
  for (const SegmentUse& segment : segments) {
    if (segment.live_bytes == 0 && !segment.keeps_notes) {
      plan.dead.push_back(segment);
      plan.freed_bytes += segment.bytes;
      garbage -= segment.bytes;
      continue;
    }
    if (static_cast<double>(garbage) <= allowed || share_alive(segment) > kDenseEnough) break;
    plan.rewrite.push_back(segment);
    garbage -= segment.bytes - std::min(segment.bytes, segment.live_bytes);
    gross += segment.bytes;
  }
  const std::uint64_t cost = rewritten_bytes(plan.rewrite);
  const bool worth =
      gross > cost && static_cast<double>(gross - cost) >= std::max(4096.0, kLeastGain * static_cast<double>(cost));
  if (worth)
    plan.freed_bytes += gross - cost;
  else
    plan.rewrite.clear();
  return plan;
}

}  // namespace varve::storage
