// SPDX-License-Identifier: Apache-2.0
#include "tools/report/change_map.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tools/units.h"

namespace varve::tools {
namespace {

constexpr std::uint8_t kAll = 254, kAbsent = 255;

// A little is never nothing.
std::uint8_t level_of(double share) { return static_cast<std::uint8_t>(std::ceil(std::clamp(share, 0.0, 1.0) * kAll)); }

// The bytes of each bin that changed, then as levels.
std::array<std::uint8_t, ChangeMap::kBins> levels_of(std::uint64_t bytes,
                                                     const std::vector<storage::ByteRange>& changed) {
  std::array<double, ChangeMap::kBins> sums{};
  const double bin = std::max(1.0, static_cast<double>(bytes)) / ChangeMap::kBins;
  for (const auto& range : changed) {
    const double begin = static_cast<double>(range.offset), end = begin + static_cast<double>(range.bytes);
    auto at = std::min(ChangeMap::kBins - 1, static_cast<std::size_t>(begin / bin));
    for (; at < ChangeMap::kBins && static_cast<double>(at) * bin < end; ++at)
      sums[at] += std::max(
          0.0, std::min(end, static_cast<double>(at + 1) * bin) - std::max(begin, static_cast<double>(at) * bin));
  }
  std::array<std::uint8_t, ChangeMap::kBins> levels{};
  for (std::size_t i = 0; i < ChangeMap::kBins; ++i) levels[i] = level_of(sums[i] / bin);
  return levels;
}

void append_hex(std::string& text, std::uint8_t value) {
  constexpr const char* kDigits = "0123456789abcdef";
  text += kDigits[value >> 4];
  text += kDigits[value & 15];
}

// Rows of the plot for a band: in proportion to its bytes, and at least one.
std::size_t rows_of(std::uint64_t bytes, std::uint64_t total, std::size_t bands) {
  const std::size_t free = ChangeMap::kRows > bands ? ChangeMap::kRows - bands : 0;
  const double share = total == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(total);
  return std::min(ChangeMap::kBins, 1 + static_cast<std::size_t>(share * static_cast<double>(free)));
}

void take_most(std::uint8_t& into, std::uint8_t level) {
  if (level != kAbsent) into = into == kAbsent ? level : std::max(into, level);
}

// The mean level of the bins that fall into a row; something never becomes nothing.
std::uint8_t row_level(const std::uint8_t* bins, std::size_t row, std::size_t rows) {
  const std::size_t begin = row * ChangeMap::kBins / rows;
  const std::size_t end = std::max(begin + 1, (row + 1) * ChangeMap::kBins / rows);
  unsigned sum = 0, count = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (bins[i] == kAbsent) continue;
    sum += bins[i];
    ++count;
  }
  return count == 0 ? kAbsent : static_cast<std::uint8_t>((sum + count - 1) / count);
}

}  // namespace

ChangeMap::ChangeMap(std::size_t images)
    : together_(std::max<std::size_t>(1, (images + kColumns - 1) / kColumns)),
      names_((images + together_ - 1) / together_) {}

void ChangeMap::name_column(std::size_t index, const std::string& name) {
  std::string& column = names_[column_of(index)];
  if (column.empty()) {
    column = name;
  } else if (column != name) {
    column = column.substr(0, column.find(" to ")) + " to " + name;
  }
}

ChangeMap::Band& ChangeMap::join_others(const std::string& region, std::uint64_t bytes) {
  if (others_.shares.empty()) others_.shares.assign(names_.size() * kBins, kAbsent);
  std::uint64_t& most = others_bytes_[region];
  others_.bytes += std::max(most, bytes) - most;
  most = std::max(most, bytes);
  return others_;
}

ChangeMap::Band& ChangeMap::band_of(const std::string& region, std::uint64_t bytes) {
  if (others_bytes_.contains(region)) return join_others(region, bytes);
  if (!bands_.contains(region) && bands_.size() == kRegions) {
    const auto smallest = std::min_element(bands_.begin(), bands_.end(),
                                           [](auto& a, auto& b) { return a.second.bytes < b.second.bytes; });
    if (smallest->second.bytes >= bytes) return join_others(region, bytes);
    Band& others = join_others(smallest->first, smallest->second.bytes);
    for (std::size_t i = 0; i < others.shares.size(); ++i) take_most(others.shares[i], smallest->second.shares[i]);
    bands_.erase(smallest);
  }
  Band& band = bands_[region];
  if (band.shares.empty()) band.shares.assign(names_.size() * kBins, kAbsent);
  band.bytes = std::max(band.bytes, bytes);
  return band;
}

void ChangeMap::add(std::size_t index, const std::string& name, const std::string& region, std::uint64_t region_bytes,
                    const std::vector<storage::ByteRange>& changed) {
  name_column(index, name);
  Band& band = band_of(region, region_bytes);
  const auto levels = levels_of(region_bytes, changed);
  std::uint8_t* into = &band.shares[column_of(index) * kBins];
  for (std::size_t i = 0; i < kBins; ++i) take_most(into[i], levels[i]);
}

void ChangeMap::skip(std::size_t index, const std::string& name) { name_column(index, name); }

nlohmann::json ChangeMap::plot(const plot::Heading& heading) const {
  std::vector<std::pair<std::string, const Band*>> shown;  // largest first, and the others behind them
  for (const auto& [region, band] : bands_) shown.emplace_back(region, &band);
  std::stable_sort(shown.begin(), shown.end(), [](auto& a, auto& b) { return a.second->bytes > b.second->bytes; });
  if (!others_bytes_.empty())
    shown.emplace_back("(" + std::to_string(others_bytes_.size()) + " other regions)", &others_);
  std::uint64_t total = 0;
  for (const auto& [region, band] : shown) total += band->bytes;

  auto bands = nlohmann::json::array();
  std::vector<std::size_t> rows;
  std::size_t first = 0;
  for (const auto& [region, band] : shown) {
    rows.push_back(rows_of(band->bytes, total, shown.size()));
    bands.push_back({{"name", region + ", " + format_bytes(band->bytes)},
                     {"first", first},
                     {"rows", rows.back()},
                     {"bytes", band->bytes}});
    first += rows.back();
  }
  std::string cells;
  for (std::size_t column = 0; column < names_.size(); ++column)
    for (std::size_t i = 0; i < shown.size(); ++i)
      for (std::size_t row = 0; row < rows[i]; ++row)
        append_hex(cells, row_level(&shown[i].second->shares[column * kBins], row, rows[i]));
  std::string text = heading.text;
  if (together_ > 1)
    text += " A column is " + std::to_string(together_) + " images: the most that any of them changed.";
  if (!others_bytes_.empty())
    text += " The " + std::to_string(others_bytes_.size()) +
            " smallest regions share a band: the most that any of them changed.";
  return {{"type", "heatmap"},
          {"title", heading.title},
          {"text", text},
          {"unit", ""},
          {"columns", names_.size()},
          {"rows", first},
          {"bands", std::move(bands)},
          {"column_names", names_},
          {"cells", std::move(cells)}};
}

}  // namespace varve::tools
