// SPDX-License-Identifier: Apache-2.0
//
// Encoder and decoder of manifests; the layout is docs/formats/manifest.md.
#include "storage/manifest.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/try.h"
#include "storage/byte_codec.h"
#include "storage/format.h"

namespace varve::storage {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kCompleteFlag = 1;
// The least bytes that one item takes: bounds of counts before anything is allocated.
constexpr std::size_t kRegionMinBytes = 2 + 8 + 8 + 4 * 4 + 4 + 4 + 8 + 8;
constexpr std::size_t kNamedBytesMin = 2 + 8;
constexpr std::size_t kRangeBytes = 16;
constexpr std::size_t kRunMinBytes = 2;

using NamedBytes = std::map<std::string, std::vector<std::byte>>;

Error malformed(std::string cause) {
  return fail(ErrorCode::corruption,
              {"decoding a manifest failed", std::move(cause),
               "run `varve verify` on the store to see which images are still good, and restore one of those"});
}

void encode_named(const NamedBytes& items, ByteWriter& out) {
  for (const auto& [name, content] : items) {
    out.string(name);
    out.put<std::uint64_t>(content.size());
    out.bytes(content);
  }
}

bool decode_named(std::uint32_t count, ByteReader& in, NamedBytes& items) {
  if (!in.holds(count, kNamedBytesMin)) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::string name = in.string();
    const std::span<const std::byte> content = in.take(in.get<std::uint64_t>());
    if (!in.ok() || (!items.empty() && items.rbegin()->first >= name)) return false;
    items.emplace_hint(items.end(), std::move(name), std::vector<std::byte>(content.begin(), content.end()));
  }
  return true;
}

void encode_region(const RegionRecord& region, ByteWriter& out, std::vector<EncodedManifest::Names>& names) {
  out.string(region.name);
  out.put<std::uint64_t>(region.bytes);
  out.put<std::uint64_t>(region.address);
  out.put<std::uint32_t>(region.grid_offset);
  out.put<std::uint32_t>(region.element_bytes);
  out.put<std::uint32_t>(region.protection);
  out.put<std::uint32_t>(region.complete ? kCompleteFlag : 0);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(region.excluded.size()));
  for (const ByteRange& range : region.excluded) {
    out.put<std::uint64_t>(range.offset);
    out.put<std::uint64_t>(range.bytes);
  }
  out.put<std::uint32_t>(static_cast<std::uint32_t>(region.attributes.size()));
  encode_named(region.attributes, out);
  out.put<std::uint64_t>(region.runs.size());
  std::uint64_t end = 0;
  for (const ChunkRun& run : region.runs) {
    out.varint(run.first - end);
    out.varint(2 * run.count + (run.kind == RunKind::zero ? 1 : 0));
    end = run.first + run.count;
  }
  out.put<std::uint64_t>(region.names.size());
  names.push_back({out.size(), region.names});
}

bool decode_runs(ByteReader& in, RegionRecord& region) {
  const auto runs = in.get<std::uint64_t>();
  if (!in.holds(runs, kRunMinBytes)) return false;
  region.runs.reserve(static_cast<std::size_t>(runs));
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < runs; ++i) {
    ChunkRun run;
    const std::uint64_t gap = in.varint();
    const std::uint64_t coded = in.varint();
    run.count = coded / 2;
    run.kind = coded % 2 == 1 ? RunKind::zero : RunKind::named;
    if (__builtin_add_overflow(end, gap, &run.first) || __builtin_add_overflow(run.first, run.count, &end))
      return false;
    region.runs.push_back(run);
  }
  return in.names(in.get<std::uint64_t>(), region.names);
}

bool decode_region(ByteReader& in, RegionRecord& region) {
  region.name = in.string();
  region.bytes = in.get<std::uint64_t>();
  region.address = in.get<std::uint64_t>();
  region.grid_offset = in.get<std::uint32_t>();
  region.element_bytes = in.get<std::uint32_t>();
  region.protection = in.get<std::uint32_t>();
  const auto flags = in.get<std::uint32_t>();
  if (flags > kCompleteFlag) return false;
  region.complete = flags == kCompleteFlag;
  const auto excluded = in.get<std::uint32_t>();
  if (!in.holds(excluded, kRangeBytes)) return false;
  region.excluded.reserve(excluded);
  for (std::uint32_t i = 0; i < excluded; ++i) {
    ByteRange range;
    range.offset = in.get<std::uint64_t>();
    range.bytes = in.get<std::uint64_t>();
    region.excluded.push_back(range);
  }
  const auto attributes = in.get<std::uint32_t>();
  return decode_named(attributes, in, region.attributes) && decode_runs(in, region);
}

