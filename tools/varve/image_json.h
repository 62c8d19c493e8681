// SPDX-License-Identifier: Apache-2.0
//
// Images and records of manifests as JSON, the same in every command.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "storage/manifest.h"
#include "storage/store.h"

namespace varve::tools {

std::string kind_name(storage::ImageKind kind);
nlohmann::json image_json(const storage::ImageSummary& image);

/// What a record names, counted.
struct RunCounts {
  std::uint64_t chunks = 0;   ///< of the region
  std::uint64_t changed = 0;  ///< that the record names: zero and others
  std::uint64_t zero = 0;
};
RunCounts count_runs(const storage::RegionRecord& region, std::uint32_t chunk_bytes);
nlohmann::json region_json(const storage::RegionRecord& region, std::uint32_t chunk_bytes);

/// "rw-"
std::string protection_text(std::uint32_t protection);

}  // namespace varve::tools
