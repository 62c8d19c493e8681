// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/workload.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "base/clock.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

std::uint64_t sum_words(std::span<const std::byte> memory) {
  std::uint64_t sums[4] = {};
  std::size_t at = 0;
  for (; at + 32 <= memory.size(); at += 32)
    for (std::size_t lane = 0; lane < 4; ++lane) {
      std::uint64_t word = 0;
      std::memcpy(&word, memory.data() + at + lane * 8, 8);
      sums[lane] += word;
    }
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// Keeps the sum alive without a store that the compiler could drop.
void consume(std::uint64_t value) { asm volatile("" : : "r"(value) : "memory"); }

}  // namespace

std::string_view to_string(Pattern pattern) { return pattern == Pattern::scattered ? "scattered" : "contiguous"; }

std::string describe(const WorkloadShape& shape) {
  const std::string share = fmt::format("{:g} %", shape.dirty * 100);
  if (shape.dirty == 0) return fmt::format("nothing written, {} {}", format_bytes(shape.bytes), to_string(shape.data));
  if (shape.dirty == 1) return fmt::format("100 %, {} {}", format_bytes(shape.bytes), to_string(shape.data));
  return fmt::format("{} {}, {} pages, {} {}", share, to_string(shape.pattern),
                     shape.repeat_pages ? "the same" : "fresh", format_bytes(shape.bytes), to_string(shape.data));
}

PageSequence::PageSequence(const WorkloadShape& shape) : shape_(shape), pages_(shape.bytes / kPageBytes) {
  random_ += shape.variation * 0x9e3779b97f4a7c15;
  const double wanted = std::round(shape.dirty * static_cast<double>(pages_));
  count_ = std::min(pages_, static_cast<std::uint64_t>(wanted));
  if (shape.dirty > 0 && count_ == 0) count_ = 1;
  current_.reserve(count_);
}

const std::vector<std::uint32_t>& PageSequence::next() {
  if (epoch_ == 0 || !shape_.repeat_pages) draw();
  ++epoch_;
  return current_;
}

void PageSequence::draw() {
  current_.clear();
  if (count_ == 0) return;
  if (shape_.pattern == Pattern::contiguous) {
    const std::uint64_t places = pages_ - count_ + 1;
    const std::uint64_t first = (pages_ / 3 + (epoch_ + 3 * shape_.variation) * count_) % places;
    for (std::uint64_t i = 0; i < count_; ++i) current_.push_back(static_cast<std::uint32_t>(first + i));
    return;
  }
  // Selection sampling (Knuth, The Art of Computer Programming 2, algorithm S): each set of pages is as likely.
  std::uint64_t needed = count_;
  for (std::uint64_t page = 0; needed > 0; ++page) {
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    if ((random_ >> 33) % (pages_ - page) >= needed) continue;
    current_.push_back(static_cast<std::uint32_t>(page));
    --needed;
  }
}

std::span<std::byte> page_of(std::span<std::byte> memory, std::uint64_t index) {
  const std::size_t into_page = reinterpret_cast<std::uintptr_t>(memory.data()) % kPageBytes;
  const std::uint64_t begin = index == 0 ? 0 : index * kPageBytes - into_page;
  const std::uint64_t end = std::min<std::uint64_t>((index + 1) * kPageBytes - into_page, memory.size());
  return memory.subspan(begin, end - begin);
}

EpochTime run_epoch(std::span<std::byte> memory, const std::vector<std::uint32_t>& pages, DataKind data,
                    std::uint64_t salt) {
  constexpr std::size_t kSlice = std::size_t{1} << 20;
  const std::uint64_t begin = monotonic_ns();
  const std::uint64_t processor_begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  std::size_t page = 0;
  for (std::size_t at = 0; at < memory.size(); at += kSlice) {
    const auto slice = memory.subspan(at, std::min(kSlice, memory.size() - at));
    consume(sum_words(slice));
    const std::uint64_t reached = (at + slice.size()) / kPageBytes;
    for (; page < pages.size() && pages[page] < reached; ++page) change(page_of(memory, pages[page]), data, salt);
  }
  for (; page < pages.size(); ++page) change(page_of(memory, pages[page]), data, salt);
  const std::uint64_t processor_end = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  return {.ns = monotonic_ns() - begin, .processor_ns = processor_end - processor_begin};
}

}  // namespace varve::tools
