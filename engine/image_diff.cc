// SPDX-License-Identifier: Apache-2.0
#include "engine/image_diff.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "engine/chunk_grid.h"
#include "engine/name_table.h"

namespace varve {
namespace {

using storage::ByteRange;
using storage::RegionRecord;

NameTable names_of(const RegionRecord& record, std::uint32_t chunk_bytes) {
  NameTable names(storage::chunk_count(record, chunk_bytes));
  names.overwrite(record);
  return names;
}

/// Wholly excluded chunks have no name; like zero ones they read as zeros.
bool reads_zero(const NameTable& names, std::uint64_t index) { return !names.known(index) || names.zero(index); }

bool same_chunk(const NameTable& a, const NameTable& b, std::uint64_t index) {
  if (reads_zero(a, index) || reads_zero(b, index)) return reads_zero(a, index) && reads_zero(b, index);
  return a.is(index, b.name(index));  // content of another length has another name
}

void compare_chunks(const RegionRecord& a, const RegionRecord& b, std::uint32_t chunk_bytes, RegionDiff& diff) {
  const RegionRecord& shorter = a.bytes <= b.bytes ? a : b;
  const ChunkGrid grid(shorter, chunk_bytes);
  const NameTable names_a = names_of(a, chunk_bytes);
  const NameTable names_b = names_of(b, chunk_bytes);
  std::vector<ChunkRange> differing;
  diff.compared_bytes = shorter.bytes;
  diff.compared_chunks = grid.count();
  for (std::uint64_t index = 0; index < grid.count(); ++index) {
    if (same_chunk(names_a, names_b, index)) continue;
    append_run(differing, {index, 1});
    ++diff.differing_chunks;
  }
  for (const ChunkRange& chunks : differing) {
    diff.ranges.push_back(grid.extent(chunks));
    diff.differing_bytes += diff.ranges.back().bytes;
  }
}

RegionDiff compare(const std::string& name, const RegionRecord* a, const RegionRecord* b, std::uint32_t chunk_bytes) {
  RegionDiff diff;
  diff.name = name;
  if (a != nullptr) diff.a = RegionShape{a->bytes, a->grid_offset};
  if (b != nullptr) diff.b = RegionShape{b->bytes, b->grid_offset};
  if (a == nullptr || b == nullptr) {
    diff.difference = a != nullptr ? RegionDifference::only_in_a : RegionDifference::only_in_b;
    return diff;
  }
  diff.other_exclusions = a->excluded != b->excluded;
  if (a->grid_offset != b->grid_offset) {
    diff.difference = RegionDifference::alignment;
    return diff;
  }
  compare_chunks(*a, *b, chunk_bytes, diff);
  if (a->bytes != b->bytes)
    diff.difference = RegionDifference::size;
  else if (!diff.ranges.empty())
    diff.difference = RegionDifference::content;
  return diff;
}

using Blobs = std::map<std::string, std::vector<std::byte>>;

void compare_blobs(const Blobs& a, const Blobs& b, std::vector<std::string>& names) {
  for (const auto& [name, value] : a)
    if (const auto other = b.find(name); other == b.end() || other->second != value) names.push_back(name);
  for (const auto& [name, value] : b)
    if (!a.contains(name)) names.push_back(name);
  std::ranges::sort(names);
}

}  // namespace

ImageDiff diff_images(const ResolvedImage& a, const ResolvedImage& b) {
  VARVE_CHECK(a.manifest.chunk_bytes == b.manifest.chunk_bytes);
  std::map<std::string, std::pair<const RegionRecord*, const RegionRecord*>> regions;
  for (const RegionRecord& record : a.manifest.regions) regions[record.name].first = &record;
  for (const RegionRecord& record : b.manifest.regions) regions[record.name].second = &record;
  ImageDiff diff;
  for (const auto& [name, records] : regions) {
    diff.regions.push_back(compare(name, records.first, records.second, a.manifest.chunk_bytes));
    const RegionDiff& region = diff.regions.back();
    if (region.difference != RegionDifference::none || region.other_exclusions) diff.identical = false;
  }
  compare_blobs(a.manifest.blobs, b.manifest.blobs, diff.blobs);
  if (!diff.blobs.empty()) diff.identical = false;
  return diff;
}

}  // namespace varve
