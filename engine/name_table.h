// SPDX-License-Identifier: Apache-2.0
//
// NameTable: the name of every chunk of a region, 16 bytes each (0.4 % of the region at 4 KiB a chunk). A chunk is
// unknown, zero, or named; the first two are kept as reserved values, which no content has but with probability 2^-127.
// Values; no thread rule of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "storage/manifest.h"

namespace varve {

/// `count` chunks from `first` on.
struct ChunkRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  std::uint64_t end() const { return first + count; }
  friend bool operator==(const ChunkRange&, const ChunkRange&) = default;
};

class NameTable {
 public:
  NameTable() = default;
  /// All unknown.
  explicit NameTable(std::uint64_t count) : names_(count, kUnknown) {}

  std::uint64_t size() const { return names_.size(); }
  bool known(std::uint64_t index) const { return names_[index] != kUnknown; }
  bool zero(std::uint64_t index) const { return names_[index] == kZero; }
  /// REQUIRES: known and not zero.
  const storage::ChunkName& name(std::uint64_t index) const { return names_[index]; }
  /// All zero where it is unknown or zero.
  storage::ChunkName name_or_none(std::uint64_t index) const {
    return known(index) && !zero(index) ? names_[index] : storage::ChunkName{};
  }
  bool is(std::uint64_t index, const storage::ChunkName& name) const { return names_[index] == name; }

  static bool reserved(const storage::ChunkName& name) { return name == kUnknown || name == kZero; }

  /// REQUIRES: the name is not reserved.
  void set(std::uint64_t index, const storage::ChunkName& name) {
    VARVE_CHECK(!reserved(name));
    names_[index] = name;
  }
  void set_zero(std::uint64_t index) { names_[index] = kZero; }
  void forget_all() { names_.assign(names_.size(), kUnknown); }

  /// Takes over what the record's runs say; a name that is one of the reserved values stays unknown, since records come
  /// from disk. REQUIRES: check_manifest() held for it, and it has as many chunks.
  void overwrite(const storage::RegionRecord& record);
  /// The same for chunks that are unknown as yet.
  void fill_unknown(const storage::RegionRecord& record);
  /// Makes runs and names of the record from all chunks but those in `absent` (ascending, disjoint): as `newer` (may be
  /// null, not `record`) has them, else as here. False when one of them is unknown; `unknown` is then the first.
  bool write_to(storage::RegionRecord& record, std::span<const ChunkRange> absent, const storage::RegionRecord* newer,
                std::uint64_t& unknown) const;

  /// Whether every chunk but those in `absent` is known.
  bool complete(std::span<const ChunkRange> absent) const;

  std::size_t memory_bytes() const { return names_.capacity() * sizeof(storage::ChunkName); }

 private:
  static constexpr storage::ChunkName kUnknown{0, 0};
  static constexpr storage::ChunkName kZero{1, 0};

  std::vector<storage::ChunkName> names_;
};

/// Appends chunks to ascending runs, growing the last run where they fit. Names are left to the caller.
void append_run(storage::RegionRecord& record, const storage::ChunkRun& run);
void append_chunk(storage::RegionRecord& record, std::uint64_t index, storage::RunKind kind);

}  // namespace varve
