// SPDX-License-Identifier: Apache-2.0
//
// Keeping what is in memory in step with the directory: loading, refreshing, the inventory, and recovery.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"
#include "storage/chain_lock.h"
#include "storage/store_implementation.h"

namespace varve::storage {
namespace {

constexpr std::size_t kPrefetchDistance = 16;  // chunks: some 100 ns of work each, and memory answers within a µs

/// Whether a new inventory may be written over one that gave this error. Not over one that may be readable later.
bool only_damaged(const Error& error) {
  return error.code() == ErrorCode::corruption || error.code() == ErrorCode::not_found;
}

}  // namespace

Status StoreImplementation::refresh() {
  VARVE_TRY_ASSIGN(const std::shared_ptr<Lock> shared, hold());
  return refresh_held();
}

Status StoreImplementation::refresh_held() {
  const MutexLock serial(refresh_mutex_);
  return refresh_locked();
}

std::uint64_t StoreImplementation::collections() {
  const MutexLock lock(mutex_);
  return inventory_.collections;
}

Status StoreImplementation::refresh_if_collected() {
  auto inventory = read_inventory(*io_, identity_.id);
  if (!inventory) return {};  // damaged: reported when it was loaded; collection does not work on such a store
  {
    const MutexLock lock(mutex_);
    if (inventory->collections == inventory_.collections) return {};
  }
  const MutexLock serial(refresh_mutex_);
  return refresh_locked();
}

Status StoreImplementation::refresh_locked() {
  // The inventory before the list of files: what it names was there then.
  auto inventory = read_inventory(*io_, identity_.id);
  // The segments themselves tell what it says, but for what is missing.
  if (!inventory && !only_damaged(inventory.error()) && !medium_failed(inventory.error())) return inventory.error();
  VARVE_TRY_ASSIGN(const std::vector<SegmentName> names, list_segments(*io_));
  std::vector<SegmentName> load;
  std::vector<std::uint32_t> drops;
  {
    const MutexLock lock(mutex_);
    compare_table(names, load, drops);
  }
  VARVE_TRY_ASSIGN(std::vector<LoadedSegment> loaded,
                   load_segments(*io_, identity_, inventory ? &*inventory : nullptr, std::move(load)));
  std::uint64_t generation = 0;
  for (const LoadedSegment& segment : loaded)
    generation = std::max({generation, segment.header.generation, segment.content.generation});
  std::string rolled_back;
  if (inventory && generation > inventory->generation) {
    // Another writer may have replaced it meanwhile.
    auto again = read_inventory(*io_, identity_.id);
    if (again && generation > again->generation)
      rolled_back = fmt::format("{} is at generation {}, and a segment was written under {}: an old one was put back",
                                kInventoryFile, again->generation, generation);
  }
  const MutexLock lock(mutex_);
  damage_.clear();
  if (!rolled_back.empty()) damage_.push_back(std::move(rolled_back));
  inventory_failure_.reset();
  if (!inventory && medium_failed(inventory.error())) inventory_failure_ = inventory.error();
  note_inventory(inventory, names);
  for (const std::uint32_t ordinal : drops) drop(ordinal);
  // Once for all: each time that it grows, every entry is placed anew.
  std::uint64_t chunks = 0;
  for (const LoadedSegment& segment : loaded)
    if (!by_name_.contains(segment.name)) chunks += segment.content.names.size();
  index_.reserve(chunks);
  for (LoadedSegment& segment : loaded) take(std::move(segment));
  rebuild_catalogue();
  return {};
}

void StoreImplementation::compare_table(const std::vector<SegmentName>& names, std::vector<SegmentName>& load,
                                        std::vector<std::uint32_t>& drops) {
  const std::set<SegmentName> present(names.begin(), names.end());
  for (const Segment& known : segments_)
    if (!known.gone && !known.ours && !present.contains(known.name)) drops.push_back(known.ordinal);
  for (const SegmentName& name : names) {
    const auto at = by_name_.find(name);
    if (at == by_name_.end()) {
      load.push_back(name);
      continue;
    }
    // Sealed ones never change. Damaged ones are looked at again, so that their damage stays known.
    const Segment& known = segment(at->second);
    if (!known.ours && (known.state == SegmentState::open || known.unreadable || known.unindexed)) load.push_back(name);
    // From the start: places that had no room may have it now, since others were collected.
    if (!known.ours && known.unindexed) drops.push_back(known.ordinal);
  }
}

void StoreImplementation::take(LoadedSegment&& loaded) {
  const auto at = by_name_.find(loaded.name);
  std::uint32_t ordinal = 0;
  if (at != by_name_.end()) {
    ordinal = at->second;
    if (segment(ordinal).ours || segment(ordinal).state != SegmentState::open) return;  // changed under our hands
  } else if (segments_.size() < kMaxSegments) {
    segments_.emplace_back();
    ordinal = static_cast<std::uint32_t>(segments_.size());
    by_name_.emplace(loaded.name, ordinal);
    segment(ordinal).ordinal = ordinal;
    segment(ordinal).name = loaded.name;
  } else {
    damage_.push_back(fmt::format("{} is one segment too many for this process", to_string(loaded.name)));
    return;
  }
  Segment& known = segment(ordinal);
  // Of a longer tail of the same segment only what is new. A shorter one: a failed flush had left more in the cache.
  if (loaded.content.end < known.end) {
    index_.erase_segment(ordinal);
    known.end = 0;
  }
  const std::uint64_t indexed_end = known.end;
  known.header = loaded.header;
  known.key = record_key(identity_.id, loaded.header.incarnation);
  known.state = loaded.state;
  known.unreadable = loaded.unreadable;
  known.unopened = loaded.unopened;
  known.read_errno = loaded.read_errno;
  known.end = loaded.content.end;
  known.durable_end = loaded.state == SegmentState::open ? 0 : loaded.content.end;
  known.file_bytes = loaded.file_bytes;
  known.footer_checksum = loaded.footer_checksum;
  known.unscanned = loaded.unscanned;
  known.chunks = loaded.content.names.size();
  known.images = std::move(loaded.content.images);
  known.notes = std::move(loaded.content.notes);
  known.damage = std::move(loaded.damage);
  known.recorded = inventory_.segments.contains(loaded.name);
  if (indexed_end == 0) index_.reserve(loaded.content.names.size());
  std::span<const ChunkName> names(loaded.content.names);
  for (const FooterFrame& frame : loaded.content.frames) {
    if (frame.offset >= indexed_end)
      for (std::uint32_t slot = 0; slot < frame.chunks; ++slot) {
        // Each name's entry lies anywhere: many are on their way from memory at once.
        if (slot + kPrefetchDistance < names.size()) index_.prefetch(names[slot + kPrefetchDistance]);
        if (!index_.insert(names[slot], {ordinal, frame.offset, slot, frame.difference})) known.unindexed = true;
      }
    names = names.subspan(frame.chunks);
  }
}

void StoreImplementation::drop(std::uint32_t ordinal) {
  Segment& known = segment(ordinal);
  index_.erase_segment(ordinal);
  by_name_.erase(known.name);
  known = Segment{};
  known.ordinal = ordinal;
  known.gone = true;
}

void StoreImplementation::add_to_catalogue(const Segment& known) {
  for (const FooterImage& image : known.images) catalogue_.add_image(known.header.chain, image, known.ordinal);
  const std::string file = to_string(known.name);
  for (const FooterNote& content : known.notes) {
    auto note = decode_note(content.content, {file, content.offset});
    if (note) catalogue_.add_note(*note);  // what does not decode is in its segment's damage
  }
}

void StoreImplementation::rebuild_catalogue() {
  // Numbers that failed images used up stay used up.
  std::map<std::string, std::uint64_t> next;
  for (const std::string& chain : catalogue_.chains()) next[chain] = catalogue_.next_number(chain);
  catalogue_.clear();
  for (const Segment& known : segments_)
    if (!known.gone) add_to_catalogue(known);
  for (const auto& [chain, number] : next) catalogue_.raise_next_number(chain, number);
  for (const auto& [chain, line] : inventory_.chains) catalogue_.raise_next_number(chain, line.next_number);
}

void StoreImplementation::note_inventory(const Result<Inventory>& inventory, const std::vector<SegmentName>& names) {
  if (!inventory) {
    damage_.push_back(inventory.error().what() + ": " + inventory.error().cause());
    return;
  }
  inventory_ = *inventory;
  for (Segment& known : segments_)  // may have been loaded when the inventory could not be read
    if (!known.gone && inventory_.segments.contains(known.name)) known.recorded = true;
  for (const auto& [name, line] : inventory->segments)
    if (!std::ranges::binary_search(names, name))
      damage_.push_back(fmt::format("{} is missing; it had {} bytes", to_string(name), line.bytes));
}

std::uint64_t StoreImplementation::inventory_generation() {
  const MutexLock lock(mutex_);
  return durable_generation_;
}

Status StoreImplementation::check_inventory_was_read() {
  const MutexLock lock(mutex_);
  if (inventory_failure_) return *inventory_failure_;
  return {};
}

void StoreImplementation::settle_inventory() {
  std::uint64_t generation = 0;
  {
    const MutexLock lock(mutex_);
    generation = inventory_.generation;
  }
  if (!io_->sync_directory("")) return;
  const MutexLock lock(mutex_);
  durable_generation_ = std::max(durable_generation_, generation);
}

Inventory StoreImplementation::merged_inventory(const Result<Inventory>& current, const std::vector<SegmentName>& files,
                                                const std::string& chain) {
  Inventory merged;
  merged.store = identity_.id;
  std::uint64_t generation = inventory_.generation;
  if (current) {
    merged = *current;
    generation = std::max(generation, current->generation);
  }
  for (const Segment& known : segments_) {
    generation = std::max(generation, known.header.generation);
    // What garbage collection removed behind our back must not come back as missing.
    const bool there = std::ranges::binary_search(files, known.name);
    if (known.gone || !known.recorded || !there) continue;
    // Of other chains only their writers know: a line that is not there may have been taken away by a collection.
    if (current && known.header.chain != chain) continue;
    const bool own_footer = known.state == SegmentState::sealed;
    // A line that is there already stays: it says what the segment was like before any damage.
    const InventorySegment as_it_is{own_footer ? known.file_bytes : known.end, own_footer ? known.footer_checksum : 0};
    if (!merged.segments.try_emplace(known.name, as_it_is).second || known.header.chain.empty()) continue;
    // May be of another chain, when recording it failed at first: what its images used up goes with it.
    InventoryChain& line = merged.chains[known.header.chain];
    for (const FooterImage& image : known.images) {
      line.next_number = std::max(line.next_number, image.number + 1);
      if (!catalogue_.retired(known.header.chain, image.number))
        line.newest_number = std::max(line.newest_number, image.number);
    }
  }
  // Of other chains only their writers know what is durable.
  InventoryChain& line = merged.chains[chain];
  line.next_number = std::max(line.next_number, catalogue_.next_number(chain));
  const std::uint64_t listed = catalogue_.newest_number(chain);
  if (listed > line.newest_number || catalogue_.retired(chain, line.newest_number)) line.newest_number = listed;
  merged.generation = generation + 1;
  return merged;
}

Status StoreImplementation::record_inventory(const std::string& chain) {
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> table, lock_table(*io_));
  auto current = read_inventory(*io_, identity_.id);
  if (!current && !only_damaged(current.error())) return current.error();
  VARVE_TRY_ASSIGN(const std::vector<SegmentName> files, list_segments(*io_));
  Inventory merged;
  {
    const MutexLock lock(mutex_);
    merged = merged_inventory(current, files, chain);
  }
  VARVE_TRY(write_inventory(*io_, merged));
  const MutexLock lock(mutex_);
  // Of another process's collection we have not seen the effects yet: refresh_if_collected() is to notice it.
  merged.collections = inventory_.collections;
  durable_generation_ = merged.generation;
  inventory_ = std::move(merged);
  return {};
}

