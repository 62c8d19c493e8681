// SPDX-License-Identifier: Apache-2.0
//
// varve diff: which regions and ranges differ between two images, from their manifests alone.
#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/image_diff.h"
#include "tools/table.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

struct DiffOptions {
  CommonOptions common;
  StoreArgument store;
  std::string a;
  std::string b;
};

struct Compared {
  storage::ImageSummary a;
  storage::ImageSummary b;
  std::uint32_t chunk_bytes = 0;
  ImageDiff diff;
};

Result<ResolvedImage> look_up(storage::Store& store, const std::string& selector, storage::ImageSummary& summary) {
  VARVE_TRY_ASSIGN(const ImageName name, parse_image_selector(store, selector));
  for (auto& image : store.images())
    if (image.chain == name.chain && image.number == name.number) summary = std::move(image);
  return resolve_image(store, name.chain, name.number);
}

Result<Compared> compare(storage::Store& store, const DiffOptions& options) {
  Compared compared;
  VARVE_TRY_ASSIGN(const auto held, store.hold());  // what is chosen now stays until it was read
  VARVE_TRY(store.refresh());
  VARVE_TRY_ASSIGN(const ResolvedImage a, look_up(store, options.a, compared.a));
  VARVE_TRY_ASSIGN(const ResolvedImage b, look_up(store, options.b, compared.b));
  compared.chunk_bytes = store.chunk_bytes();
  compared.diff = diff_images(a, b);
  return compared;
}

/// For scripts; people get the same words with what is to be known beside them.
const char* difference_name(RegionDifference difference) {
  switch (difference) {
    case RegionDifference::none: return "none";
    case RegionDifference::content: return "content";
    case RegionDifference::size: return "size";
    case RegionDifference::alignment: return "alignment";
    case RegionDifference::only_in_a: return "only in A";
    case RegionDifference::only_in_b: return "only in B";
  }
  return "unknown";
}

nlohmann::json shape_json(const std::optional<RegionShape>& shape) {
  if (!shape) return nullptr;
  return {{"bytes", shape->bytes}, {"grid_offset", shape->grid_offset}};
}

nlohmann::json as_json(const Compared& compared) {
  std::uint64_t differing = 0;
  auto regions = nlohmann::json::array();
  for (const RegionDiff& region : compared.diff.regions) {
    differing += region.differing_bytes;
    auto ranges = nlohmann::json::array();
    for (const auto& range : region.ranges) ranges.push_back({{"offset", range.offset}, {"bytes", range.bytes}});
    regions.push_back({{"name", region.name},
                       {"difference", difference_name(region.difference)},
                       {"a", shape_json(region.a)},
                       {"b", shape_json(region.b)},
                       {"other_exclusions", region.other_exclusions},
                       {"compared_bytes", region.compared_bytes},
                       {"compared_chunks", region.compared_chunks},
                       {"differing_bytes", region.differing_bytes},
                       {"differing_chunks", region.differing_chunks},
                       {"ranges", std::move(ranges)}});
  }
  return {{"a", image_json(compared.a)},         {"b", image_json(compared.b)},  {"identical", compared.diff.identical},
          {"chunk_bytes", compared.chunk_bytes}, {"differing_bytes", differing}, {"regions", std::move(regions)},
          {"blobs", compared.diff.blobs}};
}

std::string size_text(const RegionDiff& region) {
  if (!region.a) return format_count(region.b->bytes);
  if (!region.b || region.a->bytes == region.b->bytes) return format_count(region.a->bytes);
  return fmt::format("{} -> {}", format_count(region.a->bytes), format_count(region.b->bytes));
}

std::string share_text(const RegionDiff& region) {
  if (region.compared_bytes == 0) return "-";
  return format_percent(static_cast<double>(region.differing_bytes) / static_cast<double>(region.compared_bytes));
}

