// SPDX-License-Identifier: Apache-2.0
#include "storage/chunk_index.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace varve::storage {
namespace {

constexpr std::size_t kShards = 64;
constexpr std::uint64_t kSplitAt = 8192;  // entries
constexpr std::uint64_t kSplitCapacity = kSplitAt / kShards * 13 / 10;
constexpr std::uint32_t kFirstCapacity = 32;
constexpr std::uint64_t kGrowingPart = 8;

// A place in 64 bits: segment (19), difference (1), offset / 64 (36), slot (8). Segments count from 1, so that 0 is no
// place.
constexpr unsigned kSlotBits = 8;
constexpr unsigned kOffsetBits = 36;
constexpr unsigned kDifferenceAt = kSlotBits + kOffsetBits;
constexpr unsigned kSegmentAt = kDifferenceAt + 1;
static_assert(std::uint64_t{kMaxSegments} << kSegmentAt >> kSegmentAt == kMaxSegments);
static_assert(kMaxSegmentBytes / kRecordAlignment == std::uint64_t{1} << kOffsetBits);
static_assert(kFrameChunks == 1U << kSlotBits);

/// Entries that an array of this capacity may hold.
constexpr std::uint64_t bound(std::uint64_t capacity) { return capacity * 87 / 100; }

/// For that many entries, and some: names spread evenly, and a shard that gets more than its part grows as it goes.
constexpr std::uint64_t capacity_for(std::uint64_t entries) {
  return std::max<std::uint64_t>(kFirstCapacity, entries * 100 / 80);
}

}  // namespace

ChunkIndex::ChunkIndex() : shards_(1) {}

std::uint64_t ChunkIndex::pack(const ChunkPlace& place) {
  VARVE_CHECK(place.segment != 0 && place.segment <= kMaxSegments && place.offset < kMaxSegmentBytes &&
              place.offset % kRecordAlignment == 0 && place.slot < kFrameChunks);
  return std::uint64_t{place.segment} << kSegmentAt | std::uint64_t{place.difference} << kDifferenceAt |
         place.offset / kRecordAlignment << kSlotBits | place.slot;
}

ChunkPlace ChunkIndex::unpack(std::uint64_t place) {
  return {static_cast<std::uint32_t>(place >> kSegmentAt),
          ((place >> kSlotBits) & ((std::uint64_t{1} << kOffsetBits) - 1)) * kRecordAlignment,
          static_cast<std::uint32_t>(place & ((1U << kSlotBits) - 1)), (place >> kDifferenceAt & 1) != 0};
}

void ChunkIndex::Shard::put(Entry entry) {
  std::uint32_t slot = home(entry.name);
  for (std::uint32_t away = 0;; ++away, slot = next(slot)) {
    if (entries[slot].place == 0) break;
    if (const std::uint32_t other = distance(slot); other < away) {
      std::swap(entry, entries[slot]);
      away = other;
    }
  }
  entries[slot] = entry;
  ++size;
}

void ChunkIndex::Shard::grow(std::uint64_t wanted) { move_to(UnforkedArray<Entry>(wanted), wanted); }

void ChunkIndex::Shard::move_to(UnforkedArray<Entry> room, std::uint64_t wanted) {
  VARVE_CHECK(wanted > capacity && wanted < std::uint64_t{1} << 32);
  Shard larger;
  larger.capacity = static_cast<std::uint32_t>(wanted);
  larger.entries = std::move(room);
  larger.entries.fault_in();  // what is moved goes all over it
  for (std::uint32_t slot = 0; slot < capacity; ++slot)
    if (entries[slot].place != 0) larger.put(entries[slot]);
  *this = std::move(larger);
}

bool ChunkIndex::Shard::erase(std::uint32_t slot) {
  // Entries behind move up until one is at home, so that no look-up ends too early.
  for (std::uint32_t behind = next(slot); entries[behind].place != 0 && distance(behind) != 0; behind = next(behind)) {
    entries[slot] = entries[behind];
    slot = behind;
  }
  entries[slot] = {};
  --size;
  return true;
}

bool ChunkIndex::insert(const ChunkName& name, const ChunkPlace& place) {
  std::uint32_t copies = 0;
  std::optional<ChunkPlace> difference;
  find(name, [&](const ChunkPlace& other) {
    VARVE_AUDIT(other != place);
    ++copies;
    if (other.difference) difference = other;
    return false;
  });
  if (copies >= kMaxCopies) {
    if (!place.difference && difference && erase(name, *difference)) insert(name, place);
    return false;
  }
  if (shards_.size() == 1 && size_ >= kSplitAt) split(kSplitCapacity);
  Shard& shard = shard_of(name);
  if (shard.size + 1 > bound(shard.capacity))
    shard.grow(std::max<std::uint64_t>(kFirstCapacity, std::uint64_t{shard.capacity} * 13 / 10));
  shard.put({name, pack(place)});
  ++size_;
  if (inserts_left_ != 0 && --inserts_left_ == 0) go_on_growing();
  return true;
}

