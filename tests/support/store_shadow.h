// SPDX-License-Identifier: Apache-2.0
//
// What tests of the store write and read: regions in plain memory, checkpointed chunk by chunk as an engine would, and
// restored through the parents' manifests. No tracking: everything is compared with the last committed state.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "storage/store.h"

namespace varve::test {

struct ShadowRegion {
  std::vector<std::byte> content;
  std::uint32_t grid_offset = 0;
  std::uint32_t element_bytes = 0;
  /// memcmp(): a vector of bytes compares one by one, and tests compare little else.
  friend bool operator==(const ShadowRegion& one, const ShadowRegion& other) {
    return one.grid_offset == other.grid_offset && one.element_bytes == other.element_bytes &&
           one.content.size() == other.content.size() &&
           (one.content.empty() || std::memcmp(one.content.data(), other.content.data(), one.content.size()) == 0);
  }
};
/// The state of a program: regions by name.
using ShadowMemory = std::map<std::string, ShadowRegion>;

/// Chunks [first, first + count) of a region that differ from `before` (null: all), as runs and names; each new one is
/// added to the image that the writer has begun.
Status add_region(storage::Store& store, storage::ChainWriter& writer, const std::string& name, const ShadowRegion& now,
                  const ShadowRegion* before, storage::RegionRecord& record);

/// Begins, adds, commits one image of `memory`: full when `before` is null, else a delta on image `parent`.
Result<storage::Committed> checkpoint(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                                      std::uint64_t number, const ShadowMemory& memory, const ShadowMemory* before,
                                      std::uint64_t parent, const std::string& label = "");
/// The manifest of it, with every chunk added, not committed.
Result<storage::Manifest> add_image(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                                    std::uint64_t number, const ShadowMemory& memory, const ShadowMemory* before,
                                    std::uint64_t parent, const std::string& label = "");

/// Builds the memory of an image from the store.
Result<ShadowMemory> restore(storage::Store& store, const std::string& chain, std::uint64_t number);

/// Seeded bytes that do not compress.
std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed);

}  // namespace varve::test
