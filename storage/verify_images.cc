// SPDX-License-Identifier: Apache-2.0
//
// The second half of verify(): can every image be restored from what is good?
#include <algorithm>

#include <fmt/format.h>

#include "base/try.h"
#include "storage/manifest_reader.h"
#include "storage/verify_run.h"

namespace varve::storage {
namespace {

using ChunkRange = std::pair<std::uint64_t, std::uint64_t>;  // [first, last)

void append(std::vector<ChunkRange>& ranges, std::uint64_t first, std::uint64_t last) {
  if (first >= last) return;
  if (!ranges.empty() && ranges.back().second == first)
    ranges.back().second = last;
  else
    ranges.emplace_back(first, last);
}

/// `ranges` without what the runs cover.
std::vector<ChunkRange> not_covered(const std::vector<ChunkRange>& ranges, const std::vector<ChunkRun>& runs) {
  std::vector<ChunkRange> rest;
  auto run = runs.begin();
  for (auto [first, last] : ranges) {
    while (run != runs.end() && run->first + run->count <= first) ++run;
    for (auto at = run; at != runs.end() && at->first < last; ++at) {
      append(rest, first, at->first);
      first = std::max(first, at->first + at->count);
    }
    append(rest, first, last);
  }
  return rest;
}

}  // namespace

Status VerifyRun::judge_images() {
  VerifyReport before = report_;
  VARVE_TRY(check_images());
  if (report_.damaged.empty()) return {};
  VerifyReport first = std::exchange(report_, std::move(before));
  VARVE_TRY_ASSIGN(const bool more, catch_up());
  if (more) return check_images();
  report_ = std::move(first);
  return {};
}

SegmentView VerifyRun::view(std::uint32_t ordinal) {
  const SegmentLine& line = segments_[ordinal - 1];
  return {to_string(line.name), line.key, line.end};
}

std::optional<ChunkPlace> VerifyRun::find_base(const ChunkName& name, std::span<const ChunkPlace> tried) {
  return good_.find(name, [&](const ChunkPlace& place) {
    return !place.difference && std::ranges::find(tried, place) == tried.end();
  });
}

bool VerifyRun::restorable(const ChunkName& name) const {
  return good_.find(name, [&](const ChunkPlace& place) { return !place.difference || !orphaned_.contains(place); })
      .has_value();
}

Status VerifyRun::check_differences() {
  orphaned_.clear();
  StoredFrames frames(*this);
  if (options_.pace != nullptr) options_.pace->expect(differences_.size() * kBlockBytes);
  for (const ChunkPlace& place : differences_) VARVE_TRY(check_difference(place, frames));
  return {};
}

Status VerifyRun::check_difference(const ChunkPlace& place, StoredFrames& frames) {
  const auto of_file = [](const Error& error) { return is_damage(error) || error.code() == ErrorCode::not_found; };
  const auto frame = frames.frame(place, {});
  if (!frame && !of_file(frame.error())) return frame.error();
  if (!frame) {  // it was good, and has gone since
    for (std::uint32_t slot = 0; slot < kFrameChunks; ++slot)
      orphaned_.emplace(ChunkPlace{place.segment, place.offset, slot, true}, kNoBase);
    return {};
  }
  const std::vector<FrameChunk> chunks = (*frame)->chunks;
  const std::vector<ChunkName> bases = (*frame)->bases;
  for (std::uint32_t slot = 0; slot < chunks.size(); ++slot) {
    const ChunkPlace here{place.segment, place.offset, slot, true};
    if (bases[slot] != kNoBase && !find_base(bases[slot], {})) {
      orphaned_.emplace(here, bases[slot]);
      continue;
    }
    if (!options_.deep) continue;
    const auto content = frames.chunk(chunks[slot].name, here, {});
    if (!content && !of_file(content.error())) return content.error();
    if (content && name_chunk(*content, identity_.secret) == chunks[slot].name) continue;
    orphaned_.emplace(here, bases[slot]);
    if (!content) continue;  // the base's own frame is what is wrong
    VerifyFinding one;
    one.file = view(place.segment).file;
    one.offset = place.offset;
    one.what = fmt::format("the content of chunk {} has another name", slot);
    found(std::move(one));
  }
  return {};
}

Status VerifyRun::check_images() {
  VARVE_TRY(check_differences());
  std::map<std::string, std::map<std::uint64_t, ImageState>> states;
  std::map<std::string, std::map<std::uint64_t, std::pair<Catalogue::Image, ImageSummary>>> all;
  catalogue_.each([&](const std::string& chain, const Catalogue::Image& image, const std::string& label, bool pinned) {
    ImageSummary line;
    line.chain = chain;
    line.number = image.summary.number;
    line.parent = image.summary.parent;
    line.revision = image.summary.revision;
    line.kind = image.summary.kind;
    line.time_ns = image.summary.time_ns;
    line.label = label;
    line.region_bytes = image.summary.region_bytes;
    line.written_bytes = image.summary.written_bytes;
    line.segment = to_string(segments_[image.segment - 1].name);
    line.offset = image.summary.offset;
    line.pinned = pinned;
    all[chain].emplace(line.number, std::pair(image, std::move(line)));
  });
  for (auto& [chain, images] : all) {
    std::map<std::uint64_t, ImageState> known;  // parents have lower numbers
    for (auto& [number, entry] : images) {
      bool good = true;
      VARVE_TRY_ASSIGN(known[number], check_image(chain, entry.first, known, good));
      (good ? report_.good : report_.damaged).push_back(std::move(entry.second));
    }
  }
  return {};
}

Result<VerifyRun::ImageState> VerifyRun::check_image(const std::string& chain, const Catalogue::Image& image,
                                                     const std::map<std::uint64_t, ImageState>& others, bool& good) {
  const SegmentLine& line = segments_[image.segment - 1];
  const SegmentView where{to_string(line.name), line.key, line.end};
  ImageState state;
  auto manifest = [&]() -> Result<Manifest> {
    VARVE_TRY_ASSIGN(Manifest read, read_manifest_record(io_, where, image.summary.offset));
    const bool listed = read.chain == chain && read.number == image.summary.number &&
                        read.revision == image.summary.revision && read.parent == image.summary.parent;
    if (!listed || read.chunk_bytes != identity_.chunk_bytes)
      return damaged("the manifest", {where.file, image.summary.offset},
                     fmt::format("it is of image {} of chain '{}'", read.number, read.chain));
    return read;
  }();
  const std::string name = fmt::format("{}/{}", chain, image.summary.number);
  if (!manifest) {
    const bool of_file = is_damage(manifest.error()) || manifest.error().code() == ErrorCode::not_found;
    if (!of_file) return manifest.error();
    good = false;
    VerifyFinding one;
    one.file = where.file;
    one.offset = image.summary.offset;
    one.image = name;
    one.what = "its manifest can't be read: " + manifest.error().cause();
    found(std::move(one));
    return state;
  }
  state.readable = true;
  const auto parent = others.find(manifest->parent);
  const ImageState* const before = parent == others.end() || !parent->second.readable ? nullptr : &parent->second;
  for (const RegionRecord& region : manifest->regions) {
    bool resolved = true;
    RegionState& lost = state.regions[region.name] = check_region(*manifest, region, before, resolved);
    if (!resolved) {
      VerifyFinding one;
      one.file = where.file;
      one.offset = image.summary.offset;
      one.image = name;
      one.region = region.name;
      one.range = {0, region.bytes};
      one.what = fmt::format("the region builds on image {}, which lacks it or is not there", manifest->parent);
      found(std::move(one));
    }
    report_lost(*manifest, region, image, lost);
    good = good && resolved && lost.lost.empty();
  }
  return state;
}

VerifyRun::RegionState VerifyRun::check_region(const Manifest& manifest, const RegionRecord& region,
                                               const ImageState* parent, bool& resolved) {
  RegionState state{region.bytes, region.grid_offset, {}};
  std::vector<ChunkRange> own;
  std::size_t next_name = 0;
  for (const ChunkRun& run : region.runs) {
    if (run.kind == RunKind::zero) continue;
    for (std::uint64_t i = 0; i < run.count; ++i)
      if (!restorable(region.names[next_name++])) append(own, run.first + i, run.first + i + 1);
  }
  if (region.complete) {
    state.lost = std::move(own);
    return state;
  }
  const RegionState* inherited = nullptr;
  if (parent != nullptr)
    if (const auto at = parent->regions.find(region.name); at != parent->regions.end()) inherited = &at->second;
  if (inherited == nullptr || inherited->bytes != region.bytes || inherited->grid_offset != region.grid_offset) {
    resolved = false;
    // Whatever it did not write itself is lost, and so it is for its children.
    const std::vector<ChunkRange> all{{0, chunk_count(region, manifest.chunk_bytes)}};
    state.lost = not_covered(all, region.runs);
  } else {
    state.lost = not_covered(inherited->lost, region.runs);
  }
  state.lost.insert(state.lost.end(), own.begin(), own.end());
  std::ranges::sort(state.lost);
  return state;
}

void VerifyRun::report_lost(const Manifest& manifest, const RegionRecord& region, const Catalogue::Image& image,
                            const RegionState& state) {
  // The names of what this image wrote itself, to say where the bytes should be, and what they may lack.
  ChunkName base;
  const auto place_of = [&](std::uint64_t index) -> std::optional<ChunkPlace> {
    base = kNoBase;
    std::size_t next_name = 0;
    for (const ChunkRun& run : region.runs) {
      if (run.kind == RunKind::zero) continue;
      if (index >= run.first && index < run.first + run.count) {
        const ChunkName& chunk = region.names[next_name + static_cast<std::size_t>(index - run.first)];
        const auto orphan = good_.find(chunk, [&](const ChunkPlace& place) { return orphaned_.contains(place); });
        if (orphan) base = orphaned_.at(*orphan);
        return orphan ? orphan : lost_.find(chunk);
      }
      next_name += static_cast<std::size_t>(run.count);
    }
    return std::nullopt;
  };
  for (const ChunkRange& range : state.lost) {
    const ByteRange first = chunk_extent(region, manifest.chunk_bytes, range.first);
    const ByteRange last = chunk_extent(region, manifest.chunk_bytes, range.second - 1);
    const auto place = place_of(range.first);
    VerifyFinding one;
    one.file = to_string(segments_[(place ? place->segment : image.segment) - 1].name);
    one.offset = place ? place->offset : image.summary.offset;
    one.image = fmt::format("{}/{}", manifest.chain, manifest.number);
    one.region = region.name;
    one.range = {first.offset, last.offset + last.bytes - first.offset};
    one.what = place ? "the frame that holds these bytes is damaged" : "these bytes are in no readable segment";
    if (base != kNoBase) {
      const auto lost = lost_.find(base);
      one.what = fmt::format("these bytes are a difference to chunk {}, {}", to_string(base),
                             lost ? fmt::format("whose frame in {} is damaged",
                                                to_string(StoredAt{view(lost->segment).file, lost->offset}))
                                  : "which is damaged or in no readable segment");
    }
    found(std::move(one));
  }
}

void VerifyRun::check_newest() {
  if (!first_inventory_) return;
  for (const auto& [chain, line] : first_inventory_->chains) {
    const std::uint64_t newest = line.newest_number;
    if (newest == 0 || catalogue_.newest_number(chain) >= newest || catalogue_.retired(chain, newest)) continue;
    VerifyFinding one;
    one.file = kInventoryFile;
    one.image = fmt::format("{}/{}", chain, newest);
    one.what = "the image was recorded and can't be found";
    found(std::move(one));
  }
}

}  // namespace varve::storage
