// SPDX-License-Identifier: Apache-2.0
//
// What a store knows for garbage collection (collect.h), and the removal of segments.
#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "base/fault_point.h"
#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/manifest_reader.h"
#include "storage/store_implementation.h"

namespace varve::storage {

Status StoreImplementation::check_collectable() {
  const auto refused = [&](ErrorCode code, std::string cause, std::string remedy) {
    return fail(code, {fmt::format("collecting garbage of store {} refused", io_->directory()), std::move(cause),
                       std::move(remedy)});
  };
  const MutexLock lock(mutex_);
  const std::string* damage = damage_.empty() ? nullptr : &damage_.front();
  for (const Segment& known : segments_) {
    if (known.gone) continue;
    if (known.unscanned)
      return refused(ErrorCode::unsupported,
                     fmt::format("{} is being written, and may not be opened for writing here, so that its images "
                                 "can't be known",
                                 to_string(known.name)),
                     "collect as the user who owns the store");
    if (damage == nullptr && !known.damage.empty()) damage = &known.damage.front();
  }
  if (damage == nullptr) return {};
  return refused(ErrorCode::corruption, *damage,
                 "run `varve verify`: what can't be read may be needed, so that nothing is removed beside it");
}

std::vector<ListedImage> StoreImplementation::listed_images() {
  std::vector<ListedImage> images;
  const MutexLock lock(mutex_);
  catalogue_.each([&](const std::string& chain, const Catalogue::Image& image, const std::string&, bool) {
    images.push_back({chain, image.summary, image.segment});
  });
  return images;
}

Result<Manifest> StoreImplementation::read_listed(const ListedImage& image) {
  const SegmentView where = view(image.segment);
  VARVE_TRY_ASSIGN(Manifest manifest, read_manifest_record(*io_, where, image.summary.offset));
  if (manifest.chain != image.chain || manifest.number != image.summary.number ||
      manifest.revision != image.summary.revision || manifest.chunk_bytes != identity_.chunk_bytes)
    return damaged("the manifest", {where.file, image.summary.offset},
                   fmt::format("it is of image {} of chain '{}'", manifest.number, manifest.chain));
  return manifest;
}

std::vector<CollectableSegment> StoreImplementation::segments_of(std::string_view chain) {
  std::vector<CollectableSegment> found;
  const MutexLock lock(mutex_);
  for (const Segment& known : segments_) {
    if (known.gone || known.header.chain != chain) continue;
    CollectableSegment& one = found.emplace_back();
    one.ordinal = known.ordinal;
    one.name = known.name;
    one.bytes = known.state == SegmentState::open ? known.end : std::max(known.file_bytes, known.end);
    one.chunks = known.chunks;
    one.images = known.images;
    const bool sealed = known.state == SegmentState::sealed ||
                        (known.state == SegmentState::sealed_elsewhere && inventory_.segments.contains(known.name));
    if (known.ours || !sealed) one.why_not = "it is being written";
    for (const FooterNote& content : known.notes) {
      auto note = decode_note(content.content, {{}, content.offset});
      if (!note)
        one.why_not = "a note in it can't be read";
      else if (note->kind == NoteKind::seal && by_name_.contains(note->seal.name))
        one.why_not = fmt::format("it says where {} ends", to_string(note->seal.name));
    }
  }
  return found;
}

std::uint64_t StoreImplementation::stored_bytes(std::string_view chain) {
  std::uint64_t bytes = 0;
  const MutexLock lock(mutex_);
  for (const Segment& known : segments_)
    if (!known.gone && known.header.chain == chain) bytes += std::max(known.file_bytes, known.end);
  return bytes;
}

std::vector<std::string> StoreImplementation::chains() {
  std::set<std::string> names;
  const MutexLock lock(mutex_);
  for (const Segment& known : segments_)
    if (!known.gone && !known.header.chain.empty()) names.insert(known.header.chain);
  return {names.begin(), names.end()};
}

SegmentName StoreImplementation::name_of_segment(std::uint32_t ordinal) {
  const MutexLock lock(mutex_);
  return segment(ordinal).name;
}

std::optional<ChunkPlace> StoreImplementation::find_keeper(const ChunkName& name, bool base) {
  std::optional<ChunkPlace> best;
  std::tuple<bool, bool, std::uint64_t, SegmentName> best_rank;  // the higher the better
  const MutexLock lock(mutex_);
  index_.find(name, [&](const ChunkPlace& place) VARVE_NO_THREAD_SAFETY_ANALYSIS {
    if (base && place.difference) return false;
    const Segment& known = segment(place.segment);
    const bool durable = place.offset < known.durable_end;
    const std::tuple rank(durable, !place.difference, known.header.time_ns, known.name);
    if (!best || rank > best_rank) {
      best = place;
      best_rank = rank;
    }
    return false;
  });
  return best;
}

std::vector<std::uint32_t> StoreImplementation::only_in(const ChunkName& name, const std::set<std::uint32_t>& leaving,
                                                        bool base) {
  std::vector<std::uint32_t> holders;
  const MutexLock lock(mutex_);
  const auto elsewhere = index_.find(name, [&](const ChunkPlace& place) VARVE_NO_THREAD_SAFETY_ANALYSIS {
    if (base && place.difference) return false;
    if (leaving.contains(place.segment)) {
      holders.push_back(place.segment);
      return false;
    }
    return place.offset < segment(place.segment).durable_end;
  });
  if (elsewhere) holders.clear();
  return holders;
}

bool StoreImplementation::stays_plain(const ChunkName& name, const std::set<std::uint32_t>& leaving) {
  const MutexLock lock(mutex_);
  const auto place = index_.find(name, [&](const ChunkPlace& one) VARVE_NO_THREAD_SAFETY_ANALYSIS {
    return !one.difference && !leaving.contains(one.segment) && one.offset < segment(one.segment).durable_end;
  });
  return place.has_value();
}

void StoreImplementation::set_leaving(std::span<const std::uint32_t> ordinals, bool leaving) {
  const MutexLock lock(mutex_);
  for (const std::uint32_t ordinal : ordinals) segment(ordinal).leaving = leaving && !segment(ordinal).gone;
}

std::vector<Note> StoreImplementation::notes_to_keep(std::uint32_t ordinal) {
  std::vector<Note> kept;
  const MutexLock lock(mutex_);
  const Segment& from = segment(ordinal);
  const std::string& chain = from.header.chain;
  std::set<std::uint64_t> stored;  // numbers of which a manifest is there
  for (const Segment& known : segments_)
    if (!known.gone && known.header.chain == chain)
      for (const FooterImage& image : known.images) stored.insert(image.number);
  std::set<std::uint64_t> retired;
  std::set<std::uint64_t> labelled;
  std::set<std::uint64_t> pinned;
  for (const FooterNote& content : from.notes) {
    auto note = decode_note(content.content, {{}, content.offset});
    if (!note) continue;  // such a segment is not collected
    for (const std::uint64_t number : note->numbers) {
      const bool listed = catalogue_.find(chain, number) != nullptr;
      if (note->kind == NoteKind::retire && stored.contains(number)) retired.insert(number);
      if (note->kind == NoteKind::label && listed) labelled.insert(number);
      if ((note->kind == NoteKind::pin || note->kind == NoteKind::unpin) && listed) pinned.insert(number);
    }
  }
  if (!retired.empty()) kept.push_back({NoteKind::retire, 0, chain, {retired.begin(), retired.end()}, {}, {}, {}});
  for (const std::uint64_t number : labelled)
    kept.push_back({NoteKind::label, 0, chain, {number}, catalogue_.label(chain, number), {}, {}});
  for (const std::uint64_t number : pinned) {
    const NoteKind kind = catalogue_.pinned(chain, number) ? NoteKind::pin : NoteKind::unpin;
    kept.push_back({kind, 0, chain, {number}, {}, {}, {}});
  }
  return kept;
}

Result<std::uint64_t> StoreImplementation::remove_segments(const std::string& chain,
                                                           std::span<const std::uint32_t> ordinals) {
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> table, lock_table(*io_));
  auto current = read_inventory(*io_, identity_.id);
  if (!current) return current.error();
  VARVE_TRY_ASSIGN(const std::vector<SegmentName> files, list_segments(*io_));
  std::vector<std::pair<std::string, std::uint64_t>> leaving;
  Inventory merged;
  {
    const MutexLock lock(mutex_);
    merged = merged_inventory(current, files, chain);
    for (const std::uint32_t ordinal : ordinals) {
      const Segment& known = segment(ordinal);
      if (known.gone) continue;
      leaving.emplace_back(to_string(known.name), known.file_bytes);
      merged.segments.erase(known.name);
    }
  }
  merged.collections = current->collections + 1;
  VARVE_TRY(write_inventory(*io_, merged));
  VARVE_FAULT_POINT(collection_recorded);
  {
    const MutexLock lock(mutex_);
    durable_generation_ = merged.generation;
    inventory_ = std::move(merged);
    for (const std::uint32_t ordinal : ordinals)
      if (!segment(ordinal).gone) drop(ordinal);
    rebuild_catalogue();
  }
  std::uint64_t freed = 0;
  for (const auto& [file, bytes] : leaving) {
    VARVE_TRY(io_->remove(file));
    freed += bytes;
    VARVE_FAULT_POINT(collection_removed_one);
  }
  VARVE_TRY(io_->sync_directory(kSegmentFolder));
  VARVE_FAULT_POINT(collection_removed);
  return freed;
}

}  // namespace varve::storage
