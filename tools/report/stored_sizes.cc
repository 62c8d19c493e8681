// SPDX-License-Identifier: Apache-2.0
#include "tools/report/stored_sizes.h"

#include <algorithm>

#include "base/try.h"
#include "storage/inventory.h"
#include "storage/segment_load.h"
#include "storage/store_file.h"

namespace varve::tools {

Result<StoredSizes> StoredSizes::read(storage::Store& store,
                                      const std::function<void(std::size_t, std::size_t)>& tick) {
  StoredSizes sizes;
  VARVE_TRY_ASSIGN(const auto identity, storage::read_store_file(store.io()));
  const auto inventory = storage::read_inventory(store.io(), identity.id);  // damaged: it is done without
  VARVE_TRY_ASSIGN(const auto names, storage::list_segments(store.io()));
  for (std::size_t i = 0; i < names.size(); ++i) {
    tick(i, names.size());
    // One at a time, since each brings the names of all its chunks.
    const auto loaded =
        storage::load_segments(store.io(), identity, inventory ? &inventory.value() : nullptr, {names[i]});
    if (!loaded) {
      sizes.unread_.push_back(loaded.error().message());
      continue;
    }
    for (const auto& segment : *loaded) {
      if (segment.unreadable) sizes.unread_.push_back(storage::to_string(segment.name) + " can't be read");
      std::size_t next = 0;
      for (const auto& frame : segment.content.frames) {
        const auto number = static_cast<std::uint32_t>(sizes.frames_.size());
        sizes.frames_.push_back({.bytes = frame.bytes, .chunks = frame.chunks});
        for (std::uint32_t slot = 0; slot < frame.chunks; ++slot)
          sizes.chunks_.push_back({.name = segment.content.names[next++], .frame = number});
      }
    }
  }
  const auto by_name = [](const Chunk& a, const Chunk& b) { return a.name < b.name; };
  std::stable_sort(sizes.chunks_.begin(), sizes.chunks_.end(), by_name);
  const auto same = [](const Chunk& a, const Chunk& b) { return a.name == b.name; };
  sizes.chunks_.erase(std::unique(sizes.chunks_.begin(), sizes.chunks_.end(), same), sizes.chunks_.end());
  return sizes;
}

void StoredSizes::share_out(std::uint32_t chunk_bytes, const std::function<void(std::uint32_t, double)>& give) const {
  std::vector<std::uint64_t> raw_bytes(frames_.size());
  for (std::size_t i = 0; i < frames_.size(); ++i) raw_bytes[i] = std::uint64_t{frames_[i].chunks} * chunk_bytes;
  for (const auto& chunk : chunks_)
    if (chunk.extent_bytes != 0) raw_bytes[chunk.frame] -= chunk_bytes - std::min(chunk.extent_bytes, chunk_bytes);
  for (const auto& chunk : chunks_) {
    if (chunk.owner == kNobody) continue;
    const double share = static_cast<double>(chunk.extent_bytes) / static_cast<double>(raw_bytes[chunk.frame]);
    give(chunk.owner, share * frames_[chunk.frame].bytes);
  }
}

StoredSizes::Chunk* StoredSizes::find(const storage::ChunkName& name) {
  const auto at =
      std::lower_bound(chunks_.begin(), chunks_.end(), name,
                       [](const Chunk& chunk, const storage::ChunkName& wanted) { return chunk.name < wanted; });
  return at != chunks_.end() && at->name == name ? &*at : nullptr;
}

}  // namespace varve::tools
