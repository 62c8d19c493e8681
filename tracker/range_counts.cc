// SPDX-License-Identifier: Apache-2.0
#include "tracker/range_counts.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"
#include "tracker/back_end.h"

namespace varve::tracker {

void RangeCounts::split(std::uintptr_t address) {
  auto part = parts_.upper_bound(address);
  if (part == parts_.begin()) return;
  --part;
  if (part->first == address || part->second.end <= address) return;
  const Part rest = part->second;
  part->second.end = address;
  parts_.emplace(address, rest);
}

void RangeCounts::join(PageRange range) {
  auto part = parts_.lower_bound(range.begin);
  if (part != parts_.begin()) --part;
  while (part != parts_.end() && part->first <= range.end) {
    const auto next = std::next(part);
    if (next != parts_.end() && part->second.end == next->first && part->second.users == next->second.users) {
      part->second.end = next->second.end;
      parts_.erase(next);
    } else {
      part = next;
    }
  }
}

PageRuns RangeCounts::add(PageRange range) {
  split(range.begin);
  split(range.end);
  PageRuns fresh;
  std::uintptr_t at = range.begin;
  while (at < range.end) {
    auto part = parts_.lower_bound(at);
    if (part != parts_.end() && part->first == at) {
      ++part->second.users;
      at = part->second.end;
      continue;
    }
    const std::uintptr_t end = part == parts_.end() ? range.end : std::min(part->first, range.end);
    parts_.emplace(at, Part{.end = end, .users = 1});
    append_run(fresh, {at, end});
    at = end;
  }
  join(range);
  return fresh;
}

PageRuns RangeCounts::remove(PageRange range) {
  split(range.begin);
  split(range.end);
  PageRuns unused;
  std::uintptr_t at = range.begin;
  while (at < range.end) {
    auto part = parts_.find(at);
    VARVE_CHECK(part != parts_.end());
    at = part->second.end;
    if (--part->second.users > 0) continue;
    append_run(unused, {part->first, at});
    parts_.erase(part);
  }
  join(range);
  return unused;
}

}  // namespace varve::tracker
