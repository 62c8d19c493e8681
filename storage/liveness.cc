// SPDX-License-Identifier: Apache-2.0
#include "storage/liveness.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/try.h"

namespace varve::storage {
namespace {

Error cannot_tell(const Io& io, const Manifest& manifest, std::string cause) {
  return fail(ErrorCode::corruption,
              {fmt::format("collecting garbage of store {} refused", io.directory()),
               fmt::format("image {}/{} {}", manifest.chain, manifest.number, cause),
               fmt::format("run `varve verify`, and `varve rm` on the images that it calls damaged")});
}

}  // namespace

Result<bool> Liveness::mark(const Pause& pause) { return mark(pause, Assumption{}); }

Result<bool> Liveness::mark(const Pause& pause, const Assumption& assumption) {
  const std::string& chain = assumption.chain;
  std::set<std::uint64_t> skipped = assumption.retired;
  for (const Manifest& manifest : assumption.compacted) skipped.insert(manifest.number);
  const std::vector<ListedImage> images = store_.listed_images();
  Listed listed;
  for (const ListedImage& image : images)
    if (image.chain != chain || !assumption.retired.contains(image.summary.number))
      listed[image.chain].insert(image.summary.number);
  for (const ListedImage& image : images) {
    if (marked_.contains(key(image)) || (image.chain == chain && skipped.contains(image.summary.number))) continue;
    if (pause && pause()) return false;
    VARVE_TRY_ASSIGN(const Manifest manifest, store_.read_listed(image));
    VARVE_TRY(mark_manifest(manifest, listed));
    counts_[image.segment].manifest_bytes += image.summary.begin + image.summary.written_bytes - image.summary.offset;
    marked_.insert(key(image));
  }
  for (const Manifest& manifest : assumption.compacted) VARVE_TRY(mark_manifest(manifest, listed));
  frames_.close_files();  // what is collected gives its space back
  return true;
}

void Liveness::keep(const ChunkName& name, const ChunkPlace& place) {
  keepers_.insert(name, place);
  ++counts_[place.segment].chunks;
}

Status Liveness::mark_manifest(const Manifest& manifest, const Listed& listed) {
  std::vector<Difference> differences;
  const auto of_chain = listed.find(manifest.chain);
  for (const RegionRecord& region : manifest.regions) {
    if (!region.complete && (of_chain == listed.end() || !of_chain->second.contains(manifest.parent)))
      return cannot_tell(store_.io(), manifest, fmt::format("builds on image {}, which is not there", manifest.parent));
    for (const ChunkName& name : region.names) {
      if (keepers_.find(name)) continue;
      const auto place = store_.find_keeper(name, false);
      if (!place) return not_there(manifest, region, name);
      keep(name, *place);
      if (place->difference) differences.push_back({*place, name});
    }
  }
  return mark_bases(manifest, std::move(differences));
}

Result<ChunkName> Liveness::base_of(const Manifest& manifest, const Difference& difference) {
  auto base = frames_.base_of(difference.name, difference.place, {});
  if (base || !is_damage(base.error())) return base;
  return cannot_tell(store_.io(), manifest,
                     fmt::format("needs chunk {}, which can't be read: {}: {}", to_string(difference.name),
                                 base.error().what(), base.error().cause()));
}

Status Liveness::mark_bases(const Manifest& manifest, std::vector<Difference> differences) {
  std::ranges::sort(differences);  // each frame is read once
  for (const Difference& difference : differences) {
    VARVE_TRY_ASSIGN(const ChunkName base, base_of(manifest, difference));
    if (base == kNoBase || keepers_.find(base, [](const ChunkPlace& place) { return !place.difference; })) continue;
    const auto place = store_.find_keeper(base, true);
    if (!place)
      return cannot_tell(store_.io(), manifest,
                         fmt::format("needs chunk {}, a difference to chunk {}, which no readable segment holds",
                                     to_string(difference.name), to_string(base)));
    keep(base, *place);
  }
  return {};
}

Error Liveness::not_there(const Manifest& manifest, const RegionRecord& region, const ChunkName& name) const {
  return cannot_tell(
      store_.io(), manifest,
      fmt::format("needs chunk {} for region '{}', which no readable segment holds", to_string(name), region.name));
}

Result<std::set<std::uint32_t>> Liveness::needed_by_newer(const std::set<std::uint32_t>& leaving) {
  std::set<std::uint32_t> needed;
  for (const ListedImage& image : store_.listed_images()) {
    if (leaving.contains(image.segment)) needed.insert(image.segment);  // its manifest was not moved
    if (marked_.contains(key(image))) continue;
    VARVE_TRY_ASSIGN(const Manifest manifest, store_.read_listed(image));
    VARVE_TRY(add_newer(manifest, leaving, needed));
  }
  frames_.close_files();
  return needed;
}

Status Liveness::add_newer(const Manifest& manifest, const std::set<std::uint32_t>& leaving,
                           std::set<std::uint32_t>& needed) {
  for (const RegionRecord& region : manifest.regions) {
    for (const ChunkName& name : region.names) {
      for (const std::uint32_t ordinal : store_.only_in(name, leaving, false)) needed.insert(ordinal);
      if (store_.stays_plain(name, leaving)) continue;
      // Whichever of its places it will be read from, the base is to be there.
      for (const ChunkPlace& place : store_.places(name)) {
        if (!place.difference) continue;
        VARVE_TRY_ASSIGN(const ChunkName base, base_of(manifest, {place, name}));
        if (base == kNoBase) continue;
        for (const std::uint32_t ordinal : store_.only_in(base, leaving, true)) needed.insert(ordinal);
      }
    }
  }
  return {};
}

bool Liveness::alive(const ChunkName& name, const ChunkPlace& place) const {
  return keepers_.find(name, [&](const ChunkPlace& keeper) { return keeper == place; }).has_value();
}

Liveness::Count Liveness::in(std::uint32_t ordinal) const {
  const auto at = counts_.find(ordinal);
  return at == counts_.end() ? Count{} : at->second;
}

}  // namespace varve::storage
