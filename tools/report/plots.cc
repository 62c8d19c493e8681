// SPDX-License-Identifier: Apache-2.0
#include "tools/report/plots.h"

#include <algorithm>

namespace varve::tools::plot {
namespace {

constexpr std::size_t kMaxSamples = 400;

nlohmann::json begin(const char* type, const Heading& heading) {
  return {{"type", type}, {"title", heading.title}, {"text", heading.text}, {"unit", heading.unit}};
}

nlohmann::json or_null(const std::optional<double>& value) { return value ? nlohmann::json(*value) : nlohmann::json(); }

}  // namespace

std::vector<double> thinned(std::vector<double> values, std::size_t most) {
  std::sort(values.begin(), values.end());
  if (values.size() <= most || most < 2) return values;
  std::vector<double> kept;
  kept.reserve(most);
  for (std::size_t i = 0; i < most; ++i) kept.push_back(values[i * (values.size() - 1) / (most - 1)]);
  return kept;
}

nlohmann::json distribution(const Heading& heading, std::vector<Series> series, const std::vector<Mark>& marks) {
  auto json = begin("distribution", heading);
  json["series"] = nlohmann::json::array();
  for (auto& one : series)
    json["series"].push_back({{"name", one.name}, {"values", thinned(std::move(one.values), kMaxSamples)}});
  json["marks"] = nlohmann::json::array();
  for (const auto& mark : marks) json["marks"].push_back({{"name", mark.name}, {"value", mark.value}});
  return json;
}

nlohmann::json stages(const Heading& heading, const std::vector<std::string>& names, const std::vector<Lane>& lanes) {
  auto json = begin("stages", heading);
  json["stages"] = names;
  json["lanes"] = nlohmann::json::array();
  for (const auto& lane : lanes) {
    auto spans = nlohmann::json::array();
    for (const auto& span : lane.spans)
      spans.push_back({{"stage", span.stage}, {"begin", span.begin}, {"end", std::max(span.begin, span.end)}});
    json["lanes"].push_back({{"name", lane.name}, {"spans", std::move(spans)}});
  }
  return json;
}

nlohmann::json bars(const Heading& heading, const std::vector<std::string>& series, const std::vector<BarGroup>& groups,
                    bool logarithmic) {
  auto json = begin("bars", heading);
  json["series"] = series;
  json["logarithmic"] = logarithmic;
  json["groups"] = nlohmann::json::array();
  for (const auto& group : groups) {
    auto drawn = nlohmann::json::array();
    for (const auto& bar : group.bars)
      drawn.push_back({{"series", bar.series},
                       {"value", or_null(bar.value)},
                       {"low", or_null(bar.low)},
                       {"high", or_null(bar.high)},
                       {"reference", bar.reference},
                       {"note", bar.note}});
    json["groups"].push_back({{"name", group.name}, {"bars", std::move(drawn)}});
  }
  return json;
}

nlohmann::json columns(const Heading& heading, std::vector<std::string> names, std::vector<Series> series) {
  auto json = begin("columns", heading);
  const std::size_t together = std::max<std::size_t>(1, (names.size() + kMaxColumns - 1) / kMaxColumns);
  const std::size_t count = (names.size() + together - 1) / together;
  std::vector<std::string> shown;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t last = std::min(names.size(), (i + 1) * together) - 1;
    shown.push_back(together == 1 ? names[i] : names[i * together] + " to " + names[last]);
  }
  json["names"] = std::move(shown);
  json["series"] = nlohmann::json::array();
  for (auto& one : series) {
    std::vector<double> sums(count, 0.0);
    for (std::size_t i = 0; i < std::min(one.values.size(), names.size()); ++i) sums[i / together] += one.values[i];
    json["series"].push_back({{"name", one.name}, {"values", std::move(sums)}});
  }
  return json;
}

nlohmann::json table(const Heading& heading, const std::vector<Column>& columns,
                     const std::vector<std::vector<std::string>>& rows) {
  auto json = begin("table", heading);
  json["columns"] = nlohmann::json::array();
  for (const auto& column : columns) json["columns"].push_back({{"title", column.title}, {"right", column.right}});
  json["rows"] = rows;
  return json;
}

}  // namespace varve::tools::plot
