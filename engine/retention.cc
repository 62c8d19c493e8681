// SPDX-License-Identifier: Apache-2.0
#include "engine/retention.h"

#include <algorithm>

#include "base/fault_point.h"
#include "base/try.h"
#include "engine/compaction.h"

namespace varve {
namespace {

constexpr std::uint64_t kManifestBytes = 4096;  // at least, with its padding

std::uint64_t full_manifest_bytes(const storage::ImageSummary& image, std::uint32_t chunk_bytes) {
  return kManifestBytes + image.region_bytes / chunk_bytes * sizeof(storage::ChunkName);
}

}  // namespace

RetentionPlan plan_retention(std::span<const storage::ImageSummary> images, const RetentionPolicy& policy,
                             const std::set<std::uint64_t>& also_keep, std::uint32_t chunk_bytes) {
  if (policy.keep == 0 || images.size() <= policy.keep) return {};
  const std::size_t older = images.size() - policy.keep;
  std::set<std::uint64_t> drop;
  std::uint64_t last_bucket = ~std::uint64_t{0};
  for (std::size_t i = 0; i < older; ++i) {
    const storage::ImageSummary& image = images[i];
    // The first that is there of each bucket: it stays the first, whatever else goes, so that the choice is stable.
    const std::uint64_t bucket = policy.keep_every == 0 ? 0 : (image.number - 1) / policy.keep_every;
    const bool chosen = policy.keep_every != 0 && bucket != last_bucket;
    last_bucket = bucket;
    if (chosen || !image.label.empty() || image.pinned || also_keep.contains(image.number)) continue;
    drop.insert(image.number);
  }
  return plan_removal(images, drop, chunk_bytes);
}

RetentionPlan plan_removal(std::span<const storage::ImageSummary> images, const std::set<std::uint64_t>& drop,
                           std::uint32_t chunk_bytes) {
  RetentionPlan plan;
  for (const storage::ImageSummary& image : images) {
    if (drop.contains(image.number)) {
      plan.drop.push_back(image.number);
      plan.drop_bytes += image.written_bytes;
    } else if (image.kind == storage::ImageKind::delta && drop.contains(image.parent)) {
      plan.compact.push_back(image.number);
      plan.compact_bytes += full_manifest_bytes(image, chunk_bytes);
    }
  }
  return plan;
}

Result<Retained> apply_retention(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                                 const RetentionPlan& plan) {
  Retained retained;
  for (const std::uint64_t number : plan.compact) {
    VARVE_TRY_ASSIGN(const auto compaction, compact_image(store, writer, {chain, number}));
    retained.compacted += compaction.written ? 1 : 0;
  }
  if (plan.drop.empty()) return retained;
  VARVE_TRY(writer.retire(plan.drop));
  VARVE_FAULT_POINT(images_retired);
  retained.dropped = plan.drop.size();
  return retained;
}

std::vector<storage::ImageSummary> images_of(storage::Store& store, std::string_view chain) {
  std::vector<storage::ImageSummary> images = store.images();
  std::erase_if(images, [&](const storage::ImageSummary& image) { return image.chain != chain; });
  return images;
}

}  // namespace varve
