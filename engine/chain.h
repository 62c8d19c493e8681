// SPDX-License-Identifier: Apache-2.0
//
// Chains: which image a selector means, and what an image holds once its ancestors are counted in.
//
//     image 1 (full)      A B C D        an image's chunk is the newest record among the image and its ancestors;
//     image 2 (delta)     . B' . .       the walk follows parent links, not numbers, and ends for each region at the
//     image 4 (delta)     . . . D'       first record that is complete
//     resolve(4)          A B' C D'
//
// Reads manifests only, never page data. Any thread; the store is only read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/manifest.h"
#include "storage/store.h"
#include "varve/result.h"

namespace varve {

struct ImageName {
  std::string chain;
  std::uint64_t number = 0;
  friend bool operator==(const ImageName&, const ImageName&) = default;
};

/// "main/7"
std::string to_string(const ImageName& image);

/// What [CHAIN/]NUMBER, [CHAIN/]LABEL or [CHAIN/]latest means in this store. Where the chain is left out:
/// `default_chain` if it has images, else the only chain that the store has. Errors: `not_found` (no such chain, image
/// or label, naming what there is), `invalid_argument` (malformed; several chains and none named).
Result<ImageName> parse_image_selector(storage::Store& store, std::string_view selector,
                                       std::string_view default_chain = "main");

struct ResolvedImage {
  /// As a full image would say it: every region complete, runs and names for all chunks that are not wholly excluded.
  /// Chain, number, parent, kind, label, time and blobs are those of the image itself.
  storage::Manifest manifest;
  /// The image and the ancestors that were needed, newest first. One for a full image.
  std::vector<std::uint64_t> ancestry;
};

/// Errors: `not_found` (no such image), `corruption` (a damaged manifest, a missing parent, a cycle, a region whose
/// records do not fit together), naming image, ancestor and region.
Result<ResolvedImage> resolve_image(storage::Store& store, std::string_view chain, std::uint64_t number);

/// One chunk of a complete record. `name` is meaningless for a zero chunk.
struct ResolvedChunk {
  std::uint64_t index = 0;
  storage::RunKind kind = storage::RunKind::named;
  storage::ChunkName name;
  storage::ByteRange extent;  ///< of the region
};
/// Calls back for each chunk that the record's runs name, ascending.
void for_each_chunk(const storage::RegionRecord& record, std::uint32_t chunk_bytes,
                    const std::function<void(const ResolvedChunk&)>& visit);

/// Fills `content` (the region's bytes from `offset` on) from the store. Excluded bytes and those of wholly excluded
/// chunks become zero. REQUIRES: the record is complete, the range within it.
Status read_region(storage::Store& store, const storage::RegionRecord& record, std::uint64_t offset,
                   std::span<std::byte> content);

}  // namespace varve
