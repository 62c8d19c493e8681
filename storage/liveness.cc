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
  return true;
}

Status Liveness::mark_manifest(const Manifest& manifest, const Listed& listed) {
  const auto of_chain = listed.find(manifest.chain);
  for (const RegionRecord& region : manifest.regions) {
    if (!region.complete && (of_chain == listed.end() || !of_chain->second.contains(manifest.parent)))
      return cannot_tell(store_.io(), manifest, fmt::format("builds on image {}, which is not there", manifest.parent));
    for (const ChunkName& name : region.names) {
      if (keepers_.find(name)) continue;
      const auto place = store_.find_keeper(name);
      if (!place) return not_there(manifest, region, name);
      keepers_.insert(name, *place);
      ++counts_[place->segment].chunks;
    }
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
    for (const RegionRecord& region : manifest.regions)
      for (const ChunkName& name : region.names)
        for (const std::uint32_t ordinal : store_.only_in(name, leaving)) needed.insert(ordinal);
  }
  return needed;
}

bool Liveness::alive(const ChunkName& name, const ChunkPlace& place) const {
  const auto keeper = keepers_.find(name);
  return keeper && *keeper == place;
}

Liveness::Count Liveness::in(std::uint32_t ordinal) const {
  const auto at = counts_.find(ordinal);
  return at == counts_.end() ? Count{} : at->second;
}

}  // namespace varve::storage
