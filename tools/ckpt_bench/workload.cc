// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/workload.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

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

constexpr std::array<std::pair<Pattern, std::string_view>, 3> kPatterns = {
    {{Pattern::scattered, "scattered"}, {Pattern::contiguous, "contiguous"}, {Pattern::skewed, "skewed"}}};

struct Workload {
  std::string_view name;
  DataKind data;
  Pattern pattern;
  bool repeat_pages;
};
constexpr std::array<Workload, 7> kWorkloads = {{{"stencil", DataKind::field, Pattern::contiguous, false},
                                                 {"particles", DataKind::particles, Pattern::scattered, true},
                                                 {"graph", DataKind::graph, Pattern::skewed, false},
                                                 {"key-value", DataKind::key_value, Pattern::skewed, false},
                                                 {"text", DataKind::text, Pattern::scattered, false},
                                                 {"zeros", DataKind::zeros, Pattern::scattered, false},
                                                 {"random", DataKind::random, Pattern::scattered, false}}};

// Keeps the sum alive without a store that the compiler could drop.
void consume(std::uint64_t value) { asm volatile("" : : "r"(value) : "memory"); }

}  // namespace

std::string_view to_string(Pattern pattern) {
  for (const auto& [value, name] : kPatterns)
    if (value == pattern) return name;
  return "unknown";
}

Pattern parse_pattern(std::string_view name) {
  for (const auto& [value, known] : kPatterns)
    if (known == name) return value;
  return Pattern::scattered;
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const auto& [value, name] : kPatterns) names.emplace_back(name);
  return names;
}

std::vector<std::string> workload_names() {
  std::vector<std::string> names;
  for (const auto& workload : kWorkloads) names.emplace_back(workload.name);
  return names;
}

void set_workload(WorkloadShape& shape, std::string_view name) {
  for (const auto& workload : kWorkloads) {
    if (workload.name != name) continue;
    shape.data = workload.data;
    shape.pattern = workload.pattern;
    shape.repeat_pages = workload.repeat_pages;
  }
}

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
  if (shape.dirty > 0 && count_ == 0) count_ = std::min<std::uint64_t>(1, pages_);
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
  if (shape_.pattern == Pattern::skewed && count_ < pages_) return draw_skewed();
  // Selection sampling (Knuth, The Art of Computer Programming 2, algorithm S): each set of pages is as likely.
  std::uint64_t needed = count_;
  for (std::uint64_t page = 0; needed > 0; ++page) {
    if (random() % (pages_ - page) >= needed) continue;
    current_.push_back(static_cast<std::uint32_t>(page));
    --needed;
  }
}

std::uint64_t PageSequence::random() {
  random_ = random_ * 6364136223846793005u + 1442695040888963407u;
  return random_ >> 33;
}

// The rank of a page is the fourth power of a uniform number, so that the hottest hundredth of the pages takes a third
// of the draws. Ranks are spread over the memory by a step that is prime to the number of pages.
void PageSequence::draw_skewed() {
  std::uint64_t step = static_cast<std::uint64_t>(static_cast<double>(pages_) * 0.618) | 1;
  while (std::gcd(step, pages_) != 1) ++step;
  std::vector<bool> taken(pages_);
  std::uint64_t left = count_;
  for (std::uint64_t draws = 8 * count_; draws > 0 && left > 0; --draws) {
    const double uniform = static_cast<double>(random()) * 0x1p-31;
    const auto rank =
        std::min(pages_ - 1, static_cast<std::uint64_t>(std::pow(uniform, 4) * static_cast<double>(pages_)));
    const std::uint64_t page = rank * step % pages_;
    if (taken[page]) continue;
    taken[page] = true;
    --left;
  }
  for (std::uint64_t rank = 0; left > 0; ++rank) {  // large shares: the hottest of those that were never drawn
    const std::uint64_t page = rank * step % pages_;
    if (taken[page]) continue;
    taken[page] = true;
    --left;
  }
  for (std::uint64_t page = 0; page < pages_; ++page)
    if (taken[page]) current_.push_back(static_cast<std::uint32_t>(page));
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
  const auto change_page = [&](std::uint32_t number) {
    const auto piece = page_of(memory, number);
    change(piece, data, salt, static_cast<std::uint64_t>(piece.data() - memory.data()));
  };
  std::size_t page = 0;
  for (std::size_t at = 0; at < memory.size(); at += kSlice) {
    const auto slice = memory.subspan(at, std::min(kSlice, memory.size() - at));
    consume(sum_words(slice));
    const std::uint64_t reached = (at + slice.size()) / kPageBytes;
    for (; page < pages.size() && pages[page] < reached; ++page) change_page(pages[page]);
  }
  for (; page < pages.size(); ++page) change_page(pages[page]);
  const std::uint64_t processor_end = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  return {.ns = monotonic_ns() - begin, .processor_ns = processor_end - processor_begin};
}

}  // namespace varve::tools
