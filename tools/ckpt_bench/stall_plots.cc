// SPDX-License-Identifier: Apache-2.0
//
// Rows of `stall` and `matrix` as plots.
#include <algorithm>

#include <fmt/format.h>

#include "tools/ckpt_bench/stall.h"
#include "tools/report/survey_sections.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

constexpr std::size_t kDetailed = 6;  // rows with a curve, and a heat map, of their own
constexpr std::size_t kLanes = 24;
constexpr std::size_t kMaxBars = 80;  // rows

std::string name_of(const StallRow& row) {
  const auto& wanted = row.plan.back_ends;
  std::string name = describe(row.plan.shape);
  if (wanted.tracker != "auto" || wanted.capture != "auto" || wanted.io != "auto")
    name = fmt::format("{}, {}, {}: {}", wanted.tracker, wanted.capture, wanted.io, name);
  return name;
}

nlohmann::json stages_plot(const std::vector<StallRow>& rows) {
  std::vector<plot::Lane> lanes;
  if (rows.size() == 1) {
    const auto& times = rows[0].stages;
    const std::size_t stride = std::max<std::size_t>(1, (times.size() + kLanes - 1) / kLanes);
    for (std::size_t i = 0; i < times.size(); i += stride)
      lanes.push_back(lane_of(fmt::format("checkpoint {}", i + 1), times[i]));
  } else {
    for (const auto& row : rows)
      if (!row.stages.empty() && lanes.size() < kLanes) lanes.push_back(lane_of(name_of(row), typical(row.stages)));
  }
  return stage_plot(rows.size() == 1 ? "Checkpoints, stage by stage" : "A typical checkpoint, stage by stage", lanes);
}

nlohmann::json distribution_of(const std::vector<StallRow>& rows) {
  std::vector<plot::Series> series;
  std::vector<plot::Mark> marks;
  for (const auto& row : rows) {
    if (series.size() == kDetailed) break;
    series.push_back({name_of(row), row.stall.values()});
    const std::string of = rows.size() == 1 ? "" : fmt::format(" ({})", series.size());
    if (!row.floor.empty()) marks.push_back({"floor" + of, row.floor.median()});
    if (!row.full_write.empty()) marks.push_back({"full write" + of, row.full_write.median()});
  }
  return plot::distribution({"Stall",
                             "Share of the checkpoints that stalled for at most so long. Dashed: the floor (one "
                             "listing scan and one memcpy of the pages written), and writing everything.",
                             "ns"},
                            std::move(series), marks);
}

nlohmann::json bars_of(const std::vector<StallRow>& rows) {
  std::vector<plot::BarGroup> groups;
  for (const auto& row : rows) {
    if (groups.size() == kMaxBars) break;
    groups.push_back({name_of(row), {bar_of(0, row.stall), bar_of(1, row.floor, true), bar_of(2, row.full_write)}});
  }
  return plot::bars({"Stall against the floor, and against writing everything",
                     "Whiskers from the tenth to the ninetieth percentile.", "ns"},
                    {"stall", "floor", "write(2) + fdatasync(2) of everything"}, groups, true);
}

nlohmann::json slowdown_of(const std::vector<StallRow>& rows) {
  std::vector<plot::BarGroup> groups;
  for (const auto& row : rows) {
    if (groups.size() == kMaxBars) break;
    groups.push_back({name_of(row), {bar_of(0, row.epoch_plain, true), bar_of(1, row.epoch_with)}});
  }
  return plot::bars({"What the program notices between checkpoints", "Time of an epoch of the program.", "ns"},
                    {"epoch without an engine", "epoch while an image is written"}, groups);
}

}  // namespace

std::vector<ReportSection> stall_sections(const std::vector<StallRow>& rows) {
  ReportSection section{.title = "Stall", .text = "How long a checkpoint keeps the program."};
  section.plots = {distribution_of(rows), bars_of(rows), stages_plot(rows), slowdown_of(rows)};
  std::vector<ReportSection> sections = {std::move(section)};
  for (const auto& row : rows) {
    if (!row.chain) continue;
    if (sections.size() > kDetailed) break;
    sections.push_back(chain_section(*row.chain, "Images of: " + name_of(row),
                                     "The store that this measurement left, warm-up included. Each round begins with a "
                                     "full image of an engine of its own."));
  }
  return sections;
}

}  // namespace varve::tools
