// SPDX-License-Identifier: Apache-2.0
#include "tools/chain_compact/compact_command.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/compaction.h"
#include "tools/units.h"

namespace varve::tools {
namespace {

using storage::ImageSummary;
using storage::Store;

Error refused(const CompactOptions& options, std::string cause, std::string remedy) {
  return fail(ErrorCode::invalid_argument,
              {"compaction of store " + options.store.directory + " refused", std::move(cause), std::move(remedy)});
}

/// A chain is made by its first writer, not here: a name that nobody wrote under is a slip of the pen.
Status check_chain(Store& store, const CompactOptions& options) {
  const std::string& chain = options.chain;
  const auto chains = store.chains();
  if (chain.empty() || std::ranges::find(chains, chain) != chains.end()) return {};
  return fail(ErrorCode::not_found,
              {fmt::format("compaction of chain '{}' refused", chain),
               fmt::format("store {} has no such chain", options.store.directory),
               chains.empty() ? "nothing was written to it yet" : fmt::format("it has: {}", fmt::join(chains, ", "))});
}

/// The image to be made full; empty when the chain has none and none was asked for.
Result<std::optional<ImageName>> choose_image(Store& store, const CompactOptions& options) {
  VARVE_TRY(check_chain(store, options));
  std::string selector = options.image.empty() ? "latest" : options.image;
  const auto slash = selector.find('/');
  if (!options.chain.empty()) {
    if (slash == std::string::npos)
      selector = options.chain + "/" + selector;
    else if (selector.substr(0, slash) != options.chain)
      return refused(options, fmt::format("image '{}' is not of chain '{}'", options.image, options.chain),
                     "name the same chain, or leave one out");
  }
  auto image = parse_image_selector(store, selector);
  const bool nothing = !image && image.error().code() == ErrorCode::not_found && options.image.empty();
  if (nothing && images_of(store, options.chain).empty()) return std::optional<ImageName>();
  if (!image) return image.error();
  return std::optional<ImageName>(std::move(*image));
}

RetentionPlan plan(Store& store, const CompactOptions& options, const std::optional<ImageName>& image) {
  if (!image) return {};
  const auto images = images_of(store, image->chain);
  std::set<std::uint64_t> also_keep{image->number};
  return plan_retention(images, options.policy, also_keep, store.chunk_bytes());
}

storage::CollectOptions collect_options(const CompactOptions& options) {
  storage::CollectOptions collect;
  collect.spare = options.spare;
  return collect;
}

/// Chains of the store, the chosen one first.
std::vector<std::string> in_order(Store& store, const std::string& chain) {
  std::vector<std::string> chains = store.chains();
  std::stable_partition(chains.begin(), chains.end(), [&](const std::string& name) { return name == chain; });
  return chains;
}

Result<CompactResult> estimate(Store& store, const CompactOptions& options) {
  CompactResult result;
  VARVE_TRY_ASSIGN(const auto held, store.hold());
  VARVE_TRY(store.refresh());
  VARVE_TRY_ASSIGN(const auto image, choose_image(store, options));
  const RetentionPlan retention = plan(store, options, image);
  storage::Assumption assumption;
  if (image) {
    result.chain = assumption.chain = image->chain;
    std::set<std::uint64_t> compact(retention.compact.begin(), retention.compact.end());
    compact.insert(image->number);
    for (const std::uint64_t number : compact) {
      bool full = false;
      VARVE_TRY_ASSIGN(auto manifest, compacted_manifest(store, {image->chain, number}, full));
      if (full) continue;
      if (number == image->number) {
        result.compacted = image;
        for (const auto& region : manifest.regions) result.compacted_chunks += chunk_count(region, store.chunk_bytes());
        result.compacted_bytes = encode_manifest(manifest).size();
      } else {
        result.also_compacted.push_back(number);
      }
      assumption.compacted.push_back(std::move(manifest));
    }
    assumption.retired.insert(retention.drop.begin(), retention.drop.end());
    result.dropped = retention.drop;
  }
  for (const std::string& chain : in_order(store, result.chain)) {
    VARVE_TRY_ASSIGN(auto report, storage::estimate_collection(store, chain, collect_options(options), assumption));
    result.chains.push_back({chain, std::move(report), {}});
  }
  return result;
}

Status compact_chain(Store& store, storage::ChainWriter& writer, const CompactOptions& options, const ImageName& image,
                     CompactResult& result) {
  VARVE_TRY_ASSIGN(const Compaction compaction, compact_image(store, writer, image));
  if (compaction.written) {
    result.compacted = image;
    result.compacted_chunks = compaction.chunks;
    result.compacted_bytes = compaction.written_bytes;
  }
  const RetentionPlan retention = plan(store, options, image);
  VARVE_TRY(apply_retention(store, writer, image.chain, retention));
  result.also_compacted = retention.compact;
  result.dropped = retention.drop;
  return {};
}

/// Collects one chain, whose writer is ours.
Status collect_chain(Store& store, storage::ChainWriter& writer, const std::string& chain,
                     const CompactOptions& options, CompactResult& result) {
  Progress progress(fmt::format("collecting chain '{}'", chain), options.common.show_progress());
  const auto collector = storage::make_collector(store, writer, collect_options(options));
  const auto done = collector->run([&] {
    const auto& report = collector->report();
    progress.update(
        fmt::format("{} segments rewritten, {} freed", report.segments_rewritten, format_bytes(report.bytes_freed)));
    return false;
  });
  result.chains.push_back({chain, collector->report(), {}});
  if (done) return {};
  if (done.error().code() != ErrorCode::busy) return done.error();
  result.put_off = done.error();
  return {};
}

/// Other chains: what nobody writes is collected, too, since it may have been kept by what was dropped here.
Status collect_others(Store& store, const CompactOptions& options, CompactResult& result) {
  for (const std::string& chain : store.chains()) {
    if (chain == result.chain) continue;
    auto writer = store.open_chain(chain);
    if (!writer && writer.error().code() == ErrorCode::busy) {
      result.chains.push_back({chain, {}, writer.error().cause()});
      continue;
    }
    if (!writer) return writer.error();
    auto collected = collect_chain(store, **writer, chain, options, result);
    auto closed = (*writer)->close();
    if (!collected) return collected;
    if (!closed) return closed;
  }
  return {};
}

Result<CompactResult> run(Store& store, const CompactOptions& options) {
  CompactResult result;
  VARVE_TRY_ASSIGN(auto image, choose_image(store, options));
  result.chain = image ? image->chain : options.chain;
  if (!result.chain.empty()) {
    VARVE_TRY_ASSIGN(const auto writer, store.open_chain(result.chain));
    auto worked = [&]() -> Status {
      // Now that nobody else writes it: what was committed until then counts.
      VARVE_TRY_ASSIGN(image, choose_image(store, options));
      if (image) VARVE_TRY(compact_chain(store, *writer, options, *image, result));
      return collect_chain(store, *writer, result.chain, options, result);
    }();
    auto closed = writer->close();
    if (!worked) return worked.error();
    if (!closed) return closed.error();
  }
  VARVE_TRY(collect_others(store, options, result));
  return result;
}

std::string number_list(const std::vector<std::uint64_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    text += text.empty() ? "" : ", ";
    text += last == i ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[last]);
    i = last + 1;
  }
  return text;
}

