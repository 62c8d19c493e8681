// SPDX-License-Identifier: Apache-2.0
#include "tracker/hotness.h"

#include <algorithm>

namespace varve::tracker {
namespace {

// A page's 32 bits; all zero: never reported. Cut numbers are kept modulo 2^20, and a false match costs a fault.
constexpr unsigned kCutBits = 20;
constexpr std::uint32_t kCutMask = (1U << kCutBits) - 1;
constexpr std::uint32_t kMostUnchanged = 127;
constexpr unsigned kMostLevel = 7;

/// 0, 1, 3, 7, ... 127: kMostUnchanged at the top.
constexpr std::uint32_t patience(unsigned level) { return (1U << level) - 1; }
static_assert(patience(kMostLevel) == kMostUnchanged);

}  // namespace

/// What is known of a page, unpacked.
struct Hotness::Page {
  std::uint32_t cut = 0;        // protected: after which cut; writable: the last one that found it a suspect
  bool is_protected = false;    // as far as its own cool() goes
  bool reported = false;        // protected, and found a suspect since
  unsigned level = 0;           // of patience()
  std::uint32_t unchanged = 0;  // cuts in a row

  static Page unpack(std::uint32_t bits) {
    return {.cut = bits & kCutMask,
            .is_protected = (bits >> kCutBits & 1U) != 0,
            .reported = (bits >> (kCutBits + 1) & 1U) != 0,
            .level = bits >> (kCutBits + 2) & 7U,
            .unchanged = bits >> 25};
  }
  std::uint32_t pack() const {
    return cut | static_cast<std::uint32_t>(is_protected) << kCutBits |
           static_cast<std::uint32_t>(reported) << (kCutBits + 1) | level << (kCutBits + 2) | unchanged << 25;
  }
};

bool Hotness::allocate(PageRange range) {
  range_ = range;
  return pages_.allocate(range.size_bytes() / page_bytes());
}

void Hotness::set_worth(unsigned cuts) {
  worth_ = std::max(1U, cuts);
  top_level_ = 1;
  while (top_level_ < kMostLevel && patience(top_level_) < 4 * worth_) ++top_level_;
}

void Hotness::cooled(std::uint64_t cut_number, PageRange pages) {
  const std::size_t end = page_number(pages.end);
  for (std::size_t number = page_number(pages.begin); number < end; ++number) {
    Page page = Page::unpack(pages_[number]);
    page.cut = static_cast<std::uint32_t>(cut_number) & kCutMask;
    page.is_protected = true;
    page.reported = false;
    pages_[number] = page.pack();
  }
}

Hotness::Page Hotness::at(std::size_t number) const {
  if (pages_[number] != 0) return Page::unpack(pages_[number]);
  return {.cut = static_cast<std::uint32_t>(armed_at_) & kCutMask, .is_protected = armed_at_ != 0};
}

void Hotness::found(std::uint64_t cut_number, PageRange pages, bool changed) {
  last_found_ = cut_number;
  const std::size_t end = page_number(pages.end);
  for (std::size_t number = page_number(pages.begin); number < end; ++number) {
    Page page = at(number);
    if (page.is_protected)
      page.reported = true;  // written, or pending: look_at() tells
    else
      page.cut = static_cast<std::uint32_t>(cut_number) & kCutMask;
    page.unchanged = changed ? 0 : std::min(page.unchanged + 1, kMostUnchanged);
    pages_[number] = page.pack();
  }
}

/// A protected page that is writable now was written.
void Hotness::learn(Page& page, std::uint64_t cut_number) {
  const std::uint32_t lasted = (static_cast<std::uint32_t>(cut_number) - page.cut) & kCutMask;
  if (lasted <= worth_) {
    page.level = std::min(page.level + 1, top_level_);
    ++mistakes_;
  } else if (page.level > 0) {
    --page.level;
  }
  page.is_protected = false;
  page.unchanged = 0;
}

void Hotness::look_at(std::uint64_t cut_number, PageRange written, ColdRanges& cold) {
  const std::size_t size = page_bytes();
  const std::uint32_t last_found = static_cast<std::uint32_t>(last_found_) & kCutMask;
  const std::size_t end = page_number(written.end);
  for (std::size_t number = page_number(written.begin); number < end; ++number) {
    Page page = at(number);
    if (page.is_protected) {
      learn(page, cut_number);
      // One that no cut has seen yet is left to the next: protected now, it would be a suspect of that all the same.
      page.cut = page.reported ? last_found : (last_found - 1) & kCutMask;
      pages_[number] = page.pack();
    }
    const bool is_cold = page.cut == last_found && page.unchanged >= patience(page.level);
    if (!is_cold) {
      finish(cold);
      continue;
    }
    if (cold.open.end == 0) cold.open.begin = range_.begin + number * size;
    cold.open.end = range_.begin + (number + 1) * size;
  }
}

void Hotness::finish(ColdRanges& cold) {
  if (cold.open.end != 0) cold.ranges.push_back(cold.open);
  cold.open = {};
}

}  // namespace varve::tracker
