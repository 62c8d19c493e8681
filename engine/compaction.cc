// SPDX-License-Identifier: Apache-2.0
#include "engine/compaction.h"

#include <utility>

#include "base/fault_point.h"
#include "base/try.h"

namespace varve {

Result<storage::Manifest> compacted_manifest(storage::Store& store, const ImageName& image, bool& full) {
  VARVE_TRY_ASSIGN(auto resolved, resolve_image(store, image.chain, image.number));
  full = resolved.manifest.kind == storage::ImageKind::full;
  resolved.manifest.kind = storage::ImageKind::full;
  ++resolved.manifest.revision;
  return std::move(resolved.manifest);
}

Result<Compaction> compact_image(storage::Store& store, storage::ChainWriter& writer, const ImageName& image) {
  Compaction done;
  bool full = false;
  VARVE_TRY_ASSIGN(const auto manifest, compacted_manifest(store, image, full));
  if (full) return done;
  VARVE_FAULT_POINT(compaction_merged);
  for (const auto& region : manifest.regions)
    for (const auto& run : region.runs) done.chunks += run.count;
  VARVE_TRY(writer.begin());
  VARVE_TRY_ASSIGN(const auto committed, writer.commit(manifest));
  VARVE_FAULT_POINT(compaction_committed);
  done.written = true;
  done.written_bytes = committed.written_bytes;
  return done;
}

}  // namespace varve
