// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/measured_costs.h"

#include <optional>

#include <fmt/format.h>

#include "base/clock.h"
#include "engine/capture_cost.h"
#include "engine/cooler.h"
#include "tools/units.h"
#include "tracker/costs.h"

namespace varve::tools {
namespace {

constexpr std::size_t kStagingBytes = std::size_t{4} << 20;
constexpr double kPagesOfGib = 262'144;
constexpr double kPageBytes = 4096;
/// Above it, faults go through a hypervisor's shadow page tables, or a slower machine than any that was seen.
constexpr double kDearFaultNs = 5'000;

void add_tracker(MeasuredCosts& measured, const std::string& name, const tracker::Costs& costs) {
  measured.costs.push_back(
      {name + ".protected_write_ns", name + ": first write to a protected page", costs.fault_ns, ""});
  measured.costs.push_back(
      {name + ".protect_ns", name + ": protecting a page again, in a range", costs.protect_ns, ""});
  measured.costs.push_back({name + ".list_gib_ns", name + ": listing the written pages of 1 GiB",
                            costs.list_ns * kPagesOfGib, "within the stall; less in huge pages"});
}

void explain_tracker(MeasuredCosts& measured, const std::string& chosen, const tracker::Costs& costs) {
  if (costs.fault_ns <= 0) {
    measured.why.push_back(
        chosen == "hash" ? fmt::format("nothing finds written pages here but hashing: a checkpoint of 1 GiB copies and "
                                       "hashes all of it, {}",
                                       format_ns(costs.visit_ns * kPagesOfGib))
                         : fmt::format("{} clears its marks all at once, so that nothing is left writable", chosen));
    return;
  }
  measured.why.push_back(fmt::format(
      "{}: a page left writable costs {} at each checkpoint, one protected {} when it is written after all: "
      "protecting pays for pages that stay unwritten for {} checkpoints; others stay writable and cost no fault",
      chosen, format_ns(costs.visit_ns), format_ns(costs.fault_ns + costs.protect_ns),
      tracker::cuts_worth_protecting(costs)));
  if (costs.fault_ns > kDearFaultNs)
    measured.advice.push_back(fmt::format(
        "a page fault costs {} here, some ten times what it does with nested paging or on bare metal: another "
        "instance type, or a hypervisor with EPT or NPT, would serve programs whose pattern changes often",
        format_ns(costs.fault_ns)));
}

void add_capture(MeasuredCosts& measured, const CaptureCosts& costs, bool forks) {
  measured.costs.push_back({"copy_page_ns", "copying a page to staging", kPageBytes / costs.copy_bytes_per_ns, ""});
  measured.costs.push_back({"hash_page_ns", "hashing a page", measure_hash_page_ns(), ""});
  if (!forks) return;
  measured.costs.push_back({"fork_ns", "fork of a small process", costs.fork_fixed_ns, ""});
  measured.costs.push_back({"fork_gib_ns", "fork, for each GiB that is resident", costs.fork_page_ns * kPagesOfGib,
                            "assumed until a large process has forked"});
  measured.costs.push_back({"copy_on_write_ns", "first write to a page after a fork", costs.fault_ns, ""});
  const double copied = kPagesOfGib * kPageBytes / costs.copy_bytes_per_ns;
  const double forked = costs.fork_fixed_ns + (costs.fork_page_ns + costs.fault_ns) * kPagesOfGib;
  measured.why.push_back(fmt::format(
      "1 GiB of suspects in 1 GiB: copy stalls for {}, fork for {} and {} more as the program goes on; fork "
      "is taken where copy would wait for the writer for longer than that",
      format_ns(copied), format_ns(costs.fork_fixed_ns + costs.fork_page_ns * kPagesOfGib),
      format_ns(forked - costs.fork_fixed_ns - costs.fork_page_ns * kPagesOfGib)));
}

}  // namespace

MeasuredCosts measure_costs(const std::vector<std::string>& trackers, const std::string& chosen,
                            const std::string& huge_pages) {
  MeasuredCosts measured;
  const std::uint64_t begin_ns = monotonic_ns();
  std::optional<double> visit_ns;
  for (const auto& name : trackers) {
    const auto kind = tracker::parse_back_end(name);
    if (!kind.has_value()) continue;
    const tracker::Costs costs = tracker::Service::process().costs(*kind);
    if (costs.fault_ns > 0) add_tracker(measured, name, costs);
    if (!visit_ns.has_value()) visit_ns = costs.visit_ns;
    if (name == chosen) explain_tracker(measured, name, costs);
  }
  if (visit_ns.has_value())
    measured.costs.push_back({"visit_page_ns", "a page left writable, at each checkpoint", *visit_ns, "copy and hash"});
  CapturerOptions options;
  options.staging_bytes = kStagingBytes;
  if (const auto capturer = Capturer::create(options)) {
    const bool forks = (*capturer)->describe().find("fork works") != std::string::npos;
    add_capture(measured, (*capturer)->costs(), forks);
  }
  measured.took_ns = static_cast<double>(monotonic_ns() - begin_ns);
  if (huge_pages == "madvise")
    measured.advice.push_back(
        "huge pages are given to memory that asks: madvise(MADV_HUGEPAGE) for large arrays before they are filled "
        "makes listing and protecting them some 50 times faster (docs/tuning.md)");
  return measured;
}

}  // namespace varve::tools
