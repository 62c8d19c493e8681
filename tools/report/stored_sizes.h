// SPDX-License-Identifier: Apache-2.0
//
// What each chunk of a store takes on disk: its share of the frame that it lies in, by its length among those of the
// others. Footers say what a frame takes and which chunks it holds; how long these are, manifests tell, so that shares
// are known when the caller has been through all of them. Page data is not read. Takes 32 bytes of memory a chunk,
// about as much as the store's own index.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "storage/chunk_name.h"
#include "storage/store.h"
#include "varve/result.h"

namespace varve::tools {

class StoredSizes {
 public:
  static constexpr std::uint32_t kNobody = UINT32_MAX;

  struct Chunk {
    storage::ChunkName name;
    std::uint32_t frame = 0;         ///< in order
    std::uint32_t extent_bytes = 0;  ///< for the caller to set; 0: no manifest has named it yet
    std::uint32_t owner = kNobody;   ///< for the caller to set: whom share_out() gives what it takes
  };

  /// Reads the footers of all segments, and scans those that have none. Segments that can't be read are left out and
  /// named in unread(). `tick(done, of)` is called for each. REQUIRES: the store is held.
  static Result<StoredSizes> read(storage::Store& store, const std::function<void(std::size_t, std::size_t)>& tick);

  /// Null: in no segment that could be read. Of several copies of a chunk the first counts.
  Chunk* find(const storage::ChunkName& name);
  std::size_t chunks() const { return chunks_.size(); }
  /// Of each chunk that has an owner, what it takes on disk. Chunks that nobody named count as whole ones.
  void share_out(std::uint32_t chunk_bytes,
                 const std::function<void(std::uint32_t owner, double stored_bytes)>& give) const;
  const std::vector<std::string>& unread() const { return unread_; }

 private:
  struct Frame {
    std::uint32_t bytes = 0;   // on disk
    std::uint32_t chunks = 0;  // also those that an earlier frame holds
  };
  std::vector<Frame> frames_;
  std::vector<Chunk> chunks_;  // by name, each once
  std::vector<std::string> unread_;
};

}  // namespace varve::tools
