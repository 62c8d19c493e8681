// SPDX-License-Identifier: Apache-2.0
//
// Liveness: which stored chunks the listed images of all chains need, and at which of its places each is kept. A chunk
// that is kept in a difference keeps its base alive, in a frame that is none: which one that is, such frames say, and
// only they are read.
//
// Memory: some 30 bytes for each chunk that is alive, besides the manifest at hand.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "storage/chunk_index.h"
#include "storage/store_implementation.h"

namespace varve::storage {

/// "Go on with it later": asked between small steps.
using Pause = std::function<bool()>;

/// What a collection would find if this had been done before: for estimates.
struct Assumption {
  std::string chain = {};
  std::set<std::uint64_t> retired = {};  ///< numbers of the chain
  std::vector<Manifest> compacted = {};  ///< images of the chain, as they would be
};

class Liveness {
 public:
  explicit Liveness(StoreImplementation& store) : store_(store), frames_(store) {}

  /// Marks what the listed images that were not marked yet need. False: paused. Errors: `corruption` when an image
  /// can't be read or needs what is not there. REQUIRES: the store's byte is held.
  Result<bool> mark(const Pause& pause);
  /// The same as if something had been done.
  Result<bool> mark(const Pause& pause, const Assumption& assumption);
  /// Segments among `leaving` that images need which were listed since mark(). REQUIRES: likewise.
  Result<std::set<std::uint32_t>> needed_by_newer(const std::set<std::uint32_t>& leaving);

  bool alive(const ChunkName& name, const ChunkPlace& place) const;
  /// Of a segment: its chunks and bytes of manifests that are alive.
  struct Count {
    std::uint64_t chunks = 0;
    std::uint64_t manifest_bytes = 0;
  };
  Count in(std::uint32_t ordinal) const;

 private:
  using Key = std::tuple<std::string, std::uint64_t, std::uint64_t>;  // chain, number, revision
  static Key key(const ListedImage& image) { return {image.chain, image.summary.number, image.summary.revision}; }
  using Listed = std::map<std::string, std::set<std::uint64_t>, std::less<>>;

  struct Difference {
    ChunkPlace place;
    ChunkName name;
    friend auto operator<=>(const Difference&, const Difference&) = default;
  };

  Status mark_manifest(const Manifest& manifest, const Listed& listed);
  Status mark_bases(const Manifest& manifest, std::vector<Difference> differences);
  Status add_newer(const Manifest& manifest, const std::set<std::uint32_t>& leaving, std::set<std::uint32_t>& needed);
  /// kNoBase: there is none.
  Result<ChunkName> base_of(const Manifest& manifest, const Difference& difference);
  void keep(const ChunkName& name, const ChunkPlace& place);
  Error not_there(const Manifest& manifest, const RegionRecord& region, const ChunkName& name) const;

  StoreImplementation& store_;
  StoredFrames frames_;
  ChunkIndex keepers_;  // two places of a chunk that is also a base, and else kept in a difference
  std::map<std::uint32_t, Count> counts_;
  std::set<Key> marked_;
};

}  // namespace varve::storage
