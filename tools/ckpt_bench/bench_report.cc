// SPDX-License-Identifier: Apache-2.0
#include "tools/ckpt_bench/bench_report.h"

#include <fmt/format.h>

#include "tools/units.h"

namespace varve::tools {
namespace {

std::vector<std::pair<std::string, std::string>> facts_of(const nlohmann::json& header) {
  const auto text = [&header](const char* key) { return header.at(key).get<std::string>(); };
  std::vector<std::pair<std::string, std::string>> facts = {
      {"Command", text("command_line")},
      {"Commit", text("commit")},
      {"Processor", fmt::format("{}, {} usable{}", text("processor"), header.at("processors").get<unsigned>(),
                                text("hypervisor").empty() ? "" : ", virtual (" + text("hypervisor") + ")")},
      {"Memory", format_bytes(header.at("memory_bytes").get<std::uint64_t>())},
      {"Kernel", "Linux " + text("kernel") + ", transparent huge pages " + text("transparent_huge_pages")},
      {"Store on", text("store_file_system")},
      {"Hash", text("hash")}};
  for (const auto& [name, value] : header.at("environment").items()) facts.emplace_back(name, value.get<std::string>());
  return facts;
}

}  // namespace

void add_html(CLI::App& command, BenchSetup& setup) {
  add_output(command, "--html", setup.html, "draw the result, too: one file that needs nothing else");
}

int run_benchmark(const BenchSetup& setup, const std::string& subcommand,
                  const std::function<Result<BenchResult>()>& measure) {
  const std::string command = "ckpt-bench " + subcommand;
  if (!setup.html.empty())
    if (auto ok = check_report_path(setup.html); !ok) return report(command, ok.error());
  auto header = header_json(setup, subcommand);
  auto result = measure();
  if (!result) return report(command, result.error());
  header.update(result->header);
  // Printed first: what was measured is not lost with a page that can't be written.
  const int code = print_rows(setup, subcommand, header, result->rows, result->skipped, result->text);
  if (setup.html.empty()) return code;
  Report page;
  page.title = command;
  page.subtitle = "Medians of one run, with the tenth and the ninetieth percentile. Compare within this page only.";
  page.facts = facts_of(header);
  page.sections = std::move(result->sections);
  page.figures = {
      {"header", std::move(header)}, {"rows", std::move(result->rows)}, {"skipped", std::move(result->skipped)}};
  if (auto ok = write_report(setup.html, page); !ok) return report(command, ok.error());
  return code;
}

plot::Bar bar_of(std::size_t series, const Samples& samples, bool reference) {
  plot::Bar bar{.series = series, .value = {}, .reference = reference, .note = {}};
  if (samples.empty()) return bar;
  bar.value = samples.median();
  bar.low = samples.quantile(0.1);
  bar.high = samples.quantile(0.9);
  return bar;
}

}  // namespace varve::tools
