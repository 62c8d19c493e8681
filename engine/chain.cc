// SPDX-License-Identifier: Apache-2.0
#include "engine/chain.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "base/try.h"
#include "engine/chunk_grid.h"
#include "engine/name_table.h"

namespace varve {
namespace {

using storage::ImageSummary;
using storage::RegionRecord;

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string quote_all(const std::set<std::string>& names) {
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "'" : ", '") + name + "'";
  return all;
}

/// The chain that a selector without one means.
Result<std::string> implied_chain(storage::Store& store, const std::set<std::string>& chains, std::string_view selector,
                                  std::string_view default_chain) {
  if (chains.contains(std::string(default_chain))) return std::string(default_chain);
  if (chains.size() == 1) return *chains.begin();
  const auto what = fmt::format("look-up of image '{}' in store {} failed", selector, store.io().directory());
  if (chains.empty())
    return fail(ErrorCode::not_found,
                {what, "the store holds no image", "make a checkpoint first, or check the path of the store"});
  return fail(ErrorCode::invalid_argument, {what, "the store has several chains: " + quote_all(chains),
                                            "name one of them: CHAIN/" + std::string(selector)});
}

Result<ImageName> find_image(storage::Store& store, const std::vector<ImageSummary>& of_chain, const std::string& chain,
                             std::string_view wanted, const std::string& what) {
  const auto listed = [&] {
    return fmt::format("choose among images {} to {} of the chain (varve list shows them)", of_chain.front().number,
                       of_chain.back().number);
  };
  if (wanted == "latest") {
    VARVE_TRY_ASSIGN(const auto newest, store.newest_image(chain));  // an error where damage hides a newer one
    return ImageName{chain, newest.number};
  }
  if (is_number(wanted)) {
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(wanted.data(), wanted.data() + wanted.size(), number);
    for (const auto& image : of_chain)
      if (parsed.ec == std::errc() && image.number == number) return ImageName{chain, number};
    return fail(ErrorCode::not_found, {what, fmt::format("chain '{}' has no image {}", chain, wanted), listed()});
  }
  for (const auto& image : of_chain)
    if (image.label == wanted) return ImageName{chain, image.number};
  return fail(ErrorCode::not_found,
              {what, fmt::format("chain '{}' has no image labelled '{}'", chain, wanted), listed()});
}

/// A region on its way to being complete.
struct Unfinished {
  RegionRecord* record;
  NameTable names;
};

Error cannot_resolve(const ImageName& image, std::string cause) {
  return fail(ErrorCode::corruption,
              {fmt::format("restore of image {} refused", to_string(image)), std::move(cause),
               "restore an image that does not need it; varve verify lists those that are good"});
}

Result<storage::Manifest> read_ancestor(storage::Store& store, const ImageName& image, std::uint64_t number) {
  auto manifest = store.read_manifest(image.chain, number);
  if (!manifest && manifest.error().code() == ErrorCode::not_found)
    return cannot_resolve(image, fmt::format("its ancestor {} is missing from the store", number));
  return manifest;
}

/// Takes from an ancestor's record what is unknown as yet; true when that completes the region.
Result<bool> merge(const ImageName& image, const storage::Manifest& ancestor, Unfinished& region) {
  const auto found = std::find_if(ancestor.regions.begin(), ancestor.regions.end(),
                                  [&](const RegionRecord& record) { return record.name == region.record->name; });
  if (found == ancestor.regions.end())
    return cannot_resolve(image, fmt::format("region '{}' builds on image {}, which does not hold it",
                                             region.record->name, ancestor.number));
  if (found->bytes != region.record->bytes || found->grid_offset != region.record->grid_offset)
    return cannot_resolve(image, fmt::format("region '{}' builds on image {}, where it has another length or alignment",
                                             region.record->name, ancestor.number));
  region.names.fill_unknown(*found);
  return found->complete;
}

/// Whether a complete record says already what its image holds, which most do: then nothing is to be made of it.
bool is_finished(const RegionRecord& record, std::uint32_t chunk_bytes) {
  if (!record.complete || !ChunkGrid(record, chunk_bytes).inside(record.excluded).empty()) return false;
  std::uint64_t next = 0;
  for (const auto& run : record.runs) {
    if (run.first != next) return false;
    next += run.count;
  }
  return next == storage::chunk_count(record, chunk_bytes) &&
         std::ranges::none_of(record.names, [](const auto& name) { return NameTable::reserved(name); });
}

Status finish(const ImageName& image, std::uint32_t chunk_bytes, Unfinished& region) {
  const ChunkGrid grid(*region.record, chunk_bytes);
  const auto absent = grid.inside(region.record->excluded);
  std::uint64_t unknown = 0;
  if (!region.names.write_to(*region.record, absent, nullptr, unknown))
    return cannot_resolve(image,
                          fmt::format("no ancestor holds chunk {} of region '{}'", unknown, region.record->name));
  region.record->complete = true;
  return {};
}

}  // namespace

std::string to_string(const ImageName& image) { return fmt::format("{}/{}", image.chain, image.number); }

