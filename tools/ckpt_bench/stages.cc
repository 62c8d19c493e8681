// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/stages.h"

#include <algorithm>

namespace varve::tools {

StageTimes stages_of(const ImageResult& image) {
  return {.stall_ns = image.stall_ns,
          .scan_ns = image.scan_ns,
          .capture_ns = image.capture_ns,
          .reduce_ns = image.reduce_ns,
          .commit_ns = image.commit_ns,
          .durable_ns = image.durable_ns};
}

StageTimes typical(std::vector<StageTimes> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>((times.size() - 1) / 2);
  std::nth_element(times.begin(), middle, times.end(),
                   [](const StageTimes& a, const StageTimes& b) { return a.durable_ns < b.durable_ns; });
  return *middle;
}

plot::Lane lane_of(const std::string& name, const StageTimes& times) {
  const auto ns = [](std::uint64_t value) { return static_cast<double>(value); };
  const double stall = ns(times.stall_ns), durable = ns(times.durable_ns);
  const double listed = std::min(stall, ns(times.scan_ns));
  const double captured = std::min(stall, listed + ns(times.capture_ns));
  const double reduced = std::max(stall, durable - ns(times.commit_ns));
  const double taken = std::max(stall, reduced - ns(times.reduce_ns));  // reducing may begin within the stall
  return {name,
          {{0, 0, listed},
           {1, listed, captured},
           {2, captured, stall},
           {3, stall, taken},
           {4, taken, reduced},
           {5, reduced, durable}}};
}

nlohmann::json stage_plot(const std::string& title, const std::vector<plot::Lane>& lanes) {
  return plot::stages(
      {title, "From the begin of checkpoint() to durable. The program stands still for the first three only.", "ns"},
      {"list suspects", "capture", "other stall", "wait for a thread", "reduce and write", "manifest and flush"},
      lanes);
}

}  // namespace varve::tools
