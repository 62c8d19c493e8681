// SPDX-License-Identifier: Apache-2.0
#include "engine/populating.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/bytes.h"
#include "tracker/kernel_abi.h"

namespace varve {
namespace {

/// A huge page, and the address space's lock is not held for long.
constexpr std::uintptr_t kBlockBytes = std::uintptr_t{2} << 20;

}  // namespace

void Populating::add(AddressRange pages, Look look) {
  while (pages.begin < pages.end) {
    const std::uintptr_t end = std::min(pages.end, round_down(pages.begin, kBlockBytes) + kBlockBytes);
    blocks_.push_back({{pages.begin, end}, look});
    pages.begin = end;
  }
}

void Populating::sort() {
  std::ranges::sort(blocks_, {}, [](const Block& block) { return block.pages.begin; });
  state_ = std::make_unique<std::atomic<std::uint32_t>[]>(blocks_.size());
}

void Populating::prepare(AddressRange range) {
  if (refused_.load(std::memory_order_relaxed)) return;
  auto at = std::ranges::upper_bound(blocks_, range.begin, {}, [](const Block& block) { return block.pages.end; });
  for (; at != blocks_.end() && at->pages.begin < range.end; ++at) {
    std::atomic<std::uint32_t>& state = state_[static_cast<std::size_t>(at - blocks_.begin())];
    std::uint32_t expected = untouched;
    if (state.load(std::memory_order_acquire) == done) continue;
    if (state.compare_exchange_strong(expected, under_way)) {
      const auto& [pages, look] = *at;
      const bool there = look == Look::written && were_written(pages);
      if (!there && madvise(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, MADV_POPULATE_WRITE) != 0)
        refused_.store(true, std::memory_order_relaxed);
      state.store(done, std::memory_order_release);
      state.notify_all();
    } else {
      state.wait(under_way, std::memory_order_acquire);
    }
  }
}

bool Populating::were_written(AddressRange pages) {
  namespace abi = tracker::abi;
  abi::PageRegion other{};
  abi::ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = pages.begin;
  arguments.end = pages.end;
  arguments.vec = reinterpret_cast<std::uint64_t>(&other);
  arguments.vec_len = 1;
  arguments.max_pages = 1;
  arguments.category_inverted = abi::kPageIsPresent | abi::kPageIsWritten;
  arguments.category_anyof_mask = abi::kPageIsPresent | abi::kPageIsWritten | abi::kPageIsZero;
  arguments.return_mask = arguments.category_anyof_mask;
  return pagemap_.scan(arguments) == 0;
}

}  // namespace varve