Result<ImageName> parse_image_selector(storage::Store& store, std::string_view selector,
                                       std::string_view default_chain) {
  const auto what = fmt::format("look-up of image '{}' in store {} failed", selector, store.io().directory());
  const auto slash = selector.find('/');
  const auto wanted = slash == std::string_view::npos ? selector : selector.substr(slash + 1);
  const bool label = wanted != "latest" && !is_number(wanted);
  if (wanted.empty() || slash == 0 || (label && !storage::check_label(wanted)))
    return fail(ErrorCode::invalid_argument,
                {what, "this names no image", "write [CHAIN/]NUMBER, [CHAIN/]LABEL or [CHAIN/]latest"});
  const auto all = store.images();
  std::set<std::string> chains;
  for (const auto& image : all) chains.insert(image.chain);

  std::string chain;
  if (slash == std::string_view::npos) {
    VARVE_TRY_ASSIGN(chain, implied_chain(store, chains, selector, default_chain));
  } else {
    chain = selector.substr(0, slash);
    if (!chains.contains(chain))
      return fail(ErrorCode::not_found, {what, fmt::format("the store has no chain '{}'", chain),
                                         chains.empty() ? "check the path of the store: it holds no image"
                                                        : "choose among " + quote_all(chains)});
  }
  std::vector<ImageSummary> of_chain;
  std::copy_if(all.begin(), all.end(), std::back_inserter(of_chain),
               [&](const ImageSummary& image) { return image.chain == chain; });
  return find_image(store, of_chain, chain, wanted, what);
}

Result<ResolvedImage> resolve_image(storage::Store& store, std::string_view chain, std::uint64_t number) {
  const ImageName image{std::string(chain), number};
  VARVE_TRY_ASSIGN(auto head, store.read_manifest(chain, number));
  ResolvedImage resolved{std::move(head), {number}};
  auto& manifest = resolved.manifest;

  std::vector<Unfinished> unfinished;
  std::vector<Unfinished> finished;
  for (auto& record : manifest.regions) {
    if (is_finished(record, manifest.chunk_bytes)) continue;
    Unfinished region{&record, NameTable(storage::chunk_count(record, manifest.chunk_bytes))};
    region.names.overwrite(record);
    (record.complete ? finished : unfinished).push_back(std::move(region));
  }
  std::set<std::uint64_t> seen{number};
  std::uint64_t next = manifest.parent;
  while (!unfinished.empty()) {
    if (next == 0)
      return cannot_resolve(image, fmt::format("region '{}' is a delta, and image {} has no parent",
                                               unfinished.front().record->name, resolved.ancestry.back()));
    if (!seen.insert(next).second)
      return cannot_resolve(image, fmt::format("its ancestors form a cycle at image {}", next));
    VARVE_TRY_ASSIGN(const auto ancestor, read_ancestor(store, image, next));
    resolved.ancestry.push_back(next);
    next = ancestor.parent;
    std::vector<Unfinished> still;
    for (auto& region : unfinished) {
      VARVE_TRY_ASSIGN(const bool complete, merge(image, ancestor, region));
      (complete ? finished : still).push_back(std::move(region));
    }
    unfinished = std::move(still);
  }
  for (auto& region : finished) VARVE_TRY(finish(image, manifest.chunk_bytes, region));
  return resolved;
}

void for_each_chunk(const RegionRecord& record, std::uint32_t chunk_bytes,
                    const std::function<void(const ResolvedChunk&)>& visit) {
  std::size_t next_name = 0;
  for (const auto& run : record.runs)
    for (std::uint64_t index = run.first; index < run.first + run.count; ++index) {
      ResolvedChunk chunk{index, run.kind, {}, storage::chunk_extent(record, chunk_bytes, index)};
      if (run.kind == storage::RunKind::named) chunk.name = record.names[next_name++];
      visit(chunk);
    }
}

Status read_region(storage::Store& store, const RegionRecord& record, std::uint64_t offset,
                   std::span<std::byte> content) {
  VARVE_CHECK(record.complete && offset <= record.bytes && content.size() <= record.bytes - offset);
  if (content.empty()) return {};
  std::memset(content.data(), 0, content.size());
  const std::uint64_t end = offset + content.size();
  std::vector<storage::ChunkRequest> requests;
  for_each_chunk(record, store.chunk_bytes(), [&](const ResolvedChunk& chunk) {
    const auto& extent = chunk.extent;
    if (chunk.kind != storage::RunKind::named || extent.offset >= end || extent.offset + extent.bytes <= offset) return;
    requests.push_back({chunk.name, static_cast<std::uint32_t>(extent.bytes), extent.offset});
  });
  VARVE_TRY(
      store.read_chunks(requests, storage::kAllProcessors, [&](std::uint64_t at, std::span<const std::byte> chunk) {
        const auto begin = std::max(at, offset);
        const auto stop = std::min(at + chunk.size(), end);
        std::memcpy(content.data() + (begin - offset), chunk.data() + (begin - at), stop - begin);
      }));
  for (const auto& range : record.excluded) {
    const auto begin = std::max(range.offset, offset);
    const auto stop = std::min(range.offset + range.bytes, end);
    if (begin < stop) std::memset(content.data() + (begin - offset), 0, stop - begin);
  }
  return {};
}

}  // namespace varve
