// SPDX-License-Identifier: Apache-2.0
#include "engine/image_writer.h"

#include <sys/utsname.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"

namespace varve {
namespace {

using storage::RegionRecord;
using storage::RunKind;

void fill_header(const RegionCut& cut, RegionRecord& record) {
  const Region& region = *cut.region;
  record.name = region.name;
  record.bytes = region.bytes();
  record.grid_offset = static_cast<std::uint32_t>(region.grid.grid_offset());
  record.element_bytes = region.element_bytes;
  record.address = region.address();
  record.protection = region.traits.protection;
  record.excluded = cut.exclusions->ranges;
}

/// Both ascending and disjoint, and so is what `into` becomes.
void merge(RegionRecord& into, RegionRecord&& other) {
  if (other.runs.empty()) return;
  const RegionRecord one = std::exchange(into, {});
  into.names.reserve(one.names.size() + other.names.size());
  struct Rest {
    const RegionRecord& record;
    std::size_t run = 0;
    std::size_t name = 0;
    bool any() const { return run < record.runs.size(); }
    std::uint64_t first() const { return record.runs[run].first; }
  };
  Rest rest[] = {{one}, {other}};
  while (rest[0].any() || rest[1].any()) {
    Rest& next = !rest[1].any() || (rest[0].any() && rest[0].first() < rest[1].first()) ? rest[0] : rest[1];
    const storage::ChunkRun& run = next.record.runs[next.run++];
    append_run(into, run);
    if (run.kind != RunKind::named) continue;
    const auto names = next.record.names.begin() + static_cast<std::ptrdiff_t>(next.name);
    into.names.insert(into.names.end(), names, names + static_cast<std::ptrdiff_t>(run.count));
    next.name += run.count;
  }
}

void merge(std::vector<ChunkRange>& into, const std::vector<ChunkRange>& other) {
  if (other.empty()) return;
  std::vector<ChunkRange> both(into.size() + other.size());
  std::merge(into.begin(), into.end(), other.begin(), other.end(), both.begin(),
             [](const ChunkRange& left, const ChunkRange& right) { return left.first < right.first; });
  into.clear();
  for (const ChunkRange& run : both) append_run(into, run);
}

/// Whether a record has every chunk that is not wholly excluded: none needs to be taken from the image before.
bool names_all(const RegionRecord& changed, const RegionCut& cut) {
  std::uint64_t chunks = 0;
  for (const auto& run : changed.runs) chunks += run.count;
  for (const auto& absent : cut.exclusions->whole_chunks) chunks += absent.count;
  return chunks == cut.region->grid.count();
}

}  // namespace

std::string_view architecture() {
  static const utsname* const machine = [] {
    auto* name = new utsname{};
    VARVE_CHECK(uname(name) == 0);
    return name;
  }();
  return machine->machine;
}

Result<ImageResult> ImageWriter::write(ImageJob& job, std::vector<ReducedRegion>& reduced,
                                       const std::atomic<bool>& dropping) {
  const std::uint64_t begin_ns = monotonic_ns();
  const std::uint64_t paced_before_ns = paced_ns();
  Counts counts;
  auto status = check_dropping(job, dropping);
  if (status) see_other_chains(job);
  if (status) status = chain_.begin();
  if (status) {
    status = reduce(job, reduced, counts, dropping);
    if (!status) chain_.abandon();
  }
  job.stream->discard();  // before the flush, so that staging is free for the next cut
  if (!status) return status.error();
  VARVE_FAULT_POINT(reduce_done);

  const std::uint64_t reduced_ns = monotonic_ns();
  const auto manifest = make_manifest(job, reduced);
  VARVE_TRY_ASSIGN(const auto committed, chain_.commit(manifest));
  const std::uint64_t committed_ns = monotonic_ns();
  const std::uint64_t live_bytes = job.stream->live_bytes();
  job.stream.reset();  // reaps what held the memory, and has ended meanwhile
  VARVE_CHECK(counts.named >= committed.new_chunks);
  adopt(job, manifest);

  const auto stall = job.stall.wait();
  ImageResult result = job.result;
  result.image = job.number;
  result.kind = manifest.kind == storage::ImageKind::full ? ImageKind::full : ImageKind::delta;
  result.parent = manifest.parent;
  result.durable = committed.durable;
  result.unchanged_chunks = counts.unchanged;
  result.changed_chunks = counts.zero + counts.named;
  result.zero_chunks = counts.zero;
  result.new_chunks = committed.new_chunks;
  result.deduplicated_chunks = counts.named - committed.new_chunks;
  result.live_bytes = live_bytes;
  result.raw_bytes = committed.raw_bytes;
  result.written_bytes = committed.written_bytes;
  result.stall_ns = stall.stall_ns;
  result.capture_ns = stall.capture_ns;
  result.capture = stall.capture;
  result.capture_why = stall.capture_why;
  result.reduce_ns = reduced_ns - begin_ns;
  result.commit_ns = committed_ns - reduced_ns;
  result.durable_ns = committed_ns - job.begin_ns;
  result.paced_ns = paced_ns() - paced_before_ns;
  return result;
}

Status ImageWriter::check_dropping(const ImageJob& job, const std::atomic<bool>& dropping) const {
  if (!dropping.load(std::memory_order_relaxed)) return {};
  return fail(ErrorCode::invalid_argument,
              {fmt::format("image {}/{} dropped", options_.chain, job.number),
               "its engine was destroyed before the image was written", "call close() first: it waits"});
}

void ImageWriter::see_other_chains(const ImageJob& job) {
  const bool new_region = std::any_of(job.regions.begin(), job.regions.end(),
                                      [](const RegionCut& cut) { return cut.region->capture_all.load(); });
  if (!new_region) return;
  if (const auto seen = store_.refresh(); !seen) log::debug("engine", "{}", seen.error().message());
}

Status ImageWriter::reduce(ImageJob& job, std::vector<ReducedRegion>& reduced, Counts& counts,
                           const std::atomic<bool>& dropping) {
  reduced.assign(job.regions.size(), {});
  std::uint64_t new_chunks = 0;
  for (std::size_t i = 0; i < job.regions.size(); ++i) {
    const Region& region = *job.regions[i].region;
    if (!region.capture_all.load()) continue;
    reduced[i].changed.names.reserve(region.grid.count());  // they would grow by doubling
    new_chunks += region.grid.count();
  }
  chain_.expect(new_chunks);
  std::vector<ReducedRegion> second_pass(job.regions.size());
  [[maybe_unused]] std::uint64_t read_bytes = 0;
  while (true) {
    VARVE_TRY(check_dropping(job, dropping));
    VARVE_TRY_ASSIGN(const auto piece, job.stream->next());
    if (!piece.has_value()) break;
    VARVE_CHECK(piece->region < job.regions.size());
    auto& pass = piece->second_pass ? second_pass : reduced;
    VARVE_TRY(reduce_piece(job.regions[piece->region], *piece, pass[piece->region], counts));
    const std::uint64_t before = read_bytes;
    read_bytes += piece->content.size();
    if (before < job.result.captured_bytes / 2 && read_bytes >= job.result.captured_bytes / 2)
      VARVE_FAULT_POINT(reduce_half);
  }
  for (std::size_t i = 0; i < reduced.size(); ++i) {
    merge(reduced[i].changed, std::move(second_pass[i].changed));
    merge(reduced[i].unchanged, second_pass[i].unchanged);
  }
  return {};
}

Status ImageWriter::reduce_piece(const RegionCut& cut, const CapturedPiece& piece, ReducedRegion& reduced,
                                 Counts& counts) {
  const Region& region = *cut.region;
  const std::uint64_t at = piece.begin - region.address();
  const ChunkRange chunks = region.grid.touching({at, piece.content.size()});
  const auto covered = region.grid.extent(chunks);
  VARVE_CHECK(covered.offset == at && covered.bytes == piece.content.size());  // whole chunks, cut to the region

  std::array<Chunk, kBatch> batch;
  std::array<storage::ChunkName, kBatch> changed;
  for (std::uint64_t first = chunks.first; first < chunks.end(); first += kBatch) {
    const std::size_t count = std::min<std::uint64_t>(kBatch, chunks.end() - first);
    std::size_t names = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const auto extent = region.grid.extent(first + i);
      batch[i] = look_at(cut, first + i, piece.content.subspan(extent.offset - at, extent.bytes), i);
      if (batch[i].found == Chunk::Found::changed) changed[names++] = batch[i].name;
    }
    chain_.look_up(std::span(changed).first(names));
    for (std::size_t i = 0; i < count; ++i) VARVE_TRY(take(cut, first + i, batch[i], reduced, counts));
  }
  return {};
}

