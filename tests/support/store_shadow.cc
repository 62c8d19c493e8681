// SPDX-License-Identifier: Apache-2.0
#include "tests/support/store_shadow.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

#include "base/try.h"
#include "tests/support/simulated_state.h"

namespace varve::test {
namespace {

using storage::ByteRange;
using storage::ChunkName;
using storage::Manifest;
using storage::RegionRecord;
using storage::RunKind;

void append_run(RegionRecord& record, std::uint64_t index, RunKind kind) {
  if (!record.runs.empty()) {
    storage::ChunkRun& last = record.runs.back();
    if (last.kind == kind && last.first + last.count == index) {
      ++last.count;
      return;
    }
  }
  record.runs.push_back({index, 1, kind});
}

/// One place to fill: a named chunk, or zeros.
struct Fill {
  std::optional<ChunkName> name;
};

Error lacks(const std::string& what) {
  return fail(ErrorCode::corruption, {"restoring an image failed", what, "restore another one"});
}

/// Takes from a manifest what is still open of a region.
void take_runs(const RegionRecord& record, std::vector<std::optional<Fill>>& chunks) {
  std::size_t next_name = 0;
  for (const storage::ChunkRun& run : record.runs) {
    for (std::uint64_t i = 0; i < run.count; ++i) {
      std::optional<ChunkName> name;
      if (run.kind == RunKind::named) name = record.names[next_name++];
      std::optional<Fill>& chunk = chunks[static_cast<std::size_t>(run.first + i)];
      if (!chunk) chunk = Fill{name};
    }
  }
}

}  // namespace

std::vector<std::byte> random_bytes(std::size_t count, std::uint64_t seed) {
  std::vector<std::byte> bytes(count);
  Random random(seed);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + i, &word, std::min<std::size_t>(8, count - i));
  }
  return bytes;
}

struct NewChunk {
  ChunkName name;
  std::span<const std::byte> content;
  ChunkName previous;
};

/// Looked up together, as the engine does.
Status add_chunks(storage::ChainWriter& writer, std::vector<NewChunk>& chunks, std::uint32_t element_bytes) {
  std::vector<ChunkName> names;
  for (const NewChunk& chunk : chunks) names.push_back(chunk.name);
  writer.look_up(names);
  for (const NewChunk& chunk : chunks) VARVE_TRY(writer.add(chunk.name, chunk.content, element_bytes, chunk.previous));
  chunks.clear();
  return {};
}

Status add_region(storage::Store& store, storage::ChainWriter& writer, const std::string& name, const ShadowRegion& now,
                  const ShadowRegion* before, RegionRecord& record) {
  record.name = name;
  record.bytes = now.content.size();
  record.grid_offset = now.grid_offset;
  record.element_bytes = now.element_bytes;
  record.protection = 3;
  if (before != nullptr && (before->content.size() != now.content.size() || before->grid_offset != now.grid_offset))
    before = nullptr;
  record.complete = before == nullptr;
  const std::uint64_t chunks = storage::chunk_count(record, store.chunk_bytes());
  std::vector<NewChunk> together;
  for (std::uint64_t index = 0; index < chunks; ++index) {
    const ByteRange extent = storage::chunk_extent(record, store.chunk_bytes(), index);
    const auto content =
        std::span(now.content).subspan(static_cast<std::size_t>(extent.offset), static_cast<std::size_t>(extent.bytes));
    if (before != nullptr && std::memcmp(before->content.data() + extent.offset, content.data(), content.size()) == 0)
      continue;
    const bool zero = storage::is_zero(content);
    append_run(record, index, zero ? RunKind::zero : RunKind::named);
    if (zero) continue;
    const ChunkName chunk = store.name_of(content);
    record.names.push_back(chunk);
    ChunkName previous;
    if (before != nullptr) {
      const auto old = std::span(before->content)
                           .subspan(static_cast<std::size_t>(extent.offset), static_cast<std::size_t>(extent.bytes));
      if (!storage::is_zero(old)) previous = store.name_of(old);
    }
    together.push_back({chunk, content, previous});
    if (together.size() == storage::ChainWriter::kLookUpMost)
      VARVE_TRY(add_chunks(writer, together, now.element_bytes));
  }
  return add_chunks(writer, together, now.element_bytes);
}

