// SPDX-License-Identifier: Apache-2.0
//
// Reports as one HTML file that needs nothing else: the plots are drawn by a script in it from JSON in it.
//
// Whatever stands in a report (names of regions, labels, command lines) is data: it can neither end the element that
// holds it nor become markup, and the page's own policy forbids it to load anything.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "varve/result.h"

namespace varve::tools {

struct ReportSection {
  std::string title;
  std::string text;                                ///< what the plots show, in a sentence or two
  nlohmann::json plots = nlohmann::json::array();  ///< of plots.h
};

struct Report {
  std::string title;
  std::string subtitle;
  std::vector<std::pair<std::string, std::string>> facts;  ///< machine, command line and so on, by name
  std::vector<std::string> warnings;                       ///< damage, above everything else
  std::vector<ReportSection> sections;
  nlohmann::json figures;  ///< what `--json` prints
};

/// The page. Never fails: what is no UTF-8 is replaced.
std::string report_page(const Report& report);

/// Tells a path that can't be written before the work is done whose result would be lost. What exists there has to be a
/// regular file, or a symbolic link to one.
Status check_report_path(const std::string& path);
/// Writes the page under a temporary name beside the file and renames it: nobody sees half a report, and no file but
/// that one is touched. A symbolic link stays, and what it leads to is replaced.
Status write_report(const std::string& path, const Report& report);

}  // namespace varve::tools