Result<Manifest> decode(ByteReader& in) {
  const auto version = in.get<std::uint32_t>();
  const auto flags = in.get<std::uint32_t>();
  if (!in.ok()) return malformed("it is too short");
  if (version > kVersion || flags != 0)
    return fail(ErrorCode::unsupported,
                {"decoding a manifest failed",
                 fmt::format("written by a newer Varve, format {} with flags {:#x}; this one reads up to {}", version,
                             flags, kVersion),
                 "use the version of Varve that wrote it, or a newer one"});
  if (version == 0) return malformed("format 0 does not exist");
  Manifest manifest;
  manifest.number = in.get<std::uint64_t>();
  manifest.parent = in.get<std::uint64_t>();
  manifest.revision = in.get<std::uint64_t>();
  manifest.time_ns = in.get<std::uint64_t>();
  const auto kind = in.get<std::uint32_t>();
  manifest.page_bytes = in.get<std::uint32_t>();
  manifest.chunk_bytes = in.get<std::uint32_t>();
  const auto regions = in.get<std::uint32_t>();
  const auto blobs = in.get<std::uint32_t>();
  manifest.chain = in.string();
  manifest.label = in.string();
  manifest.architecture = in.string();
  if (!in.ok()) return malformed("it ends within its fixed part");
  if (kind != static_cast<std::uint32_t>(ImageKind::full) && kind != static_cast<std::uint32_t>(ImageKind::delta))
    return malformed(fmt::format("image kind {} does not exist", kind));
  manifest.kind = static_cast<ImageKind>(kind);
  if (!in.holds(regions, kRegionMinBytes)) return malformed(fmt::format("it can't hold {} regions", regions));
  for (std::uint32_t i = 0; i < regions; ++i) {
    manifest.regions.emplace_back();
    if (!decode_region(in, manifest.regions.back()))
      return malformed(fmt::format("region {} of {} is not well-formed", i, regions));
  }
  if (!decode_named(blobs, in, manifest.blobs)) return malformed("its blobs are not well-formed");
  if (!in.at_end()) return malformed(fmt::format("{} bytes follow its end", in.remaining()));
  if (auto checked = check_manifest(manifest); !checked) return malformed(checked.error().cause());
  return manifest;
}

}  // namespace

EncodedManifest encode_manifest_in_parts(const Manifest& manifest) {
  EncodedManifest encoded;
  ByteWriter out(encoded.bytes);
  out.put<std::uint32_t>(kVersion);
  out.put<std::uint32_t>(0);  // flags
  out.put<std::uint64_t>(manifest.number);
  out.put<std::uint64_t>(manifest.parent);
  out.put<std::uint64_t>(manifest.revision);
  out.put<std::uint64_t>(manifest.time_ns);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(manifest.kind));
  out.put<std::uint32_t>(manifest.page_bytes);
  out.put<std::uint32_t>(manifest.chunk_bytes);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(manifest.regions.size()));
  out.put<std::uint32_t>(static_cast<std::uint32_t>(manifest.blobs.size()));
  out.string(manifest.chain);
  out.string(manifest.label);
  out.string(manifest.architecture);
  for (const RegionRecord& region : manifest.regions) encode_region(region, out, encoded.names);
  encode_named(manifest.blobs, out);
  return encoded;
}

std::vector<std::span<const std::byte>> EncodedManifest::parts() const {
  std::vector<std::span<const std::byte>> parts;
  std::size_t done = 0;
  for (const Names& next : names) {
    parts.push_back(std::span(bytes).subspan(done, next.at - done));
    parts.push_back(std::as_bytes(next.names));  // little-endian in memory too
    done = next.at;
  }
  parts.push_back(std::span(bytes).subspan(done));
  return parts;
}

std::vector<std::byte> encode_manifest(const Manifest& manifest) {
  const EncodedManifest encoded = encode_manifest_in_parts(manifest);
  std::vector<std::byte> content;
  for (const auto& part : encoded.parts()) content.insert(content.end(), part.begin(), part.end());
  return content;
}

Result<Manifest> decode_manifest(std::span<const std::byte> payload) {
  ByteReader in(payload);
  return decode(in);
}

Result<Manifest> decode_manifest(ByteParts& payload, std::uint64_t bytes) {
  ByteReader in(payload, bytes);
  return decode(in);
}

}  // namespace varve::storage
