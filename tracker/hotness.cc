// SPDX-License-Identifier: Apache-2.0
#include "tracker/hotness.h"

#include <algorithm>

namespace varve::tracker {
namespace {

constexpr unsigned kCountBits = 10;
constexpr unsigned kCountMask = (1U << kCountBits) - 1;

}  // namespace

bool Hotness::allocate(PageRange range, unsigned threshold) {
  range_ = range;
  threshold_ = threshold;
  const std::size_t pages = range.size_bytes() / page_bytes();
  return rows_.allocate(pages) && cold_.allocate(pages);
}

void Hotness::unchanged(std::uint64_t cut_number, PageRange pages) {
  const auto now = static_cast<unsigned>(cut_number % 64);
  const auto before = static_cast<unsigned>((cut_number + 63) % 64);
  const std::size_t end = page_number(pages.end);
  for (std::size_t page = page_number(pages.begin); page < end; ++page) {
    const unsigned row = rows_[page];
    const unsigned count = row >> kCountBits == before ? row & kCountMask : 0;
    const unsigned next = std::min(count + 1, kCountMask);
    rows_[page] = static_cast<std::uint16_t>(now << kCountBits | next);
    if (next >= threshold_) cold_.set(page, page + 1);
  }
}

void Hotness::take_cold(const PageRuns& written, PageRuns& ranges) {
  const std::size_t size = page_bytes();
  PageRange open{};
  const auto close = [&] {
    if (open.end != 0) ranges.push_back(open);
    open = {};
  };
  for (const PageRange& run : written) {
    const std::size_t end = page_number(run.end);
    for (std::size_t page = page_number(run.begin); page < end;) {
      const std::size_t cold = std::min(cold_.next_set(page), end);
      if (cold > page) close();  // hot pages in between: protecting them would cost a fault each
      if (cold == end) break;
      const std::size_t stop = std::min(cold_.next_clear(cold), end);
      if (open.end == 0) open.begin = range_.begin + cold * size;
      open.end = range_.begin + stop * size;
      page = stop;
    }
  }
  close();
  cold_.clear(0, range_.size_bytes() / size);
}

}  // namespace varve::tracker
