// SPDX-License-Identifier: Apache-2.0
//
// The stages of checkpoints on a time line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/report/plots.h"
#include "varve/varve.h"

namespace varve::tools {

/// Of one checkpoint; as in ImageResult.
struct StageTimes {
  std::uint64_t stall_ns = 0, scan_ns = 0, capture_ns = 0, reduce_ns = 0, commit_ns = 0, durable_ns = 0;
};
StageTimes stages_of(const ImageResult& image);
/// The one whose time to durable is the median. REQUIRES: not empty.
StageTimes typical(std::vector<StageTimes> times);

/// One after the other from the begin of checkpoint() to durable, whatever the stages' own clocks say.
plot::Lane lane_of(const std::string& name, const StageTimes& times);
nlohmann::json stage_plot(const std::string& title, const std::vector<plot::Lane>& lanes);

}  // namespace varve::tools