std::string table_text(const ImageDiff& diff) {
  using Align = Table::Align;
  Table table({{"REGION"},
               {"DIFFERENCE"},
               {"BYTES", Align::right},
               {"DIFFERING", Align::right},
               {"SHARE", Align::right},
               {"CHUNKS", Align::right},
               {"RANGES", Align::right}});
  for (const RegionDiff& region : diff.regions) {
    const bool compared = region.compared_chunks != 0;
    table.add({region.name, difference_name(region.difference), size_text(region),
               compared ? format_count(region.differing_bytes) : "-", share_text(region),
               compared ? format_count(region.differing_chunks) : "-",
               compared ? format_count(region.ranges.size()) : "-"});
  }
  return table.text();
}

std::string details(const RegionDiff& region) {
  constexpr std::size_t kShown = 8;
  std::string text;
  if (region.difference == RegionDifference::alignment)
    text += fmt::format("{}: begins {} bytes into its first page in A and {} in B: no chunk can be compared by name\n",
                        region.name, region.a->grid_offset, region.b->grid_offset);
  if (region.other_exclusions) text += fmt::format("{}: other bytes are excluded\n", region.name);
  if (region.ranges.empty()) return text;
  text += region.name + ": bytes ";
  for (std::size_t i = 0; i < std::min(region.ranges.size(), kShown); ++i)
    text += fmt::format("{}{} to {}", i == 0 ? "" : ", ", region.ranges[i].offset,
                        region.ranges[i].offset + region.ranges[i].bytes);
  if (region.ranges.size() > kShown)
    text += fmt::format(" and {} more ranges (--json has all)", format_count(region.ranges.size() - kShown));
  return text + "\n";
}

// The last line stands for the whole.
std::string as_text(const Compared& compared) {
  const ImageDiff& diff = compared.diff;
  std::string text = fmt::format("A: image {}/{} of {}\nB: image {}/{} of {}\n\n", compared.a.chain, compared.a.number,
                                 format_time(compared.a.time_ns), compared.b.chain, compared.b.number,
                                 format_time(compared.b.time_ns));
  text += table_text(diff);
  std::uint64_t differing = 0;
  std::size_t regions = 0;
  for (const RegionDiff& region : diff.regions) {
    text += details(region);
    differing += region.differing_bytes;
    if (region.difference != RegionDifference::none || region.other_exclusions) ++regions;
  }
  for (const std::string& name : diff.blobs) text += fmt::format("blob '{}' differs\n", name);
  if (diff.identical) return text + "identical\n";
  return text + fmt::format("different: {} of {} regions, {} in chunks of {} bytes\n", regions, diff.regions.size(),
                            format_bytes(differing), compared.chunk_bytes);
}

int run_diff(const DiffOptions& options) {
  auto store = open_store(options.store);
  if (!store) return report("varve diff", store.error());
  auto compared = compare(**store, options);
  if (!compared) return report("varve diff", compared.error());
  if (options.common.json) return print("varve diff", as_json(*compared));
  return print("varve diff", as_text(*compared));
}

}  // namespace

Command add_diff(CLI::App& parent) {
  auto options = std::make_shared<DiffOptions>();
  auto* app = parent.add_subcommand("diff",
                                    "Tell which regions and ranges differ between two images of a store, by the names\n"
                                    "of their chunks: no page data is read, and a range is true to whole chunks.\n"
                                    "Excluded bytes count as zeros.");
  add_store(*app, options->store);
  app->add_option("A", options->a, kImageHelp)->required();
  app->add_option("B", options->b, "likewise; may be of another chain")->required();
  add_common(*app, options->common);
  add_footer(*app,
             "  varve diff ckpt 7 latest\n"
             "  varve diff ckpt main/7 trial/7 --json | jq .identical\n",
             "Exit codes: 0 compared, whether or not they differ (--json has `identical`), 1 damage or failure, "
             "2 usage.");
  return {app, [options] { return run_diff(*options); }};
}

}  // namespace varve::tools
