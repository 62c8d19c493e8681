// SPDX-License-Identifier: Apache-2.0
//
// varve pin, unpin, label, rm: small changes to the list of images. Each holds the chain's lock for an instant, and is
// refused with the writer's pid while another has it.
#include <algorithm>
#include <functional>
#include <memory>
#include <set>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/chain.h"
#include "engine/retention.h"
#include "tools/varve/commands.h"

namespace varve::tools {
namespace {

struct ChangeOptions {
  StoreArgument store;
  std::vector<std::string> images;
  std::string label;
  bool no_label = false;
};

using Change =
    std::function<Status(storage::Store&, storage::ChainWriter&, const ImageName&, std::vector<std::string>&)>;

Error refused(std::string_view action, const ImageName& image, std::string cause, std::string remedy) {
  return fail(ErrorCode::invalid_argument,
              {fmt::format("{} image {} refused", action, to_string(image)), std::move(cause), std::move(remedy)});
}

/// Applies a change to each of the images in turn; `done` gets a line of what was done.
Status change_images(const ChangeOptions& options, const Change& change, std::vector<std::string>& done) {
  VARVE_TRY_ASSIGN(const auto store, open_store(options.store));
  for (const std::string& selector : options.images) {
    VARVE_TRY_ASSIGN(const ImageName first, parse_image_selector(*store, selector));
    VARVE_TRY_ASSIGN(const auto writer, store->open_chain(first.chain));
    auto changed = [&]() -> Status {
      // Again, now that nobody else changes it.
      VARVE_TRY_ASSIGN(const ImageName image, parse_image_selector(*store, selector));
      return change(*store, *writer, image, done);
    }();
    auto closed = writer->close();
    if (!changed) return changed;
    if (!closed) return closed;
  }
  return {};
}

int run_change(const char* command, const ChangeOptions& options, const Change& change) {
  std::vector<std::string> done;
  const auto changed = change_images(options, change, done);
  std::string text;
  for (const std::string& line : done) text += line + "\n";
  const int code = print(command, text);
  return changed ? code : report(command, changed.error());
}

Status pin(storage::ChainWriter& writer, const ImageName& image, bool pinned, std::vector<std::string>& done) {
  VARVE_TRY(writer.pin(image.number, pinned));
  done.push_back(fmt::format("{} {}", to_string(image),
                             pinned ? "is pinned: it stays until `varve rm` or `varve unpin`" : "is no longer pinned"));
  return {};
}

Status label(storage::Store& store, storage::ChainWriter& writer, const ImageName& image, const std::string& label,
             std::vector<std::string>& done) {
  for (const auto& other : images_of(store, image.chain))
    if (!label.empty() && other.label == label && other.number != image.number)
      return refused(
          "labelling", image, fmt::format("image {} has the label '{}'", other.number, label),
          fmt::format("choose another, or take it off: varve label STORE {}/{} --none", image.chain, other.number));
  VARVE_TRY(writer.set_label(image.number, label));
  done.push_back(label.empty() ? fmt::format("{} has no label", to_string(image))
                               : fmt::format("{} is labelled '{}'", to_string(image), label));
  return {};
}

Status remove(storage::Store& store, storage::ChainWriter& writer, const ImageName& image,
              std::vector<std::string>& done) {
  const auto images = images_of(store, image.chain);
  const auto found = std::ranges::find(images, image.number, &storage::ImageSummary::number);
  if (found != images.end() && found->pinned)
    return refused("removing", image, "it is pinned", "unpin it first: varve unpin STORE " + to_string(image));
  const RetentionPlan plan = plan_removal(images, {image.number}, store.chunk_bytes());
  VARVE_TRY(apply_retention(store, writer, image.chain, plan));
  for (const std::uint64_t child : plan.compact)
    done.push_back(fmt::format("{}/{} was made full: it builds on {}", image.chain, child, image.number));
  done.push_back(fmt::format("{} is removed; chain-compact gives its space back", to_string(image)));
  return {};
}

std::shared_ptr<ChangeOptions> add_images(CLI::App& app, const char* help) {
  auto options = std::make_shared<ChangeOptions>();
  add_store(app, options->store);
  app.add_option("IMAGE", options->images, help)->required();
  return options;
}

}  // namespace

Command add_pin(CLI::App& parent) {
  auto* app = parent.add_subcommand("pin", "Keep images whatever retention says.");
  auto options = add_images(*app, kImageHelp);
  add_footer(*app, "  varve pin ckpt 12\n");
  return {app, [options] {
            return run_change("varve pin", *options, [](auto&, auto& writer, auto& image, auto& done) {
              return pin(writer, image, true, done);
            });
          }};
}

Command add_unpin(CLI::App& parent) {
  auto* app = parent.add_subcommand("unpin", "Let retention drop images again.");
  auto options = add_images(*app, kImageHelp);
  add_footer(*app, "  varve unpin ckpt 12\n");
  return {app, [options] {
            return run_change("varve unpin", *options, [](auto&, auto& writer, auto& image, auto& done) {
              return pin(writer, image, false, done);
            });
          }};
}

Command add_label(CLI::App& parent) {
  auto* app = parent.add_subcommand("label", "Give an image a label, or take it off. Retention keeps labelled images.");
  auto options = std::make_shared<ChangeOptions>();
  options->images.resize(1);
  add_store(*app, options->store);
  app->add_option("IMAGE", options->images.front(), kImageHelp)->required();
  auto* text = app->add_option("LABEL", options->label, "letters, digits, '-', '_', '.'; no number");
  app->add_flag("--none", options->no_label, "take its label off")->excludes(text);
  add_footer(*app,
             "  varve label ckpt 12 before-merge\n"
             "  varve label ckpt before-merge --none\n");
  return {app, [options] {
            if (options->label.empty() && !options->no_label)
              return report("varve label",
                            fail(ErrorCode::invalid_argument, {"labelling an image refused", "there is no label",
                                                               "name one, or take it off with --none"}),
                            kUsage);
            return run_change("varve label", *options, [&](auto& store, auto& writer, auto& image, auto& done) {
              return label(store, writer, image, options->label, done);
            });
          }};
}

Command add_rm(CLI::App& parent) {
  auto* app = parent.add_subcommand("rm",
                                    "Remove images, for ever. Those that build on one are made full first, so that\n"
                                    "they stay. A pinned image is refused. chain-compact gives the space back.");
  auto options = add_images(*app, kImageHelp);
  add_footer(*app, "  varve rm ckpt 12 13 && chain-compact ckpt\n");
  return {app, [options] {
            return run_change("varve rm", *options, [](auto& store, auto& writer, auto& image, auto& done) {
              return remove(store, writer, image, done);
            });
          }};
}

}  // namespace varve::tools
