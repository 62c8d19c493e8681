// SPDX-License-Identifier: Apache-2.0
#include "tracker/huge_blocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/bytes.h"
#include "tracker/back_end.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25  // since Linux 6.1: include/uapi/asm-generic/mman-common.h
#endif

namespace varve::tracker {
namespace {

constexpr std::uint8_t kHotForLong = 3;  // cools: a burst of one epoch is no reason to gather
constexpr std::size_t kSpared = HugeBlocks::kBlockBytes / 4;

/// How many bytes of `part` the runs cover; `from` is an index into them that only grows.
std::size_t covered(const PageRuns& runs, PageRange part, std::size_t& from) {
  while (from < runs.size() && runs[from].end <= part.begin) ++from;
  std::size_t bytes = 0;
  for (std::size_t i = from; i < runs.size() && runs[i].begin < part.end; ++i)
    bytes += std::min(runs[i].end, part.end) - std::max(runs[i].begin, part.begin);
  return bytes;
}

void append_part(PageRuns& runs, PageRange part) {
  if (part.begin < part.end) append_run(runs, part);
}

/// `runs` without the ascending, disjoint `parts`.
PageRuns without(const PageRuns& runs, const PageRuns& parts) {
  PageRuns left;
  std::size_t next = 0;
  for (const PageRange& run : runs) {
    std::uintptr_t at = run.begin;
    while (next < parts.size() && parts[next].end <= at) ++next;
    for (std::size_t i = next; i < parts.size() && parts[i].begin < run.end; ++i) {
      append_part(left, {at, std::max(at, parts[i].begin)});
      at = std::max(at, parts[i].end);
    }
    append_part(left, {std::min(at, run.end), run.end});
  }
  return left;
}

}  // namespace

PageRange HugeBlocks::range_of(std::size_t index) const {
  const std::uintptr_t begin = first_ + index * kBlockBytes;
  return {begin, begin + kBlockBytes};
}

void HugeBlocks::remember(PageRange range, const PageRuns& huge) {
  first_ = round_up(range.begin, kBlockBytes);
  const std::uintptr_t end = round_down(range.end, kBlockBytes);
  blocks_.assign(first_ < end ? (end - first_) / kBlockBytes : 0, {});
  known_ = next_ = 0;
  std::size_t run = 0;
  for (std::size_t index = 0; index < blocks_.size(); ++index) {
    if (covered(huge, range_of(index), run) != kBlockBytes) continue;
    blocks_[index].state = State::split;  // by the first write to it; gathering one that is whole costs nothing
    ++known_;
  }
}

void HugeBlocks::look_at(const PageRuns& written, PageRuns& cold) {
  PageRuns spared;
  std::size_t in_written = 0;
  std::size_t in_cold = 0;
  for (std::size_t index = 0; index < blocks_.size(); ++index) {
    Block& block = blocks_[index];
    if (block.state == State::unknown) continue;
    const PageRange range = range_of(index);
    const bool all_written = covered(written, range, in_written) == kBlockBytes;
    const std::size_t cold_bytes = covered(cold, range, in_cold);
    const bool stays = all_written && cold_bytes < kSpared;
    if (stays && cold_bytes > 0) spared.push_back(range);
    block.hot_for = stays ? static_cast<std::uint8_t>(std::min<int>(block.hot_for + 1, kHotForLong)) : std::uint8_t{0};
    if (!stays) block.state = State::split;
  }
  if (!spared.empty()) cold = without(cold, spared);
}

PageRange HugeBlocks::next_to_gather() {
  for (std::size_t looked = 0; looked < blocks_.size(); ++looked) {
    const std::size_t index = next_++ % blocks_.size();
    if (blocks_[index].state == State::split && blocks_[index].hot_for == kHotForLong) return range_of(index);
  }
  return {};
}

void HugeBlocks::gathered(PageRange block, bool done) {
  Block& it = blocks_[(block.begin - first_) / kBlockBytes];
  it.state = done ? State::huge : State::unknown;
  if (!done) --known_;
}

bool gather_huge_page(PageRange block) {
  while (madvise(reinterpret_cast<void*>(block.begin), block.size_bytes(), MADV_COLLAPSE) != 0)
    if (errno != EINTR) return false;
  return true;
}

}  // namespace varve::tracker
