// SPDX-License-Identifier: Apache-2.0
//
// What differs between two images, told from their manifests alone: chunks are compared by name, no page data is read.
// So a difference is told to a chunk, and says that some byte of the chunk differs.
//
// Excluded bytes count as zeros, as read_region() gives them. Values, pure but for reading manifests; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/chain.h"
#include "storage/manifest.h"
#include "varve/result.h"

namespace varve {

enum class RegionDifference : std::uint8_t {
  none,
  content,    ///< both images hold it, with the same shape
  size,       ///< it has another length; `ranges` are of the part that both have
  alignment,  ///< it begins at another place of its first page, so that no chunk of one is a chunk of the other
  only_in_a,
  only_in_b,
};

struct RegionShape {
  std::uint64_t bytes = 0;
  std::uint32_t grid_offset = 0;
};

struct RegionDiff {
  std::string name;
  RegionDifference difference = RegionDifference::none;
  std::optional<RegionShape> a;            ///< empty: the image does not hold it
  std::optional<RegionShape> b;            ///< likewise
  bool other_exclusions = false;           ///< a restore leaves other bytes alone
  std::vector<storage::ByteRange> ranges;  ///< of the region: ascending, disjoint, not touching
  std::uint64_t compared_bytes = 0;        ///< the part that both have, where it could be compared
  std::uint64_t compared_chunks = 0;       ///< likewise
  std::uint64_t differing_bytes = 0;       ///< sum of `ranges`
  std::uint64_t differing_chunks = 0;      ///< likewise
};

struct ImageDiff {
  std::vector<RegionDiff> regions;  ///< all of both images, by name
  std::vector<std::string> blobs;   ///< names of the opaque values that differ, or that only one image holds
  bool identical = true;            ///< a restore of either gives the same
};

/// REQUIRES: both are of one store, and resolved.
ImageDiff diff_images(const ResolvedImage& a, const ResolvedImage& b);

}  // namespace varve
