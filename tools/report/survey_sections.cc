// SPDX-License-Identifier: Apache-2.0
#include "tools/report/survey_sections.h"

#include <algorithm>

#include <fmt/format.h>

#include "tools/command.h"
#include "tools/report/plots.h"
#include "tools/table.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

constexpr std::size_t kMaxChains = 12;
constexpr std::size_t kMaxPoints = 600;
constexpr std::size_t kMaxRows = 100;  // of a table in the page
constexpr std::size_t kMaxFigures = 1000;

std::string bytes_text(double bytes) { return format_bytes(static_cast<std::uint64_t>(std::max(0.0, bytes))); }

std::string ratio_text(const ChangeCounts& counts) {
  return counts.stored_bytes > 0 ? fmt::format("{:.2f}", static_cast<double>(counts.new_bytes) / counts.stored_bytes)
                                 : "-";
}

std::string known_text(const ChangeCounts& counts) {
  if (counts.changed_chunks == 0) return "-";
  const auto spared = static_cast<double>(counts.known_chunks + counts.zero_chunks);
  return format_percent(spared / static_cast<double>(counts.changed_chunks));
}

const char* kind_of(const SurveyedImage& image) {
  return image.summary.kind == storage::ImageKind::full ? "full" : "delta";
}

std::string state_of(const SurveyedImage& image) { return image.problem.empty() ? "" : "damaged: " + image.problem; }

bool stands_out(const SurveyedImage& image) {
  return !image.problem.empty() || !image.summary.label.empty() || image.summary.pinned;
}

// All that stand out, as far as there is room, and others evenly between them.
std::vector<const SurveyedImage*> chosen_points(const SurveyedChain& chain, std::size_t most) {
  std::vector<const SurveyedImage*> chosen;
  std::size_t outstanding = 0;
  for (const auto& image : chain.images) outstanding += stands_out(image) ? 1 : 0;
  const std::size_t others = chain.images.size() - outstanding;
  const std::size_t room = most > outstanding ? most - outstanding : 1;
  const std::size_t stride = std::max<std::size_t>(1, (others + room - 1) / room);
  std::size_t other = 0, marked = 0;
  for (const auto& image : chain.images) {
    if (stands_out(image) ? marked++ < most : other++ % stride == 0) chosen.push_back(&image);
  }
  if (!chain.images.empty() && chosen.back() != &chain.images.back()) chosen.push_back(&chain.images.back());
  return chosen;
}

nlohmann::json time_line(const std::vector<const SurveyedChain*>& chains) {
  auto lanes = nlohmann::json::array(), points = nlohmann::json::array();
  std::uint64_t first = UINT64_MAX, last = 0;
  for (std::size_t lane = 0; lane < chains.size(); ++lane) {
    lanes.push_back(chains[lane]->name);
    for (const auto* image : chosen_points(*chains[lane], kMaxPoints / chains.size())) {
      const auto& summary = image->summary;
      first = std::min(first, summary.time_ns);
      last = std::max(last, summary.time_ns);
      points.push_back(
          {{"lane", lane},
           {"time_ms", static_cast<double>(summary.time_ns) / 1e6},
           {"name", fmt::format("{}/{}, {}", summary.chain, summary.number, kind_of(*image))},
           {"label", summary.label},
           {"full", summary.kind == storage::ImageKind::full},
           {"damaged", !image->problem.empty()},
           {"about", image->problem.empty()
                         ? fmt::format("{}\n{} changed, {} written", format_time(summary.time_ns),
                                       format_bytes(image->counts.changed_bytes), format_bytes(summary.written_bytes))
                         : image->problem}});
    }
  }
  return {{"type", "points"},
          {"title", "Images by time"},
          {"text", "When each image was cut, a line for each chain, with labels."},
          {"unit", ""},
          {"lanes", std::move(lanes)},
          {"points", std::move(points)},
          {"begin", first > last ? "" : format_time(first)},
          {"end", first > last ? "" : format_time(last)}};
}

std::vector<double> each(const SurveyedChain& chain, double (*figure)(const SurveyedImage&)) {
  std::vector<double> values;
  values.reserve(chain.images.size());
  for (const auto& image : chain.images) values.push_back(figure(image));
  return values;
}

std::vector<std::string> numbers(const SurveyedChain& chain) {
  std::vector<std::string> names;
  for (const auto& image : chain.images) names.push_back(std::to_string(image.summary.number));
  return names;
}