bool ChunkIndex::erase(const ChunkName& name, const ChunkPlace& place) {
  Shard& shard = shard_of(name);
  if (shard.size == 0) return false;
  const std::uint64_t packed = pack(place);
  std::uint32_t slot = shard.home(name);
  for (std::uint32_t away = 0; shard.entries[slot].place != 0; ++away, slot = shard.next(slot)) {
    const Entry& entry = shard.entries[slot];
    if (entry.name == name && entry.place == packed) {
      --size_;
      return shard.erase(slot);
    }
    if (shard.distance(slot) < away) return false;
  }
  return false;
}

void ChunkIndex::erase_segment(std::uint32_t segment) {
  for (Shard& shard : shards_) {
    Shard kept;
    kept.capacity = shard.capacity;
    kept.entries = UnforkedArray<Entry>(shard.capacity);
    for (std::uint32_t slot = 0; slot < shard.capacity; ++slot)
      if (shard.entries[slot].place != 0 && unpack(shard.entries[slot].place).segment != segment)
        kept.put(shard.entries[slot]);
    size_ -= shard.size - kept.size;
    shard = std::move(kept);
  }
}

void ChunkIndex::split(std::uint64_t capacity) {
  const Shard all = std::move(shards_.front());
  shards_ = std::vector<Shard>(kShards);
  inserts_left_ = 0;
  expected_rooms_.clear();
  auto arrays = rooms(capacity);
  for (std::size_t i = 0; i < kShards; ++i) shards_[i].move_to(std::move(arrays[i]), capacity);
  for (std::uint32_t slot = 0; slot < all.capacity; ++slot) {
    if (all.entries[slot].place == 0) continue;
    Shard& shard = shard_of(all.entries[slot].name);
    if (shard.size + 1 > bound(shard.capacity)) shard.grow(std::uint64_t{shard.capacity} * 13 / 10);
    shard.put(all.entries[slot]);
  }
}

void ChunkIndex::reserve(std::uint64_t count) {
  if (shards_.size() == 1 && size_ + count > kSplitAt) split(capacity_for((size_ + count) / kShards));
  const std::uint64_t each = (size_ + count) / shards_.size();
  const auto has_room = [each](const Shard& shard) { return each <= bound(shard.capacity); };
  if (std::ranges::all_of(shards_, has_room)) return;
  auto arrays = rooms(capacity_for(each));
  for (std::size_t i = 0; i < shards_.size(); ++i)
    if (!has_room(shards_[i])) shards_[i].move_to(std::move(arrays[i]), capacity_for(each));
}

std::vector<UnforkedArray<ChunkIndex::Entry>> ChunkIndex::rooms(std::uint64_t capacity) const {
  return UnforkedArray<Entry>::several(shards_.size(), capacity);
}

void ChunkIndex::expect(std::uint64_t count) {
  if (shards_.size() == 1 && size_ + count > kSplitAt) split(kSplitCapacity);
  const std::uint64_t each = (size_ + count) / shards_.size();
  expected_capacity_ = capacity_for(each);
  expected_rooms_ = rooms(expected_capacity_);
  inserts_a_shard_ = std::max<std::uint64_t>(1, count / kGrowingPart / shards_.size());
  next_to_grow_ = 0;
  go_on_growing();
}

void ChunkIndex::go_on_growing() {
  Shard& shard = shards_[next_to_grow_];
  if (shard.capacity < expected_capacity_) shard.move_to(std::move(expected_rooms_[next_to_grow_]), expected_capacity_);
  inserts_left_ = ++next_to_grow_ < shards_.size() ? inserts_a_shard_ : 0;
  if (inserts_left_ == 0) expected_rooms_.clear();
}

std::uint64_t ChunkIndex::memory_bytes() const {
  std::uint64_t bytes = shards_.size() * sizeof(Shard);
  for (const Shard& shard : shards_) bytes += std::uint64_t{shard.capacity} * sizeof(Entry);
  return bytes;
}

std::uint64_t ChunkIndex::longest_probe() const {
  std::uint64_t longest = 0;
  for (const Shard& shard : shards_)
    for (std::uint32_t slot = 0; slot < shard.capacity; ++slot)
      if (shard.entries[slot].place != 0) longest = std::max<std::uint64_t>(longest, shard.distance(slot));
  return longest;
}

}  // namespace varve::storage