void StoreImplementation::skip_hidden_numbers(const std::string& chain) {
  // The inventory knows the numbers of what it lists. Elsewhere an image takes a block at least.
  std::uint64_t hidden = 0;
  for (const Segment& known : segments_)
    if (may_hide(known, chain) && !inventory_.segments.contains(known.name))
      hidden += (known.unopened ? kMaxSegmentBytes : known.file_bytes) / kBlockBytes;
  if (hidden != 0) catalogue_.raise_next_number(chain, catalogue_.next_number(chain) + hidden);
}

Status StoreImplementation::recover_chain(const std::string& chain) {
  std::vector<std::pair<std::uint32_t, SegmentName>> left;
  {
    const MutexLock lock(mutex_);
    skip_hidden_numbers(chain);
    for (Segment& known : segments_) {
      if (known.gone || known.ours || known.unreadable || known.recorded || known.header.chain != chain) continue;
      if (known.state == SegmentState::sealed_elsewhere)
        known.recorded = true;  // as good as listed: what lies before its end was durable before the note was written
      else
        left.emplace_back(known.ordinal, known.name);
    }
  }
  if (left.empty()) return {};
  for (const auto& [ordinal, name] : left) VARVE_TRY(recover_segment(ordinal, name));
  return record_inventory(chain);
}