std::string chain_text(const CollectedChain& one, bool dry_run) {
  const storage::CollectReport& report = one.report;
  if (!one.left_alone.empty()) return fmt::format("chain '{}': left alone: {}\n", one.chain, one.left_alone);
  std::string text;
  if (dry_run)
    text = fmt::format("chain '{}': {} in {} segments, about {} alive; about {} would be freed\n", one.chain,
                       format_bytes(report.bytes), report.segments, format_bytes(report.live_bytes),
                       format_bytes(report.planned_bytes));
  else
    text = fmt::format("chain '{}': {} freed: {} segments dropped, {} rewritten ({} written, {:.2f} for each freed)\n",
                       one.chain, format_bytes(report.net_freed()), report.segments_dropped, report.segments_rewritten,
                       format_bytes(report.bytes_rewritten), report.cost());
  for (const std::string& line : report.left_alone) text += fmt::format("  left alone: {}\n", line);
  return text;
}

}  // namespace

Result<CompactResult> compact_store(const CompactOptions& options) {
  VARVE_TRY_ASSIGN(const auto store, open_store(options.store));
  return options.dry_run ? estimate(*store, options) : run(*store, options);
}

std::string as_text(const CompactResult& result, bool dry_run) {
  const char* would = dry_run ? "would be " : "";
  std::string text;
  if (result.compacted)
    text += fmt::format("image {} {}made full: {} chunks named in {}\n", to_string(*result.compacted), would,
                        format_count(result.compacted_chunks), format_bytes(result.compacted_bytes));
  if (!result.also_compacted.empty())
    text += fmt::format("{}made full, since they build on what goes: {}\n", would, number_list(result.also_compacted));
  if (!result.dropped.empty())
    text += fmt::format("images of '{}' {}dropped: {}\n", result.chain, would, number_list(result.dropped));
  for (const CollectedChain& one : result.chains) text += chain_text(one, dry_run);
  return text.empty() ? "nothing to do\n" : text;
}

nlohmann::json as_json(const CompactResult& result, bool dry_run) {
  nlohmann::json json{{"chain", result.chain},
                      {"dry_run", dry_run},
                      {"compacted", nullptr},
                      {"also_compacted", result.also_compacted},
                      {"dropped", result.dropped},
                      {"put_off", result.put_off.has_value()},
                      {"chains", nlohmann::json::array()}};
  if (result.compacted)
    json["compacted"] = {{"image", result.compacted->number},
                         {"chunks", result.compacted_chunks},
                         {"manifest_bytes", result.compacted_bytes}};
  for (const CollectedChain& one : result.chains) {
    const storage::CollectReport& report = one.report;
    json["chains"].push_back({{"chain", one.chain},
                              {"busy", one.left_alone.empty() ? nlohmann::json() : nlohmann::json(one.left_alone)},
                              {"segments", report.segments},
                              {"bytes", report.bytes},
                              {"live_bytes", report.live_bytes},
                              {"freeable_bytes", report.planned_bytes},
                              {"segments_dropped", report.segments_dropped},
                              {"segments_rewritten", report.segments_rewritten},
                              {"bytes_freed", report.bytes_freed},
                              {"bytes_rewritten", report.bytes_rewritten},
                              {"rewritten_per_freed", report.cost()},
                              {"left_alone", report.left_alone}});
  }
  return json;
}

}  // namespace varve::tools
