// SPDX-License-Identifier: Apache-2.0
#include "tools/varve/image_json.h"

#include <sys/mman.h>

#include "tools/units.h"

namespace varve::tools {
namespace {

nlohmann::json or_null(const std::string& text) { return text.empty() ? nlohmann::json() : nlohmann::json(text); }
nlohmann::json or_null(std::uint64_t number) { return number == 0 ? nlohmann::json() : nlohmann::json(number); }

}  // namespace

std::string kind_name(storage::ImageKind kind) { return kind == storage::ImageKind::full ? "full" : "delta"; }

nlohmann::json image_json(const storage::ImageSummary& image) {
  return {{"image", image.number},
          {"chain", image.chain},
          {"kind", kind_name(image.kind)},
          {"parent", or_null(image.parent)},
          {"label", or_null(image.label)},
          {"pinned", image.pinned},
          {"time", format_time(image.time_ns)},
          {"time_ns", image.time_ns},
          {"region_bytes", image.region_bytes},
          {"written_bytes", image.written_bytes},
          {"segment", image.segment},
          {"offset", image.offset}};
}

RunCounts count_runs(const storage::RegionRecord& region, std::uint32_t chunk_bytes) {
  RunCounts counts;
  counts.chunks = storage::chunk_count(region, chunk_bytes);
  for (const auto& run : region.runs) {
    counts.changed += run.count;
    if (run.kind == storage::RunKind::zero) counts.zero += run.count;
  }
  return counts;
}

nlohmann::json region_json(const storage::RegionRecord& region, std::uint32_t chunk_bytes) {
  const RunCounts counts = count_runs(region, chunk_bytes);
  auto excluded = nlohmann::json::array();
  for (const auto& range : region.excluded) excluded.push_back({{"offset", range.offset}, {"bytes", range.bytes}});
  auto attributes = nlohmann::json::object();
  for (const auto& [name, value] : region.attributes) attributes[name] = value.size();
  return {{"name", region.name},
          {"bytes", region.bytes},
          {"chunks", counts.chunks},
          {"changed_chunks", counts.changed},
          {"zero_chunks", counts.zero},
          {"complete", region.complete},
          {"grid_offset", region.grid_offset},
          {"element_bytes", region.element_bytes},
          {"address", region.address},
          {"protection", protection_text(region.protection)},
          {"excluded", std::move(excluded)},
          {"attribute_bytes", std::move(attributes)}};
}

std::string protection_text(std::uint32_t protection) {
  std::string text = "---";
  if ((protection & PROT_READ) != 0) text[0] = 'r';
  if ((protection & PROT_WRITE) != 0) text[1] = 'w';
  if ((protection & PROT_EXEC) != 0) text[2] = 'x';
  return text;
}

}  // namespace varve::tools
