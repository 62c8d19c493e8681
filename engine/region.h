// SPDX-License-Identifier: Apache-2.0
//
// Region: one protected range, what tracks it, and what the last committed image holds of it. RegionTable: all of an
// engine, by name, without overlaps.
//
// Two owners by turns. Range, tracking and exclusions belong to the thread that calls the engine (under its mutex);
// CommittedRegion belongs to the background writer, and to the caller only while the writer is idle (drained). Images
// in flight share regions, so that unprotect() does not pull one away under them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/capture.h"
#include "engine/chunk_grid.h"
#include "engine/name_table.h"
#include "storage/manifest.h"
#include "tracker/tracker.h"
#include "varve/engine.h"

namespace varve {

/// What is left out of a region's images. Immutable: images in flight keep the one of their cut.
struct Exclusions {
  std::vector<storage::ByteRange> ranges;  ///< ascending, disjoint, not touching
  std::vector<ChunkRange> whole_chunks;    ///< those that lie in them entirely: neither captured nor named
};

/// What the last committed image holds of a region.
struct CommittedRegion {
  NameTable names;
  /// Pages that cool() protected and that wait to be compared; see Cooler.
  tracker::PageRuns cooled;
  std::uint64_t cooled_after_epoch = 0;
};

struct Region {
  std::string name;
  std::byte* begin = nullptr;
  ChunkGrid grid;
  std::uint32_t element_bytes = 0;
  MappingTraits traits;
  std::shared_ptr<const Exclusions> exclusions;
  /// Of the whole pages within the region only, since the partial ones at its ends are always suspects: so no page that
  /// also holds somebody else's bytes (the stack, the heap's own words) is ever protected. Null when there are none.
  std::unique_ptr<tracker::Tracking> tracking;
  /// As of the last cut, so that each image tells what came to them since.
  tracker::TrackingCounters counted;
  /// Nothing of it is committed: the next cut captures all of it, whatever the tracker says. Cleared by the writer.
  std::atomic<bool> capture_all{true};
  /// Set by unprotect(), under the cooling mutex: the memory may be gone.
  bool ended = false;
  CommittedRegion committed;

  Region(std::string region_name, std::byte* region_begin, const ChunkGrid& region_grid)
      : name(std::move(region_name)), begin(region_begin), grid(region_grid) {}

  std::size_t bytes() const { return grid.bytes(); }
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(begin); }
  /// The address of chunk 0: page-aligned, at or below the first byte.
  std::uintptr_t grid_address() const { return address() - grid.grid_offset(); }
  /// The whole pages within it; empty (begin == end) when there are none.
  tracker::PageRange whole_pages() const;
};

/// The chunks that a cut captures: those of the suspect pages, widened to whole chunks, and the always-suspect ends,
/// without wholly excluded ones. Ascending, disjoint; appended to `runs`, which must be empty.
void suspect_chunks(const Region& region, const tracker::PageRuns& suspects, std::vector<ChunkRange>& runs);

/// "region 'grid' [0x7f…, 0x7f…)", for messages.
std::string describe(const Region& region);

class RegionTable {
 public:
  using Regions = std::map<std::string, std::shared_ptr<Region>, std::less<>>;

  struct Wanted {
    std::string_view name;
    void* address = nullptr;
    std::size_t bytes = 0;
    std::uint32_t element_bytes = 0;
    std::uint32_t chunk_bytes = 0;
  };
  /// Checks name, range, overlap and mapping, and makes the region, tracked; it is in the table then.
  Result<std::shared_ptr<Region>> add(const Wanted& wanted, std::optional<tracker::BackEndKind> back_end,
                                      const void* owner);
  /// `not_found` names the regions that there are.
  Result<std::shared_ptr<Region>> find(std::string_view name, std::string_view doing) const;
  void remove(std::string_view name);
  void clear() { regions_.clear(); }
  Status exclude(std::string_view name, std::size_t offset, std::size_t bytes);
  Status touch(const void* address, std::size_t bytes);

  const Regions& all() const { return regions_; }
  bool empty() const { return regions_.empty(); }

 private:
  Status check_range(const Wanted& wanted) const;

  Regions regions_;
};

}  // namespace varve
