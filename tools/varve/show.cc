// SPDX-License-Identifier: Apache-2.0
//
// varve show: what one image holds, by region.
#include <algorithm>
#include <memory>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/chain.h"
#include "tools/table.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

struct ShowOptions {
  CommonOptions common;
  StoreArgument store;
  std::string image;
};

struct Shown {
  storage::ImageSummary summary;
  storage::Manifest manifest;           ///< as it was written: what changed
  std::vector<std::uint64_t> ancestry;  ///< images that a restore reads, newest first
};

Result<Shown> look_up(storage::Store& store, const std::string& selector) {
  Shown shown;
  VARVE_TRY_ASSIGN(const auto held, store.hold());  // what is chosen now stays until it was read
  VARVE_TRY(store.refresh());
  VARVE_TRY_ASSIGN(const ImageName name, parse_image_selector(store, selector));
  for (auto& image : store.images())
    if (image.chain == name.chain && image.number == name.number) shown.summary = std::move(image);
  VARVE_TRY_ASSIGN(shown.manifest, store.read_manifest(name.chain, name.number));
  VARVE_TRY_ASSIGN(auto resolved, resolve_image(store, name.chain, name.number));
  shown.ancestry = std::move(resolved.ancestry);
  return shown;
}

nlohmann::json as_json(const Shown& shown) {
  const auto& manifest = shown.manifest;
  auto json = image_json(shown.summary);
  json["revision"] = manifest.revision;
  json["architecture"] = manifest.architecture;
  json["page_bytes"] = manifest.page_bytes;
  json["chunk_bytes"] = manifest.chunk_bytes;
  json["ancestry"] = shown.ancestry;
  json["regions"] = nlohmann::json::array();
  for (const auto& region : manifest.regions) json["regions"].push_back(region_json(region, manifest.chunk_bytes));
  json["blob_bytes"] = nlohmann::json::object();
  for (const auto& [name, value] : manifest.blobs) json["blob_bytes"][name] = value.size();
  return json;
}

std::string heading(const Shown& shown) {
  const auto& [summary, manifest, ancestry] = shown;
  std::string text = fmt::format("image {} of chain '{}', {}", summary.number, summary.chain, kind_name(summary.kind));
  if (summary.parent != 0) text += fmt::format(", on image {}", summary.parent);
  if (!summary.label.empty()) text += fmt::format(", label '{}'", summary.label);
  text += fmt::format("\ncut {}, {} {}-byte pages, chunks of {} bytes\n", format_time(summary.time_ns),
                      manifest.architecture, manifest.page_bytes, manifest.chunk_bytes);
  text +=
      fmt::format("{} written for {} of regions, manifest in {} at offset {}\n", format_bytes(summary.written_bytes),
                  format_bytes(summary.region_bytes), summary.segment, summary.offset);
  text += fmt::format("restored from {} image{}: ", ancestry.size(), ancestry.size() == 1 ? "" : "s");
  constexpr std::size_t kShown = 12;
  for (std::size_t i = 0; i < std::min(ancestry.size(), kShown); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ", ", ancestry[i]);
  return text + (ancestry.size() > kShown ? fmt::format(", ... {}\n\n", ancestry.back()) : "\n\n");
}

std::string as_text(const Shown& shown) {
  using Align = Table::Align;
  Table table({{"REGION"},
               {"BYTES", Align::right},
               {"CHUNKS", Align::right},
               {"CHANGED", Align::right},
               {"ZERO", Align::right},
               {"EXCLUDED", Align::right},
               {"ELEMENT", Align::right},
               {"ADDRESS", Align::right},
               {"ACCESS"}});
  for (const auto& region : shown.manifest.regions) {
    const RunCounts counts = count_runs(region, shown.manifest.chunk_bytes);
    std::uint64_t excluded = 0;
    for (const auto& range : region.excluded) excluded += range.bytes;
    table.add({region.name, format_count(region.bytes), format_count(counts.chunks), format_count(counts.changed),
               format_count(counts.zero), excluded == 0 ? "-" : format_count(excluded),
               region.element_bytes == 0 ? "-" : std::to_string(region.element_bytes),
               fmt::format("{:#x}", region.address), protection_text(region.protection)});
  }
  std::string text = heading(shown) + table.text();
  for (const auto& [name, value] : shown.manifest.blobs)
    text += fmt::format("blob '{}': {}\n", name, format_bytes(value.size()));
  return text;
}

int run_show(const ShowOptions& options) {
  auto store = open_store(options.store);
  if (!store) return report("varve show", store.error());
  auto shown = look_up(**store, options.image);
  if (!shown) return report("varve show", shown.error());
  if (options.common.json) return print("varve show", as_json(*shown));
  return print("varve show", as_text(*shown));
}

}  // namespace

Command add_show(CLI::App& parent) {
  auto options = std::make_shared<ShowOptions>();
  auto* app =
      parent.add_subcommand("show", "Show what one image holds: its regions, and how many of their chunks it changed.");
  add_store(*app, options->store);
  app->add_option("IMAGE", options->image, kImageHelp)->required();
  add_common(*app, options->common);
  add_footer(*app,
             "  varve show ckpt latest\n"
             "  varve show ckpt main/7 --json | jq '.regions[].name'\n");
  return {app, [options] { return run_show(*options); }};
}

}  // namespace varve::tools