ImageWriter::Chunk ImageWriter::look_at(const RegionCut& cut, std::uint64_t index, std::span<const std::byte> content,
                                        std::size_t slot) {
  const Region& region = *cut.region;
  const NameTable& committed = region.committed.names;
  const auto extent = region.grid.extent(index);
  if (overlaps(cut.exclusions->ranges, extent)) {
    masked_[slot].assign(content.begin(), content.end());
    zero_ranges(cut.exclusions->ranges, extent.offset, masked_[slot]);
    content = masked_[slot];
  }
  using Found = Chunk::Found;
  if (storage::is_zero(content)) return {content, {}, committed.zero(index) ? Found::unchanged : Found::zero};
  const auto name = store_.name_of(content);
  VARVE_CHECK(!NameTable::reserved(name));
  return {content, name, committed.is(index, name) ? Found::unchanged : Found::changed};
}

Status ImageWriter::take(const RegionCut& cut, std::uint64_t index, const Chunk& chunk, ReducedRegion& reduced,
                         Counts& counts) {
  switch (chunk.found) {
    case Chunk::Found::unchanged: {
      const bool named = !cut.region->committed.names.zero(index);
      if (named && options_.verify_on_dedup) VARVE_TRY(chain_.confirm(chunk.name, chunk.content));
      ++counts.unchanged;
      append_run(reduced.unchanged, {index, 1});
      break;
    }
    case Chunk::Found::zero:
      ++counts.zero;
      append_chunk(reduced.changed, index, RunKind::zero);
      break;
    case Chunk::Found::changed:
      VARVE_TRY(chain_.add(chunk.name, chunk.content, cut.region->element_bytes,
                           cut.region->committed.names.name_or_none(index)));
      ++counts.named;
      append_chunk(reduced.changed, index, RunKind::named);
      reduced.changed.names.push_back(chunk.name);
      break;
  }
  return {};
}