nlohmann::json region_table(const SurveyedChain& chain) {
  std::vector<std::pair<std::string, const SurveyedRegion*>> regions;
  for (const auto& [name, region] : chain.regions) regions.emplace_back(name, &region);
  std::stable_sort(regions.begin(), regions.end(), [](auto& a, auto& b) { return a.second->bytes > b.second->bytes; });
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, region] : regions) {
    if (rows.size() == kMaxRows) break;
    const ChangeCounts& counts = region->counts;
    rows.push_back({name, format_bytes(region->bytes), format_count(region->images), format_bytes(counts.changed_bytes),
                    known_text(counts), format_bytes(counts.new_bytes), bytes_text(counts.stored_bytes),
                    ratio_text(counts)});
  }
  std::string text =
      "Of everything that the images of this chain changed: what needed no space, since it was zeros or known "
      "content, and how small the rest became. Stored bytes are shares of frames by length, with names and headers.";
  if (regions.size() > rows.size())
    text += fmt::format(" The {} largest of {} regions.", rows.size(), format_count(regions.size()));
  return plot::table({"Deduplication and compression by region", text},
                     {{"Region"},
                      {"Size", true},
                      {"Images", true},
                      {"Changed", true},
                      {"Zeros or known", true},
                      {"New", true},
                      {"Stored", true},
                      {"Ratio", true}},
                     rows);
}

nlohmann::json region_bars(const SurveyedChain& chain) {
  std::vector<std::pair<std::string, const SurveyedRegion*>> regions;
  for (const auto& [name, region] : chain.regions)
    if (region.counts.stored_bytes > 0) regions.emplace_back(name, &region);
  std::stable_sort(regions.begin(), regions.end(),
                   [](auto& a, auto& b) { return a.second->counts.new_bytes > b.second->counts.new_bytes; });
  if (regions.size() > 20) regions.resize(20);
  std::vector<plot::BarGroup> groups;
  for (const auto& [name, region] : regions)
    groups.push_back({name,
                      {{.series = 0, .value = static_cast<double>(region->counts.new_bytes), .note = {}},
                       {.series = 1, .value = region->counts.stored_bytes, .note = {}}}});
  return plot::bars({"New content by region, and what it takes on disk", "The regions with the most of it.", "bytes"},
                    {"new content", "stored"}, groups);
}

nlohmann::json image_table(const SurveyedChain& chain) {
  std::vector<std::vector<std::string>> rows;
  for (auto image = chain.images.rbegin(); image != chain.images.rend() && rows.size() < kMaxRows; ++image) {
    const auto& summary = image->summary;
    const ChangeCounts& counts = image->counts;
    rows.push_back({std::to_string(summary.number), kind_of(*image),
                    summary.parent == 0 ? "-" : std::to_string(summary.parent),
                    summary.label + (summary.pinned ? " (pinned)" : ""), format_time(summary.time_ns),
                    format_bytes(counts.changed_bytes), known_text(counts), format_bytes(summary.written_bytes),
                    state_of(*image)});
  }
  const bool all = rows.size() == chain.images.size();
  return plot::table(
      {"Images", all ? "Newest first." : fmt::format("The newest {} of {}.", rows.size(), chain.images.size())},
      {{"Image", true},
       {"Kind"},
       {"Parent", true},
       {"Label"},
       {"Time"},
       {"Changed", true},
       {"Zeros or known", true},
       {"Written", true},
       {"State"}},
      rows);
}

std::vector<const SurveyedChain*> largest_chains(const StoreSurvey& survey) {
  std::vector<const SurveyedChain*> chains;
  for (const auto& chain : survey.chains) chains.push_back(&chain);
  std::stable_sort(chains.begin(), chains.end(), [](auto* a, auto* b) { return a->images.size() > b->images.size(); });
  if (chains.size() > kMaxChains) chains.resize(kMaxChains);
  return chains;
}

