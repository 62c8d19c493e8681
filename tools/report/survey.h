// SPDX-License-Identifier: Apache-2.0
//
// What a store's manifests tell about its history: the images of each chain, what each changed, what of that was new
// content, known content or zeros, and how well it packed, by region. Page data is not read, so that damage in it is
// known only to those who verified (SurveyOptions::damaged).
//
// Threads: one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/chain.h"
#include "storage/store.h"
#include "tools/report/change_map.h"

namespace varve::tools {

/// Of chunks. An image's add up to what it changed, a region's to what all images changed in it.
struct ChangeCounts {
  std::uint64_t changed_chunks = 0;
  std::uint64_t changed_bytes = 0;
  std::uint64_t zero_chunks = 0;
  std::uint64_t known_chunks = 0;  ///< content that an earlier image, or an earlier place of this one, named already
  std::uint64_t new_chunks = 0;    ///< content that no earlier image named: of any chain, by time
  std::uint64_t new_bytes = 0;
  double stored_bytes = 0;  ///< on disk, for the new ones: their shares of frames

  void add(const ChangeCounts& other);
  nlohmann::json json() const;
};

struct SurveyedImage {
  storage::ImageSummary summary;
  std::string problem;  ///< empty: nothing is known to be damaged
  ChangeCounts counts;
  std::size_t regions = 0;
};

struct SurveyedRegion {
  std::uint64_t bytes = 0;  ///< in the newest image that holds it
  std::uint32_t element_bytes = 0;
  std::uint64_t images = 0;  ///< that hold it
  ChangeCounts counts;
};

struct SurveyedChain {
  std::string name;
  std::vector<SurveyedImage> images;
  std::map<std::string, SurveyedRegion> regions;
  ChangeMap map{0};
};

struct StoreSurvey {
  std::string directory;
  std::string id;
  std::uint32_t chunk_bytes = 0;
  storage::StoreStatistics statistics;
  std::vector<SurveyedChain> chains;
  std::vector<std::string> damage;  ///< sentences: of the store, its segments, its images
  bool verified = false;

  /// At most so many of each chain's newest images and of its regions; what is left out is counted.
  nlohmann::json json(std::size_t most = SIZE_MAX) const;
};

struct SurveyOptions {
  bool verified = false;                                    ///< `damaged` is known to be complete
  std::set<std::pair<std::string, std::uint64_t>> damaged;  ///< images, by chain and number
  std::function<void(std::uint64_t done, std::uint64_t total, const std::string& what)> progress;
};

/// Errors are those of the store as a whole; what hits single images is in the survey.
Result<StoreSurvey> survey_store(storage::Store& store, const SurveyOptions& options);

}  // namespace varve::tools
