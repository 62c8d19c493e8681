// SPDX-License-Identifier: Apache-2.0
//
// varve export: the bytes of a region, as they were at the cut, to standard output. Every chunk is checked before its
// bytes leave; memory is bounded by one window.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "engine/chain.h"
#include "engine/fallback.h"
#include "tools/units.h"
#include "tools/varve/commands.h"

namespace varve::tools {
namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{32} << 20;

struct ExportOptions {
  CommonOptions common;
  StoreArgument store;
  std::string image;
  std::string region;
  bool fallback = false;
};

Status write_all(std::span<const std::byte> bytes, std::uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t written = write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return os_error(fmt::format("write to standard output at byte {} failed", at), errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    at += static_cast<std::uint64_t>(written);
  }
  return {};
}

Result<const storage::RegionRecord*> find_region(const storage::Manifest& manifest, const ExportOptions& options) {
  std::string names;
  for (const auto& region : manifest.regions) {
    if (region.name == options.region) return &region;
    names += (names.empty() ? "" : ", ") + region.name;
  }
  return fail(ErrorCode::not_found,
              {fmt::format("export of region '{}' failed", options.region),
               fmt::format("image {}/{} has no such region", manifest.chain, manifest.number),
               names.empty() ? "choose another image: this one has no regions" : "choose one of: " + names});
}

/// Hands the region to `take`, window by window.
Status read_whole(storage::Store& store, const storage::RegionRecord& region, std::string_view action,
                  const ExportOptions& options,
                  const std::function<Status(std::span<const std::byte>, std::uint64_t)>& take) {
  Progress progress(fmt::format("{} '{}'", action, region.name), options.common.show_progress());
  std::vector<std::byte> window(std::min(region.bytes, kWindowBytes));
  for (std::uint64_t at = 0; at < region.bytes; at += window.size()) {
    const std::span<std::byte> part(window.data(), std::min<std::uint64_t>(window.size(), region.bytes - at));
    VARVE_TRY(read_region(store, region, at, part));
    VARVE_TRY(take(part, at));
    progress.update(at + part.size(), region.bytes, "bytes");
  }
  return {};
}

/// The image that was asked for, or with --fallback the newest older one whose region can be read to its end.
Result<ResolvedImage> choose_image(storage::Store& store, const ExportOptions& options) {
  Fallback fallback(store, "main");
  auto name = options.fallback ? fallback.begin(options.image) : parse_image_selector(store, options.image);
  for (;;) {
    if (!name) return name.error();
    auto resolved = resolve_image(store, name->chain, name->number);
    const auto whole = [&]() -> Status {
      if (!resolved) return resolved.error();
      if (!options.fallback) return {};
      VARVE_TRY_ASSIGN(const storage::RegionRecord* region, find_region(resolved->manifest, options));
      return read_whole(store, *region, "checking", options, [](auto, auto) { return Status(); });
    }();
    if (whole) return resolved;
    if (!options.fallback || !is_lost(whole.error())) return whole.error();
    name = fallback.skip(*name, whole.error());
  }
}

Status export_region(storage::Store& store, const ExportOptions& options) {
  VARVE_TRY_ASSIGN(const auto held, store.hold());  // what is chosen now stays until it is out
  VARVE_TRY(store.refresh());
  VARVE_TRY_ASSIGN(const ResolvedImage resolved, choose_image(store, options));
  VARVE_TRY_ASSIGN(const storage::RegionRecord* region, find_region(resolved.manifest, options));
  if (options.fallback)
    fmt::print(stderr, "varve export: image {}/{}\n", resolved.manifest.chain, resolved.manifest.number);
  for (const auto& range : region->excluded)
    fmt::print(stderr, "varve export: bytes {} to {} were excluded from the image: zeros stand there\n", range.offset,
               range.offset + range.bytes);
  return read_whole(store, *region, "exporting", options, write_all);
}

int run_export(const ExportOptions& options) {
  if (isatty(STDOUT_FILENO) == 1)
    return report(
        "varve export",
        fail(ErrorCode::invalid_argument, {fmt::format("export of region '{}' refused", options.region),
                                           "standard output is a terminal, and the bytes are not text",
                                           fmt::format("redirect them: varve export {} {} {} > FILE",
                                                       options.store.directory, options.image, options.region)}),
        kUsage);
  auto store = open_store(options.store);
  if (!store) return report("varve export", store.error());
  if (auto ok = export_region(**store, options); !ok) return report("varve export", ok.error());
  return kGood;
}

}  // namespace

Command add_export(CLI::App& parent) {
  auto options = std::make_shared<ExportOptions>();
  auto* app = parent.add_subcommand("export",
                                    "Write the bytes of a region, as the image has them, to standard output.\n"
                                    "Everything is checked; what comes out before an error is good.");
  add_store(*app, options->store);
  app->add_option("IMAGE", options->image, kImageHelp)->required();
  app->add_option("REGION", options->region, "name of the region ('varve show' lists them)")->required();
  app->add_flag("--fallback", options->fallback,
                "where the image is damaged, take the newest older one whose region is whole; reads it twice");
  app->add_flag("--progress", options->common.progress, "show progress even when standard error is no terminal");
  add_footer(*app,
             "  varve export ckpt latest grid > grid.raw\n"
             "  varve export ckpt main/7 grid | sha256sum\n"
             "  varve export --fallback ckpt latest grid > grid.raw\n");
  return {app, [options] { return run_export(*options); }};
}

}  // namespace varve::tools
