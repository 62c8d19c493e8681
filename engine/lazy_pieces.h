// SPDX-License-Identifier: Apache-2.0
//
// LazyPieces: which pages of which regions are restored lazily, and which of them have their content already.
//
//     region        [··|=======|==zero==|=====xx=====|··)     ·· within a page, xx excluded, other mappings: eager
//     pieces            [ missing ]       [ ]    [   ]        a run of 2 MiB of zeros needs no piece: it is dropped
//
// A page is *placed* once it holds what the image says, or once the program has dropped it (then it is zero). It never
// becomes missing again: what the program does with it from then on is its own.
//
// Threads: built by one; marks by any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/mapping.h"
#include "engine/region_filler.h"

namespace varve {

struct LazyPiece {
  AddressRange range;        ///< whole pages
  std::uint32_t target = 0;  ///< whose region it is
  std::unique_ptr<std::atomic<std::uint64_t>[]> marks;

  bool placed(std::uintptr_t page) const { return (word(page).load(std::memory_order_acquire) & bit(page)) != 0; }
  /// Whether it was not placed before.
  bool set_placed(std::uintptr_t page) const {
    return (word(page).fetch_or(bit(page), std::memory_order_acq_rel) & bit(page)) == 0;
  }

 private:
  std::size_t index(std::uintptr_t page) const { return (page - range.begin) / tracker::page_bytes(); }
  std::atomic<std::uint64_t>& word(std::uintptr_t page) const { return marks[index(page) / 64]; }
  std::uint64_t bit(std::uintptr_t page) const { return std::uint64_t{1} << (index(page) % 64); }
};

class LazyPieces {
 public:
  void add(AddressRange range, std::uint32_t target);
  /// After the last add().
  void sort();
  const std::vector<LazyPiece>& all() const { return pieces_; }
  /// The piece that holds the page; null: none.
  const LazyPiece* find(std::uintptr_t page) const;
  /// Whether any page of the range is not placed.
  bool any_missing(AddressRange range) const;
  std::uint64_t bytes() const;

 private:
  std::vector<LazyPiece> pieces_;  // ascending, disjoint
};

/// What of a region could be restored lazily: its whole pages in `mappings` (ascending), without those that hold kept
/// bytes. One range lies in one mapping.
std::vector<AddressRange> lazy_ranges(const FillTarget& target, std::span<const AddressRange> mappings);

/// The long runs of zero chunks, as whole pages; ascending.
std::vector<AddressRange> long_zero_runs(const FillTarget& target);

/// `ranges` cut at the ends of `cuts`; both ascending and disjoint.
std::vector<AddressRange> split_at(std::span<const AddressRange> ranges, std::span<const AddressRange> cuts);

/// A record's runs, found by chunk.
class RunLookup {
 public:
  explicit RunLookup(const storage::RegionRecord& record);
  struct Found {
    storage::ChunkRun run;
    std::size_t first_name = 0;  ///< of the run
  };
  /// `run.count` is 0 where no run holds the chunk.
  Found find(std::uint64_t chunk) const;

 private:
  const storage::RegionRecord& record_;
  std::vector<std::size_t> first_names_;  // of each run
};

}  // namespace varve
