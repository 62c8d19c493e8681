// SPDX-License-Identifier: Apache-2.0
//
// What each chunk of a store takes on disk: its share of the frame that it lies in, by the segments' footers. Page data
// is not read. Takes 24 bytes of memory a chunk, about as much as the store's own index.
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
  struct Chunk {
    storage::ChunkName name;
    float bytes = 0;
    bool seen = false;  ///< free for the caller
  };

  /// Reads the footers of all segments, and scans those that have none. Segments that can't be read are left out and
  /// named in unread(). `tick(done, of)` is called for each. REQUIRES: the store is held.
  static Result<StoredSizes> read(storage::Store& store, const std::function<void(std::size_t, std::size_t)>& tick);

  /// Null: in no segment that could be read. Of several copies of a chunk the first counts.
  Chunk* find(const storage::ChunkName& name);
  std::size_t chunks() const { return chunks_.size(); }
  const std::vector<std::string>& unread() const { return unread_; }

 private:
  std::vector<Chunk> chunks_;  // by name, each once
  std::vector<std::string> unread_;
};

}  // namespace varve::tools
