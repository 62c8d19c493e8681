// SPDX-License-Identifier: Apache-2.0
//
// HugeBlocks: which parts of a range lay in huge pages before it was protected, and how they stay there.
//
// The first write to a protected huge page splits it, and a program that jumps about in its memory then misses the
// translation caches far more often (twice the time was measured, docs/tuning.md). Where few pages of a block are hot
// that can't be helped: copying 2 MiB at every cut for one page costs more. But where most of a block is hot,
// protecting the rest of it gains little. So, for blocks that were huge pages:
//
//   - cold pages of a block are left writable while they are less than a quarter of it;
//   - a block that has been wholly writable for some cools in a row is gathered into a huge page again (MADV_COLLAPSE,
//     Linux 6.1), some at a time, until that fails.
//
// Memory: two bytes for 2 MiB. Not synchronised: used by cool() only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tracker/tracker.h"

namespace varve::tracker {

class HugeBlocks {
 public:
  static constexpr std::size_t kBlockBytes = std::size_t{2} << 20;

  /// The blocks of the range that lie in these runs, which are mapped by huge pages. Replaces what was known. Without
  /// memory for it, it knows of none.
  void remember(PageRange range, const PageRuns& huge);
  bool any() const { return known_ != 0; }

  /// After a look at the range: the pages that are writable, and those of them that are to be protected. Takes out of
  /// `cold` what is left writable for the block's sake.
  void look_at(const PageRuns& written, PageRuns& cold);
  /// The next block to be gathered; empty (begin == end): none.
  PageRange next_to_gather();
  /// What became of that.
  void gathered(PageRange block, bool done);

 private:
  enum class State : std::uint8_t { unknown, split, huge };
  struct Block {
    State state = State::unknown;
    std::uint8_t hot_for = 0;  // cools in a row in which all of it was writable
  };
  PageRange range_of(std::size_t index) const;

  std::uintptr_t first_ = 0;  // address of block 0
  std::size_t known_ = 0;
  std::size_t next_ = 0;
  std::vector<Block> blocks_;
};

/// Makes one huge page of a block. False where that was refused.
bool gather_huge_page(PageRange block);

}  // namespace varve::tracker
