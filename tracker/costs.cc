// SPDX-License-Identifier: Apache-2.0
#include "tracker/costs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/clock.h"
#include "tracker/back_end.h"
#include "tracker/scratch.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kPages = 512;  // 2 MiB: about a millisecond of faults where they are cheap, ten where dear
constexpr std::size_t kParts = 16;   // the median of the parts counts: others may have the processor for a while

void write_each_page(PageRange range) {
  for (std::uintptr_t at = range.begin; at < range.end; at += page_bytes())
    *reinterpret_cast<volatile unsigned char*>(at) = 1;
}

/// The median over kParts calls of work(first page, end page), per page.
template <class Work>
double median_ns_per_page(Work work) {
  constexpr std::size_t kPagesInPart = kPages / kParts;
  std::array<std::uint64_t, kParts> times{};
  for (std::size_t part = 0; part < kParts; ++part) {
    const std::uint64_t began_ns = monotonic_ns();
    work(part * kPagesInPart, (part + 1) * kPagesInPart);
    times[part] = monotonic_ns() - began_ns;
  }
  std::nth_element(times.begin(), times.begin() + kParts / 2, times.end());
  return static_cast<double>(times[kParts / 2]) / kPagesInPart;
}

}  // namespace

unsigned cuts_until_cold(const Costs& costs) {
  if (costs.visit_ns <= 0) return 1;
  const double cuts = std::ceil((costs.fault_ns + costs.protect_ns) / costs.visit_ns);
  return static_cast<unsigned>(std::clamp(cuts, 1.0, 64.0));
}

double measure_visit_ns() {
  // Every fourth page of 8 MiB, copied to the same 64 KiB, then read: the copies stay near, their sources do not.
  constexpr std::size_t kStride = 4;
  constexpr std::size_t kTargets = 16;
  const std::size_t size = page_bytes();
  auto source = Scratch::make(kPages * kStride * size);
  auto target = Scratch::make(kTargets * size);
  if (!source || !target) return 0;
  write_each_page(source->range());
  write_each_page(target->range());
  volatile std::uint64_t sink = 0;
  return median_ns_per_page([&](std::size_t first, std::size_t end) {
    std::uint64_t sum = 0;
    for (std::size_t page = first; page < end; ++page) {
      auto* copy = reinterpret_cast<std::uint64_t*>(target->range().begin + page % kTargets * size);
      std::memcpy(copy, reinterpret_cast<const void*>(source->range().begin + page * kStride * size), size);
      for (std::size_t word = 0; word < size / sizeof *copy; ++word) sum += copy[word];
    }
    sink = sum;
  });
}

Costs measure_costs(BackEnd& back_end) {
  Costs costs{.visit_ns = measure_visit_ns()};
  auto scratch = Scratch::make(kPages * page_bytes());
  if (!scratch) return costs;
  const std::uintptr_t base = scratch->range().begin;
  const auto pages = [base](std::size_t first, std::size_t end) {
    return PageRange{base + first * page_bytes(), base + end * page_bytes()};
  };
  const auto write = [&](std::size_t first, std::size_t end) { write_each_page(pages(first, end)); };
  write(0, kPages);
  if (!back_end.add(scratch->range()).has_value()) return costs;
  ScanBuffer buffer;
  PageRuns runs;
  bool works = true;
  costs.protect_ns = median_ns_per_page([&](std::size_t first, std::size_t end) {
    runs.clear();
    works = works && back_end.list_and_protect(pages(first, end), buffer, runs).has_value();
  });
  const double first_write_ns = median_ns_per_page(write);
  costs.fault_ns = works ? std::max(0.0, first_write_ns - median_ns_per_page(write)) : 0;
  back_end.remove(scratch->range());
  return costs;
}

}  // namespace varve::tracker
