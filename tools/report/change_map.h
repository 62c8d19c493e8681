// SPDX-License-Identifier: Apache-2.0
//
// ChangeMap: what changed where, as a heat map of region by image, of bounded size whatever the store is like.
//
// Each region has kBins bins, by share of the length that it has in the image. Neighbouring images share a column where
// there are more than kColumns: a bin then has the most that any of them changed. The kRegions largest regions have a
// band each, by the sizes at which they came; all others share one, whose bins have the most that any of them changed.
// A region that has joined them stays with them, also when it grows.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "storage/manifest.h"
#include "tools/report/plots.h"

namespace varve::tools {

class ChangeMap {
 public:
  static constexpr std::size_t kBins = 128;
  static constexpr std::size_t kColumns = 240;
  static constexpr std::size_t kRegions = 128;
  static constexpr std::size_t kRows = 160;  ///< of the plot, over all regions

  explicit ChangeMap(std::size_t images);

  /// Image `index` (from 0) holds a region of so many bytes, of which these ranges changed. REQUIRES: ascending,
  /// disjoint ranges within it; index below `images`.
  void add(std::size_t index, const std::string& name, const std::string& region, std::uint64_t region_bytes,
           const std::vector<storage::ByteRange>& changed);
  /// Image `index` is damaged, or nothing is known of it.
  void skip(std::size_t index, const std::string& name);

  /// Of plots.h, for report.js.
  nlohmann::json plot(const plot::Heading& heading) const;

 private:
  struct Band {
    std::uint64_t bytes = 0;           // the most that it had
    std::vector<std::uint8_t> shares;  // column by column; kAbsent: the image does not hold it
  };
  Band& band_of(const std::string& region, std::uint64_t bytes);
  Band& join_others(const std::string& region, std::uint64_t bytes);
  std::size_t column_of(std::size_t index) const { return index / together_; }
  void name_column(std::size_t index, const std::string& name);

  std::size_t together_;
  std::vector<std::string> names_;  // of the columns
  std::map<std::string, Band> bands_;
  Band others_;                                        // its bytes are the sum of theirs
  std::map<std::string, std::uint64_t> others_bytes_;  // by region, the most that it had
};

}  // namespace varve::tools
