// SPDX-License-Identifier: Apache-2.0
//
// The manifest of one image as a value, and its one encoder and decoder (format: docs/formats/manifest.md).
//
// Storage knows nothing of memory: a region here is a name, a length and a list of chunks. Chunk i of a region covers
// the bytes [i * chunk_bytes - grid_offset, (i + 1) * chunk_bytes - grid_offset) of it, cut to [0, bytes): the first
// and the last chunk may be short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "storage/chunk_name.h"
#include "varve/result.h"

namespace varve::storage {

class ByteParts;  // byte_codec.h

enum class ImageKind : std::uint8_t { full = 1, delta = 2 };
enum class RunKind : std::uint8_t { named = 1, zero = 2 };

struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// `count` chunks from chunk `first` on; a named run takes the next `count` of RegionRecord::names.
struct ChunkRun {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  RunKind kind = RunKind::named;
  friend bool operator==(const ChunkRun&, const ChunkRun&) = default;
};

struct RegionRecord {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint32_t grid_offset = 0;    ///< below chunk_bytes
  std::uint32_t element_bytes = 0;  ///< 0: unknown
  std::uint64_t address = 0;        ///< where it lay
  std::uint32_t protection = 0;     ///< PROT_* bits
  /// true: the runs name every chunk of the region (those wholly excluded apart); false: only what changed.
  bool complete = false;
  std::vector<ByteRange> excluded;  ///< ascending, disjoint; not restored
  std::vector<ChunkRun> runs;       ///< ascending, disjoint
  std::vector<ChunkName> names;
  std::map<std::string, std::vector<std::byte>> attributes;  ///< opaque

  friend bool operator==(const RegionRecord&, const RegionRecord&) = default;
};

/// Number of chunks of a region.
std::uint64_t chunk_count(const RegionRecord& region, std::uint32_t chunk_bytes);
/// The bytes of the region that chunk `index` covers.
ByteRange chunk_extent(const RegionRecord& region, std::uint32_t chunk_bytes, std::uint64_t index);

struct Manifest {
  std::string chain;
  std::uint64_t number = 0;
  std::uint64_t parent = 0;    ///< 0: none. A full image may have one: history, not needed to restore it
  std::uint64_t revision = 0;  ///< of the same image: compaction writes it again, full; the highest one counts
  ImageKind kind = ImageKind::full;
  std::uint64_t time_ns = 0;
  std::string label;
  std::string architecture;  ///< "x86_64"
  std::uint32_t page_bytes = 0;
  std::uint32_t chunk_bytes = 0;
  std::vector<RegionRecord> regions;                    ///< all regions of the image, those without changes too
  std::map<std::string, std::vector<std::byte>> blobs;  ///< opaque, named by the layer above

  friend bool operator==(const Manifest&, const Manifest&) = default;
};

/// The payload of a manifest record, with the names where the manifest has them: 4 MiB a gigabyte that are not copied.
struct EncodedManifest {
  struct Names {
    std::size_t at = 0;  ///< of `bytes`: the names belong before it
    std::span<const ChunkName> names;
  };
  std::vector<std::byte> bytes;
  std::vector<Names> names;
  /// All of it, one behind the other. Valid while neither this nor the manifest changes.
  std::vector<std::span<const std::byte>> parts() const;
};

/// REQUIRES: check_manifest(manifest).
EncodedManifest encode_manifest_in_parts(const Manifest& manifest);
/// The same in one piece.
std::vector<std::byte> encode_manifest(const Manifest& manifest);
/// Trusts nothing: every length is bounded by the payload before it is used. `corruption` says what is wrong.
Result<Manifest> decode_manifest(std::span<const std::byte> payload);
/// The same of a payload that comes in parts: never all of it is there. What can't be had is `corruption` like an end.
Result<Manifest> decode_manifest(ByteParts& payload, std::uint64_t bytes);
/// The rules that both directions keep: names and labels well-formed, runs ascending and within the region, as many
/// names as named runs take, complete where the kind is full.
Status check_manifest(const Manifest& manifest);

}  // namespace varve::storage
