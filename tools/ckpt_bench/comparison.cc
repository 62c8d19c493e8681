// SPDX-License-Identifier: Apache-2.0
//
// The engine's own choice against every forced one.
#include <algorithm>

#include <fmt/format.h>

#include "tools/ckpt_bench/stall.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

bool is_automatic(const StallRow& row) {
  return row.plan.back_ends.tracker == "auto" && row.plan.back_ends.capture == "auto";
}
bool is_forced(const StallRow& row) {
  return row.plan.back_ends.tracker != "auto" && row.plan.back_ends.capture != "auto";
}

}  // namespace

nlohmann::json Comparison::json() const {
  return {{"workload", workload},  {"io", io},          {"together", automatic},
          {"best_together", best}, {"best", best_name}, {"behind", behind()}};
}

std::vector<Comparison> compare_with_forced(const std::vector<StallRow>& rows) {
  std::vector<Comparison> comparisons;
  for (const auto& row : rows) {
    if (!is_automatic(row)) continue;
    Comparison comparison{.workload = describe(row.plan.shape),
                          .io = row.plan.back_ends.io,
                          .automatic = row.together(),
                          .best_name = {}};
    for (const auto& other : rows) {
      if (!is_forced(other) || describe(other.plan.shape) != comparison.workload) continue;
      if (other.plan.back_ends.io != comparison.io) continue;
      if (!comparison.best_name.empty() && comparison.best <= other.together()) continue;
      comparison.best = other.together();
      comparison.best_name = other.plan.back_ends.tracker + ", " + other.plan.back_ends.capture;
    }
    if (!comparison.best_name.empty()) comparisons.push_back(std::move(comparison));
  }
  return comparisons;
}

std::string comparison_table(const std::vector<Comparison>& comparisons) {
  if (comparisons.empty()) return {};
  Table table({{"WORKLOAD"},
               {"IO"},
               {"AUTO", Table::Align::right},
               {"BEST FORCED", Table::Align::right},
               {"TRACKER, CAPTURE"},
               {"AUTO IS BEHIND", Table::Align::right}});
  for (const auto& comparison : comparisons)
    table.add({comparison.workload, comparison.io, fmt::format("{:.3f}", comparison.automatic),
               fmt::format("{:.3f}", comparison.best), comparison.best_name,
               comparison.behind() > 0 ? format_percent(comparison.behind()) : "not"});
  return "\nan epoch and its checkpoint, over an epoch without an engine:\n" + table.text();
}

}  // namespace varve::tools
