// SPDX-License-Identifier: Apache-2.0
//
// ChunkIndex: from a chunk's name to the places where it is stored. In memory only, and never the truth.
//
//     shard = high bits of the name      within a shard: one array of 24-byte entries, linear probing, each entry
//     +----+----+--- ... ---+----+       kept in order of its home slot (Robin Hood): a look-up reads neighbouring
//     | 0  | 1  |           | 63 |       lines only, and ends early when the name is not there
//     +----+----+--- ... ---+----+
//
// Arrays grow by 1.3 at a load of 0.87, so an entry costs 28 to 36 bytes at any size; a small index is one shard. The
// same name may be stored several times (two writers at once); a few of its places are kept, those that need no other
// chunk before others.
//
// Threads: one at a time; the store guards it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/unforked_array.h"
#include "storage/chunk_name.h"
#include "storage/format.h"

namespace varve::storage {

/// Where a chunk lies: chunk `slot` of the frame record at `offset` of a segment, by the store's own number for it.
struct ChunkPlace {
  std::uint32_t segment = 0;  ///< from 1 to kMaxSegments
  std::uint64_t offset = 0;
  std::uint32_t slot = 0;
  bool difference = false;  ///< of the frame (Filter::difference): the chunk needs another one
  friend bool operator==(const ChunkPlace&, const ChunkPlace&) = default;
  friend auto operator<=>(const ChunkPlace&, const ChunkPlace&) = default;
};

inline constexpr std::uint32_t kMaxSegments = (1U << 19) - 1;

class ChunkIndex {
 public:
  ChunkIndex();

  /// False when the name has as many places as are kept: nothing is done, or a difference gives way to a place that is
  /// none. REQUIRES: it is not yet at this place.
  bool insert(const ChunkName& name, const ChunkPlace& place);
  /// The first place that `accept` takes.
  template <class Accept>
  std::optional<ChunkPlace> find(const ChunkName& name, Accept&& accept) const;
  std::optional<ChunkPlace> find(const ChunkName& name) const {
    return find(name, [](const ChunkPlace&) { return true; });
  }
  bool erase(const ChunkName& name, const ChunkPlace& place);
  /// Drops all places in a segment; walks everything.
  void erase_segment(std::uint32_t segment);
  /// Has the processor fetch what insert() or find() will look at.
  // Always inlined: gcc 12 takes a function that only prefetches for one without effect, and drops calls of it.
  [[gnu::always_inline]] void prefetch(const ChunkName& name) const {
    const Shard& shard = shard_of(name);
    if (shard.capacity == 0) return;
    // Two lines: most look-ups go no farther.
    const auto* entry = reinterpret_cast<const std::byte*>(&shard.entries[shard.home(name)]);
    __builtin_prefetch(entry, 1);
    __builtin_prefetch(entry + 64, 1);
  }
  /// Makes room for `count` more entries at once.
  void reserve(std::uint64_t count);
  /// Announces that many more. Room for all of them is made in one step for each shard, and for one shard after the
  /// other while the first eighth of them comes: nobody waits for all of that memory at once.
  void expect(std::uint64_t count);

  std::uint64_t size() const { return size_; }
  std::uint64_t memory_bytes() const;
  /// The longest distance of an entry from its home slot.
  std::uint64_t longest_probe() const;

 private:
  struct Entry {
    ChunkName name;
    std::uint64_t place = 0;  // 0: empty
  };
  static_assert(sizeof(Entry) == 24);
  struct Shard {
    UnforkedArray<Entry> entries;
    std::uint32_t capacity = 0;
    std::uint32_t size = 0;

    std::uint32_t home(const ChunkName& name) const {
      return static_cast<std::uint32_t>(((name.low >> 32) * capacity) >> 32);
    }
    std::uint32_t next(std::uint32_t slot) const { return slot + 1 == capacity ? 0 : slot + 1; }
    std::uint32_t distance(std::uint32_t slot) const {
      const std::uint32_t from = home(entries[slot].name);
      return slot >= from ? slot - from : slot + capacity - from;
    }
    void put(Entry entry);
    void grow(std::uint64_t capacity);
    /// Into a zeroed array of that capacity.
    void move_to(UnforkedArray<Entry> room, std::uint64_t capacity);
    bool erase(std::uint32_t slot);
  };

  static constexpr std::uint32_t kMaxCopies = 4;
  static std::uint64_t pack(const ChunkPlace& place);
  static ChunkPlace unpack(std::uint64_t place);

  const Shard& shard_of(const ChunkName& name) const { return shards_[name.high & (shards_.size() - 1)]; }
  Shard& shard_of(const ChunkName& name) { return shards_[name.high & (shards_.size() - 1)]; }
  /// Into shards of this capacity, or what they need.
  void split(std::uint64_t capacity);
  /// An array of this capacity for each shard.
  std::vector<UnforkedArray<Entry>> rooms(std::uint64_t capacity) const;
  void go_on_growing();

  std::vector<Shard> shards_;  // 1, or kShards
  std::uint64_t size_ = 0;

  // What is expected.
  std::vector<UnforkedArray<Entry>> expected_rooms_;
  std::uint64_t expected_capacity_ = 0;
  std::uint64_t inserts_a_shard_ = 0;  // between two shards that grow
  std::uint64_t inserts_left_ = 0;     // until the next one does; 0: none is to
  std::size_t next_to_grow_ = 0;
};

template <class Accept>
std::optional<ChunkPlace> ChunkIndex::find(const ChunkName& name, Accept&& accept) const {
  const Shard& shard = shard_of(name);
  if (shard.size == 0) return std::nullopt;
  std::uint32_t slot = shard.home(name);
  for (std::uint32_t distance = 0;; ++distance, slot = shard.next(slot)) {
    const Entry& entry = shard.entries[slot];
    if (entry.place == 0) return std::nullopt;
    if (entry.name == name) {
      const ChunkPlace place = unpack(entry.place);
      if (accept(place)) return place;
    } else if (shard.distance(slot) < distance) {
      return std::nullopt;  // it would stand before this one
    }
  }
}

}  // namespace varve::storage
