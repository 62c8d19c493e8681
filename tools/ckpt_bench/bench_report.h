// SPDX-License-Identifier: Apache-2.0
//
// The common course of a benchmark that can be drawn: outputs are checked, it is measured, and its result is printed as
// a table or as JSON, and drawn as an HTML page when --html names a file.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tools/ckpt_bench/samples.h"
#include "tools/ckpt_bench/setup.h"
#include "tools/report/page.h"
#include "tools/report/plots.h"

namespace varve::tools {

struct BenchResult {
  nlohmann::json rows = nlohmann::json::array();
  nlohmann::json skipped = nlohmann::json::array();
  nlohmann::json header = nlohmann::json::object();  ///< beside what every result carries
  std::string text;
  std::vector<ReportSection> sections;
};

/// Adds --html.
void add_html(CLI::App& command, BenchSetup& setup);

/// Gives the exit code.
int run_benchmark(const BenchSetup& setup, const std::string& subcommand,
                  const std::function<Result<BenchResult>()>& measure);

/// A bar from the median, with whiskers from the tenth to the ninetieth percentile; "not measured" without samples.
plot::Bar bar_of(std::size_t series, const Samples& samples, bool reference = false);

}  // namespace varve::tools
