// SPDX-License-Identifier: Apache-2.0
//
// The rules of manifests that hold before encoding and after decoding.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/try.h"
#include "storage/format.h"
#include "storage/manifest.h"
#include "storage/store.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kMaxRegionBytes = std::uint64_t{1} << 62;
constexpr std::size_t kMaxStringBytes = 255;

Error bad(const Manifest& manifest, std::string cause) {
  return fail(ErrorCode::invalid_argument,
              {fmt::format("the manifest of image {} of chain '{}' is not valid", manifest.number, manifest.chain),
               std::move(cause), "pass a manifest that keeps the rules of docs/formats/manifest.md"});
}

bool well_formed(std::string_view name) {
  return !name.empty() && name.size() <= kMaxStringBytes &&
         std::ranges::none_of(name, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

/// Whether the excluded ranges, ascending, cover all of [offset, offset + bytes). `next` remembers the first range that
/// may still matter, since calls come in ascending order.
bool wholly_excluded(const std::vector<ByteRange>& excluded, std::size_t& next, ByteRange extent) {
  std::uint64_t covered = extent.offset;
  const std::uint64_t end = extent.offset + extent.bytes;
  while (next < excluded.size() && excluded[next].offset + excluded[next].bytes <= covered) ++next;
  for (std::size_t i = next; i < excluded.size() && covered < end; ++i) {
    if (excluded[i].offset > covered) return false;
    covered = excluded[i].offset + excluded[i].bytes;
  }
  return covered >= end;
}

/// The bytes of the chunks [first, last), as one range of the region.
ByteRange extent_of(const RegionRecord& region, std::uint32_t chunk_bytes, std::uint64_t first, std::uint64_t last) {
  const std::uint64_t begin = chunk_extent(region, chunk_bytes, first).offset;
  const ByteRange end = chunk_extent(region, chunk_bytes, last - 1);
  return {begin, end.offset + end.bytes - begin};
}

Status check_runs(const Manifest& manifest, const RegionRecord& region) {
  const std::uint64_t chunks = chunk_count(region, manifest.chunk_bytes);
  std::uint64_t end = 0;
  std::uint64_t named = 0;
  std::size_t next_excluded = 0;
  const auto gap_is_excluded = [&](std::uint64_t until) {
    return until == end ||
           wholly_excluded(region.excluded, next_excluded, extent_of(region, manifest.chunk_bytes, end, until));
  };
  for (const ChunkRun& run : region.runs) {
    if (run.first < end || run.count == 0 || run.first > chunks || run.count > chunks - run.first)
      return bad(manifest, fmt::format("a run of {} chunks from {} does not fit into region '{}' with {} chunks",
                                       run.count, run.first, region.name, chunks));
    if (region.complete && !gap_is_excluded(run.first))
      return bad(manifest, fmt::format("region '{}' lacks chunks between {} and {}", region.name, end, run.first));
    if (run.kind == RunKind::named) named += run.count;
    end = run.first + run.count;
  }
  if (region.complete && !gap_is_excluded(chunks))
    return bad(manifest, fmt::format("region '{}' lacks chunks between {} and {}", region.name, end, chunks));
  if (named != region.names.size())
    return bad(manifest,
               fmt::format("region '{}' has {} names for {} named chunks", region.name, region.names.size(), named));
  return {};
}

Status check_region(const Manifest& manifest, const RegionRecord& region) {
  if (!well_formed(region.name)) return bad(manifest, fmt::format("'{}' can't be a region's name", region.name));
  if (region.bytes > kMaxRegionBytes || region.grid_offset >= manifest.chunk_bytes)
    return bad(manifest, fmt::format("region '{}' has {} bytes at grid offset {}", region.name, region.bytes,
                                     region.grid_offset));
  std::uint64_t end = 0;
  for (const ByteRange& range : region.excluded) {
    if (range.offset < end || range.bytes == 0 || range.offset > region.bytes ||
        range.bytes > region.bytes - range.offset)
      return bad(manifest, fmt::format("the excluded range of {} bytes at {} does not fit into region '{}'",
                                       range.bytes, range.offset, region.name));
    end = range.offset + range.bytes;
  }
  for (const auto& [name, content] : region.attributes)
    if (!well_formed(name)) return bad(manifest, fmt::format("'{}' can't be an attribute's name", name));
  if (manifest.kind == ImageKind::full && !region.complete)
    return bad(manifest, fmt::format("region '{}' of a full image is not complete", region.name));
  return check_runs(manifest, region);
}

bool is_name(std::string_view text) {
  if (text.empty() || text.size() > kMaxNameBytes || text.front() == '.') return false;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto allowed = [&](char c) {
    return digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
  };
  return std::ranges::all_of(text, allowed) && !std::ranges::all_of(text, digit);
}

constexpr std::string_view kNameRule =
    "use 1 to 64 letters, digits, '-', '_' or '.', not starting with '.', not a number";

}  // namespace

std::uint64_t chunk_count(const RegionRecord& region, std::uint32_t chunk_bytes) {
  if (region.bytes == 0) return 0;
  return (region.bytes + region.grid_offset + chunk_bytes - 1) / chunk_bytes;
}

ByteRange chunk_extent(const RegionRecord& region, std::uint32_t chunk_bytes, std::uint64_t index) {
  const std::uint64_t begin = index * chunk_bytes;  // on the grid
  const std::uint64_t first = std::max<std::uint64_t>(begin, region.grid_offset) - region.grid_offset;
  const std::uint64_t last = std::min(begin + chunk_bytes - region.grid_offset, region.bytes);
  return {first, last - first};
}

Status check_manifest(const Manifest& manifest) {
  if (auto checked = check_chain_name(manifest.chain); !checked) return bad(manifest, checked.error().message());
  if (!manifest.label.empty())
    if (auto checked = check_label(manifest.label); !checked) return bad(manifest, checked.error().message());
  if (manifest.number == 0 || manifest.number > kMaxImageNumber)
    return bad(manifest, "images are numbered from 1 to 2^62");
  if (manifest.parent >= manifest.number) return bad(manifest, fmt::format("its parent is {}", manifest.parent));
  if (manifest.kind == ImageKind::delta && manifest.parent == 0) return bad(manifest, "a delta needs a parent");
  if (manifest.kind != ImageKind::delta && manifest.kind != ImageKind::full)
    return bad(manifest, "it is neither full nor a delta");
  if (!is_power_of_two(manifest.chunk_bytes) || manifest.chunk_bytes < kMinChunkBytes ||
      manifest.chunk_bytes > kMaxChunkBytes)
    return bad(manifest, fmt::format("chunks of {} bytes do not exist", manifest.chunk_bytes));
  if (manifest.architecture.size() > kMaxStringBytes) return bad(manifest, "the architecture's name is too long");
  std::set<std::string_view> names;
  for (const RegionRecord& region : manifest.regions) {
    if (!names.insert(region.name).second)
      return bad(manifest, fmt::format("region '{}' stands there twice", region.name));
    VARVE_TRY(check_region(manifest, region));
  }
  for (const auto& [name, content] : manifest.blobs)
    if (!well_formed(name)) return bad(manifest, fmt::format("'{}' can't be a blob's name", name));
  return {};
}

Status check_chain_name(std::string_view chain) {
  if (is_name(chain)) return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("chain name '{}' refused", chain),
               "it is empty, too long, a number, or has other characters", std::string(kNameRule)});
}

Status check_label(std::string_view label) {
  if (is_name(label) && label != "latest") return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("label '{}' refused", label),
               "it is empty, too long, a number, 'latest', or has other characters", std::string(kNameRule)});
}

}  // namespace varve::storage