Status StoreImplementation::recover_segment(std::uint32_t ordinal, const SegmentName& name) {
  // Past the page cache: after a flush that failed it may show what the disk does not have.
  VARVE_TRY_ASSIGN(SegmentFile file, open_segment(*io_, identity_.id, name, OpenMode::write_direct));
  if (!file.header) return damaged("the segment's header", {to_string(name), 0}, file.damage.front());
  VARVE_TRY(file.file->sync());
  LoadedSegment loaded;
  loaded.name = name;
  loaded.header = *file.header;
  loaded.file_bytes = file.bytes;
  if (auto found = read_footer(file, identity_.id))
    // Sealed, and its writer died before it was recorded: the footer is written once more, since nobody knows whether
    // the flush returned. What it lists is durable, or it would not be listed.
    loaded.content = std::move(found->footer);
  else
    VARVE_TRY(scan_into(loaded, file, kSegmentHeaderBytes, file.bytes, identity_.chunk_bytes));
  VARVE_FAULT_POINT(recovery_scanned);
  const bool empty = loaded.content.images.empty() && loaded.content.notes.empty();
  if (empty) {
    file.file.reset();
    VARVE_TRY(io_->remove(to_string(name)));
    VARVE_TRY(io_->sync_directory(kSegmentFolder));
    log::info("storage", "{} of a killed writer held no whole image and was removed", to_string(name));
  } else {
    const std::uint64_t end = loaded.content.end;
    VARVE_TRY(seal_file(*io_, loaded, *file.file, inventory_generation()));
    log::info("storage", "{} of a killed writer was sealed at offset {}", to_string(name), end);
  }
  VARVE_FAULT_POINT(recovery_sealed);
  const MutexLock lock(mutex_);
  // From the start: what was read before may have been less, or (from the page cache) more.
  drop(ordinal);
  if (!empty) {
    take(std::move(loaded));
    segments_.back().recorded = true;
  }
  rebuild_catalogue();
  return {};
}

}  // namespace varve::storage