Result<Manifest> add_image(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                           std::uint64_t number, const ShadowMemory& memory, const ShadowMemory* before,
                           std::uint64_t parent, const std::string& label) {
  Manifest manifest;
  manifest.chain = chain;
  manifest.number = number;
  manifest.parent = parent;
  manifest.kind = before == nullptr ? storage::ImageKind::full : storage::ImageKind::delta;
  manifest.time_ns = number;
  manifest.label = label;
  manifest.architecture = "x86_64";
  manifest.page_bytes = 4096;
  manifest.chunk_bytes = store.chunk_bytes();
  for (const auto& [name, region] : memory) {
    const ShadowRegion* old = nullptr;
    if (before != nullptr)
      if (const auto at = before->find(name); at != before->end()) old = &at->second;
    VARVE_TRY(add_region(store, writer, name, region, old, manifest.regions.emplace_back()));
  }
  return manifest;
}

Result<storage::Committed> checkpoint(storage::Store& store, storage::ChainWriter& writer, const std::string& chain,
                                      std::uint64_t number, const ShadowMemory& memory, const ShadowMemory* before,
                                      std::uint64_t parent, const std::string& label) {
  VARVE_TRY(writer.begin());
  auto manifest = add_image(store, writer, chain, number, memory, before, parent, label);
  if (!manifest) {
    writer.abandon();
    return manifest.error();
  }
  return writer.commit(*manifest);
}

Result<ShadowMemory> restore(storage::Store& store, const std::string& chain, std::uint64_t number) {
  VARVE_TRY_ASSIGN(Manifest manifest, store.read_manifest(chain, number));
  struct Target {
    RegionRecord record;
    std::vector<std::optional<Fill>> chunks;
    bool done = false;
  };
  std::vector<Target> targets;
  for (const RegionRecord& record : manifest.regions) {
    Target target;
    target.record = record;
    target.chunks.resize(static_cast<std::size_t>(storage::chunk_count(record, store.chunk_bytes())));
    targets.push_back(std::move(target));
  }
  for (;;) {
    bool all_done = true;
    for (Target& target : targets) {
      if (target.done) continue;
      const auto at = std::ranges::find(manifest.regions, target.record.name, &RegionRecord::name);
      if (at == manifest.regions.end() || at->bytes != target.record.bytes ||
          at->grid_offset != target.record.grid_offset)
        return lacks("an ancestor lacks region " + target.record.name);
      take_runs(*at, target.chunks);
      target.done = at->complete;
      all_done = all_done && target.done;
    }
    if (all_done) break;
    if (manifest.parent == 0) return lacks("the chain ends before the image is whole");
    VARVE_TRY_ASSIGN(manifest, store.read_manifest(chain, manifest.parent));
  }
  ShadowMemory memory;
  std::vector<storage::ChunkRequest> requests;
  std::vector<std::byte*> places;
  for (const Target& target : targets) {
    ShadowRegion& region = memory[target.record.name];
    region.content.resize(static_cast<std::size_t>(target.record.bytes));
    region.grid_offset = target.record.grid_offset;
    region.element_bytes = target.record.element_bytes;
    for (std::size_t i = 0; i < target.chunks.size(); ++i) {
      if (!target.chunks[i]) return lacks("a chunk is named nowhere");
      if (!target.chunks[i]->name) continue;
      const ByteRange extent = storage::chunk_extent(target.record, store.chunk_bytes(), i);
      requests.push_back({*target.chunks[i]->name, static_cast<std::uint32_t>(extent.bytes), places.size()});
      places.push_back(region.content.data() + extent.offset);
    }
  }
  VARVE_TRY(
      store.read_chunks(requests, storage::kAllProcessors, [&](std::uint64_t tag, std::span<const std::byte> content) {
        std::memcpy(places[static_cast<std::size_t>(tag)], content.data(), content.size());
      }));
  return memory;
}

}  // namespace varve::test
