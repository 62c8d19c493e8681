// SPDX-License-Identifier: Apache-2.0
#include "tracker/costs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/clock.h"
#include "tracker/back_end.h"
#include "tracker/scratch.h"

namespace varve::tracker {
namespace {

constexpr std::size_t kPages = 512;  // 2 MiB: about a millisecond of faults where they are cheap, ten where dear
constexpr std::size_t kParts = 16;   // the median of the parts counts: others may have the processor for a while
constexpr std::size_t kFewestParts = 3;
constexpr std::uint64_t kBudgetNs = 2'000'000;  // from then on the fewest parts do
constexpr int kListings = 8;
constexpr double kLeastListNs = 0.2;  // of a page: below what any back end was seen to take
constexpr double kNewest = 0.125;     // the weight of what was measured last

void write_each_page(PageRange range) {
  for (std::uintptr_t at = range.begin; at < range.end; at += page_bytes())
    *reinterpret_cast<volatile unsigned char*>(at) = 1;
}

struct Timing {
  double ns_per_page = 0;
  std::size_t parts = 0;  // of kParts
};

/// The median over up to `parts` calls of work(first page, end page), per page.
template <class Work>
Timing time_parts(std::size_t parts, Work work) {
  constexpr std::size_t kPagesInPart = kPages / kParts;
  std::array<std::uint64_t, kParts> times{};
  const std::uint64_t all_began_ns = monotonic_ns();
  std::size_t part = 0;
  for (; part < parts && (part < kFewestParts || monotonic_ns() - all_began_ns < kBudgetNs); ++part) {
    const std::uint64_t began_ns = monotonic_ns();
    work(part * kPagesInPart, (part + 1) * kPagesInPart);
    times[part] = monotonic_ns() - began_ns;
  }
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(part / 2);
  std::nth_element(times.begin(), middle, times.begin() + static_cast<std::ptrdiff_t>(part));
  return {static_cast<double>(*middle) / kPagesInPart, part};
}

}  // namespace

unsigned cuts_worth_protecting(const Costs& costs) {
  if (costs.visit_ns <= 0) return 1;
  const double cuts = std::ceil((costs.fault_ns + costs.protect_ns) / costs.visit_ns);
  return static_cast<unsigned>(std::clamp(cuts, 1.0, 64.0));
}

void follow(double& average, double measured) {
  if (measured <= 0) return;
  average = average <= 0 ? measured : average + kNewest * (measured - average);
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
  const auto visits = time_parts(kParts, [&](std::size_t first, std::size_t end) {
    std::uint64_t sum = 0;
    for (std::size_t page = first; page < end; ++page) {
      auto* copy = reinterpret_cast<std::uint64_t*>(target->range().begin + page % kTargets * size);
      std::memcpy(copy, reinterpret_cast<const void*>(source->range().begin + page * kStride * size), size);
      for (std::size_t word = 0; word < size / sizeof *copy; ++word) sum += copy[word];
    }
    sink = sum;
  });
  return visits.ns_per_page;
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
  const Timing protecting = time_parts(kParts, [&](std::size_t first, std::size_t end) {
    runs.clear();
    works = works && back_end.list_and_protect(pages(first, end), buffer, runs).has_value();
  });
  // A call costs something whatever the length, so that two lengths are compared.
  const auto listing_ns = [&](std::size_t end) {
    std::uint64_t least_ns = std::numeric_limits<std::uint64_t>::max();
    for (int i = 0; i < kListings; ++i) {
      runs.clear();
      const std::uint64_t began_ns = monotonic_ns();
      works = works && back_end.list(pages(0, end), buffer, runs).has_value();
      least_ns = std::min(least_ns, monotonic_ns() - began_ns);
    }
    return static_cast<double>(least_ns);
  };
  const double list_ns = (listing_ns(kPages) - listing_ns(kPages / kParts)) / (kPages - kPages / kParts);
  const Timing faulting = time_parts(protecting.parts, write);
  if (works) {
    costs.protect_ns = protecting.ns_per_page;
    costs.list_ns = std::max(kLeastListNs, list_ns);
    costs.fault_ns = std::max(0.0, faulting.ns_per_page - time_parts(faulting.parts, write).ns_per_page);
  }
  back_end.remove(scratch->range());
  return costs;
}

}  // namespace varve::tracker
