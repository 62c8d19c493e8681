// SPDX-License-Identifier: Apache-2.0
//
// The plots that report.js draws, as JSON. All are bounded: what there is too much of is thinned out or binned here.
// Units: "ns", "bytes", "rate" (bytes a second), "share" (0 to 1), "count", "ratio". Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace varve::tools::plot {

struct Heading {
  std::string title;
  std::string text = {};
  std::string unit = {};
};

struct Series {
  std::string name;
  std::vector<double> values;
};
struct Mark {
  std::string name;
  double value = 0;
};
/// How samples are spread: the share of them at or below a value. Marks are reference values.
nlohmann::json distribution(const Heading& heading, std::vector<Series> series, const std::vector<Mark>& marks);

struct Span {
  std::size_t stage = 0;  ///< of the names given
  double begin = 0;
  double end = 0;
};
struct Lane {
  std::string name;
  std::vector<Span> spans;
};
/// What happens when, from 0 on.
nlohmann::json stages(const Heading& heading, const std::vector<std::string>& names, const std::vector<Lane>& lanes);

struct Bar {
  std::size_t series = 0;           ///< of the names given
  std::optional<double> value;      ///< empty: not measured
  std::optional<double> low = {};   ///< of the spread
  std::optional<double> high = {};  ///< likewise
  bool reference = false;           ///< a yardstick rather than what is measured
  std::string note = {};            ///< why there is no value
};
struct BarGroup {
  std::string name;
  std::vector<Bar> bars;
};
/// `logarithmic`: on such an axis where the values are far apart.
nlohmann::json bars(const Heading& heading, const std::vector<std::string>& series, const std::vector<BarGroup>& groups,
                    bool logarithmic = false);

/// Stacked columns. More than kMaxColumns of them are added up by neighbours.
nlohmann::json columns(const Heading& heading, std::vector<std::string> names, std::vector<Series> series);
inline constexpr std::size_t kMaxColumns = 240;

struct Column {
  std::string title;
  bool right = false;
};
nlohmann::json table(const Heading& heading, const std::vector<Column>& columns,
                     const std::vector<std::vector<std::string>>& rows);

/// At most `most` of these values, evenly spread over their ranks; the least and the greatest stay.
std::vector<double> thinned(std::vector<double> values, std::size_t most);

}  // namespace varve::tools::plot
