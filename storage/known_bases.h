// SPDX-License-Identifier: Apache-2.0
//
// KnownBases: what chunks written lately are differences to, so that it need not be read back when they are replaced in
// turn. Bounded: a newer one takes the place of an older one. Hints, never the truth: who uses one looks whether the
// base is there.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "storage/chunk_name.h"

namespace varve::storage {

class KnownBases {
 public:
  static constexpr std::size_t kEntries = std::size_t{1} << 15;  // 1 MiB, when first used

  /// False: it is not known.
  bool find(const ChunkName& name, ChunkName& base) const {
    if (entries_.empty() || entries_[slot(name)].name != name) return false;
    base = entries_[slot(name)].base;
    return true;
  }
  void put(const ChunkName& name, const ChunkName& base) {
    if (entries_.empty()) entries_.resize(kEntries);
    entries_[slot(name)] = {name, base};
  }
  std::uint64_t memory_bytes() const { return entries_.capacity() * sizeof(Entry); }

 private:
  struct Entry {
    ChunkName name;
    ChunkName base;
  };
  static std::size_t slot(const ChunkName& name) { return static_cast<std::size_t>(name.low) & (kEntries - 1); }

  std::vector<Entry> entries_;
};

}  // namespace varve::storage