storage::Manifest ImageWriter::make_manifest(const ImageJob& job, std::vector<ReducedRegion>& reduced) const {
  storage::Manifest manifest;
  manifest.chain = options_.chain;
  manifest.number = job.number;
  manifest.parent = line_.parent;
  const bool due = options_.full_every != 0 && line_.deltas_since_full + 1 >= options_.full_every;
  manifest.kind = job.want_full || line_.parent == 0 || due ? storage::ImageKind::full : storage::ImageKind::delta;
  manifest.time_ns = job.time_ns;
  manifest.label = job.label;
  manifest.architecture = architecture();
  manifest.page_bytes = static_cast<std::uint32_t>(tracker::page_bytes());
  manifest.chunk_bytes = store_.chunk_bytes();
  for (std::size_t i = 0; i < job.regions.size(); ++i) {
    const RegionCut& cut = job.regions[i];
    const bool new_region = cut.region->capture_all.load(std::memory_order_acquire);
    RegionRecord record;
    if (!new_region && manifest.kind == storage::ImageKind::delta) {
      record = std::move(reduced[i].changed);
    } else if (names_all(reduced[i].changed, cut)) {
      record = std::move(reduced[i].changed);
      record.complete = true;
    } else {
      std::uint64_t unknown = 0;
      const bool all =
          cut.region->committed.names.write_to(record, cut.exclusions->whole_chunks, &reduced[i].changed, unknown);
      VARVE_CHECK(all);  // the cut captured what is not committed: Region::capture_all
      record.complete = true;
      reduced[i].changed = {};
    }
    fill_header(cut, record);
    manifest.regions.push_back(std::move(record));
  }
  return manifest;
}

void ImageWriter::adopt(const ImageJob& job, const storage::Manifest& manifest) {
  for (std::size_t i = 0; i < job.regions.size(); ++i) {
    Region& region = *job.regions[i].region;
    region.committed.names.overwrite(manifest.regions[i]);
    VARVE_AUDIT(region.committed.names.complete(job.regions[i].exclusions->whole_chunks));
    region.capture_all.store(false, std::memory_order_release);
  }
  line_.deltas_since_full = manifest.kind == storage::ImageKind::full ? 0 : line_.deltas_since_full + 1;
  line_.parent = manifest.number;
}

}  // namespace varve