std::string chain_text(const SurveyedChain& chain) {
  using Align = Table::Align;
  Table images({{"IMAGE", Align::right},
                {"KIND"},
                {"CHANGED", Align::right},
                {"ZERO", Align::right},
                {"KNOWN", Align::right},
                {"NEW", Align::right},
                {"WRITTEN", Align::right},
                {"STATE"}});
  for (const auto& image : chain.images)
    images.add({std::to_string(image.summary.number), kind_of(image), format_bytes(image.counts.changed_bytes),
                format_count(image.counts.zero_chunks), format_count(image.counts.known_chunks),
                format_count(image.counts.new_chunks), format_bytes(image.summary.written_bytes),
                image.problem.empty() ? "-" : state_of(image)});
  Table regions({{"REGION"},
                 {"BYTES", Align::right},
                 {"CHANGED", Align::right},
                 {"ZERO OR KNOWN", Align::right},
                 {"NEW", Align::right},
                 {"STORED", Align::right},
                 {"RATIO", Align::right}});
  for (const auto& [name, region] : chain.regions)
    regions.add({name, format_count(region.bytes), format_bytes(region.counts.changed_bytes), known_text(region.counts),
                 format_bytes(region.counts.new_bytes), bytes_text(region.counts.stored_bytes),
                 ratio_text(region.counts)});
  return fmt::format("chain '{}'\n\n{}\n{}\n", chain.name, images.text(), regions.text());
}

}  // namespace

ReportSection chain_section(const SurveyedChain& chain, const std::string& title, const std::string& text) {
  ReportSection section{.title = title, .text = text};
  section.plots.push_back(chain.map.plot({"What changed where",
                                          "From top to bottom the regions, by their size; from left to right the "
                                          "images. Colour: the share of the place that "
                                          "differs from the image before. The first image has everything."}));
  section.plots.push_back(plot::columns(
      {"Size of the images", "Frames, manifest and padding, as written for each image.", "bytes"}, numbers(chain),
      {{"written", each(chain, [](auto& image) { return static_cast<double>(image.summary.written_bytes); })}}));
  section.plots.push_back(plot::columns(
      {"What became of the changed chunks", "Only new content is written; zeros and known content take no space.",
       "count"},
      numbers(chain),
      {{"new content", each(chain, [](auto& image) { return static_cast<double>(image.counts.new_chunks); })},
       {"known content", each(chain, [](auto& image) { return static_cast<double>(image.counts.known_chunks); })},
       {"zeros", each(chain, [](auto& image) { return static_cast<double>(image.counts.zero_chunks); })}}));
  return section;
}

std::vector<ReportSection> survey_sections(const StoreSurvey& survey) {
  std::vector<ReportSection> sections;
  const auto chains = largest_chains(survey);
  if (chains.empty()) {
    if (survey.damage.empty())
      sections.push_back({.title = "No images yet", .text = "The store is there, and holds no image."});
    else
      sections.push_back({.title = "No image can be read", .text = "The store is damaged: see above."});
    return sections;
  }
  ReportSection time{.title = "Time line", .text = {}};
  if (chains.size() < survey.chains.size())
    time.text = fmt::format("The {} chains with the most images, of {}.", chains.size(), survey.chains.size());
  time.plots.push_back(time_line(chains));
  sections.push_back(std::move(time));
  for (const auto* chain : chains) {
    auto section = chain_section(*chain, "Chain " + chain->name, fmt::format("{} images.", chain->images.size()));
    section.plots.push_back(region_bars(*chain));
    section.plots.push_back(region_table(*chain));
    section.plots.push_back(image_table(*chain));
    sections.push_back(std::move(section));
  }
  return sections;
}

std::string survey_text(const StoreSurvey& survey) {
  std::string text;
  for (const auto& chain : survey.chains) text += chain_text(chain);
  if (survey.chains.empty()) text += survey.damage.empty() ? "no images yet\n" : "no image can be read\n";
  for (const auto& sentence : survey.damage) text += "damage: " + sentence + "\n";
  return text;
}

Report survey_report(const StoreSurvey& survey) {
  std::size_t images = 0;
  for (const auto& chain : survey.chains) images += chain.images.size();
  Report report;
  report.title = "Store " + survey.directory;
  report.subtitle = "What its manifests tell: which images there are, what changed where, and what it takes.";
  report.facts = {{"Images", fmt::format("{} in {} chain{}", format_count(images), survey.chains.size(),
                                         survey.chains.size() == 1 ? "" : "s")},
                  {"On disk", fmt::format("{} in {} segment files", format_bytes(survey.statistics.stored_bytes),
                                          survey.statistics.segments)},
                  {"Chunks", fmt::format("{} stored, of {} each", format_count(survey.statistics.indexed_chunks),
                                         format_bytes(survey.chunk_bytes))},
                  {"Checked", survey.verified ? "everything was read (--verify)"
                                              : "manifests only; --verify reads the page data too"},
                  {"Store id", survey.id},
                  {"Made by", version_text("varve")}};
  report.warnings = survey.damage;
  report.sections = survey_sections(survey);
  report.figures = survey.json(kMaxFigures);
  return report;
}

}  // namespace varve::tools
