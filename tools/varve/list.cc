// SPDX-License-Identifier: Apache-2.0
//
// varve list: one line per image.
#include <memory>

#include "tools/table.h"
#include "tools/units.h"
#include "tools/varve/commands.h"
#include "tools/varve/image_json.h"

namespace varve::tools {
namespace {

struct ListOptions {
  CommonOptions common;
  StoreArgument store;
  std::string chain;
};

std::string label_text(const storage::ImageSummary& image) {
  if (image.pinned) return image.label.empty() ? "(pinned)" : image.label + " (pinned)";
  return image.label.empty() ? "-" : image.label;
}

std::string as_table(const std::vector<storage::ImageSummary>& images) {
  using Align = Table::Align;
  Table table({{"IMAGE", Align::right},
               {"CHAIN"},
               {"KIND"},
               {"PARENT", Align::right},
               {"LABEL"},
               {"TIME"},
               {"REGIONS", Align::right},
               {"WRITTEN", Align::right}});
  for (const auto& image : images)
    table.add({std::to_string(image.number), image.chain, kind_name(image.kind),
               image.parent == 0 ? "-" : std::to_string(image.parent), label_text(image), format_time(image.time_ns),
               format_bytes(image.region_bytes), format_bytes(image.written_bytes)});
  return table.text();
}

int run_list(const ListOptions& options) {
  auto store = open_store(options.store);
  if (!store) return report("varve list", store.error());
  auto images = (*store)->images();
  if (!options.chain.empty()) {
    std::erase_if(images, [&](const auto& image) { return image.chain != options.chain; });
    if (images.empty())
      return report(
          "varve list",
          fail(ErrorCode::not_found, {"list of chain '" + options.chain + "' in " + options.store.directory + " failed",
                                      "the store has no image of such a chain",
                                      "see 'varve list " + options.store.directory + "' for those that it has"}));
  }
  if (options.common.json) {
    auto rows = nlohmann::json::array();
    for (const auto& image : images) rows.push_back(image_json(image));
    return print("varve list", nlohmann::json{{"images", std::move(rows)}});
  }
  if (images.empty()) return print("varve list", std::string("no images yet\n"));
  return print("varve list", as_table(images));
}

}  // namespace

Command add_list(CLI::App& parent) {
  auto options = std::make_shared<ListOptions>();
  auto* app = parent.add_subcommand("list", "List the images of a store.");
  add_store(*app, options->store);
  app->add_option("--chain", options->chain, "only this chain");
  add_common(*app, options->common);
  add_footer(*app,
             "  varve list ckpt\n"
             "  varve list ckpt --chain main --json | jq '.images[-1].image'\n");
  return {app, [options] { return run_list(*options); }};
}

}  // namespace varve::tools
