// SPDX-License-Identifier: Apache-2.0
//
// What a page costs on this machine, measured as the engine measures it when it opens, and what it makes of it: for
// `varve doctor`.
#pragma once

#include <string>
#include <vector>

namespace varve::tools {

struct MeasuredCost {
  std::string key;   ///< for scripts: "uffd.protected_write_ns"
  std::string what;  ///< for people
  double ns = 0;
  std::string remark;
};

struct MeasuredCosts {
  std::vector<MeasuredCost> costs;
  std::vector<std::string> why;     ///< what follows from them for the chosen back ends
  std::vector<std::string> advice;  ///< what would make it faster
  double took_ns = 0;               ///< to measure all of it
};

/// `trackers`: the names of those that work; `chosen`: the one that an engine would take; `huge_pages`: the setting of
/// transparent ones. Some milliseconds, and some MiB.
MeasuredCosts measure_costs(const std::vector<std::string>& trackers, const std::string& chosen,
                            const std::string& huge_pages);

}  // namespace varve::tools
