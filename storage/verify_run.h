// SPDX-License-Identifier: Apache-2.0
//
// One run of verify(): first all segments, byte by byte, into an index of the chunks that are good; then all images
// against it. Only of damaged images more is kept than a line.
//
// Threads: one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "storage/catalogue.h"
#include "storage/chunk_index.h"
#include "storage/inventory.h"
#include "storage/segment_load.h"
#include "storage/store_file.h"
#include "storage/verify.h"

namespace varve::storage {

class VerifyRun {
 public:
  VerifyRun(Io& io, const VerifyOptions& options, const StoreIdentity& identity)
      : io_(io), options_(options), identity_(identity) {}

  /// What there is to report, also when the pace was stopped.
  Result<VerifyReport> run();
  /// Of the inventory that was read; 0: none.
  std::uint64_t generation() const { return generation_; }

 private:
  struct SegmentLine {
    SegmentName name;
    std::uint64_t key = 0;
    std::uint64_t end = 0;
  };
  /// What is wrong with one region of an image: ranges of chunks that nothing good holds.
  struct RegionState {
    std::uint64_t bytes = 0;
    std::uint32_t grid_offset = 0;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> lost;  // [first, last) chunks, ascending, disjoint
  };
  struct ImageState {
    bool readable = false;
    std::map<std::string, RegionState> regions;
  };

  Status check_all();
  void expect(const std::vector<SegmentName>& names);

  // Segments (verify.cc).
  Status check_inventory();
  Status check_segment(const SegmentName& name);
  Status check_content(LoadedSegment& segment, SegmentFile& file, bool closed);
  Status check_seal_padding(const LoadedSegment& segment, SegmentFile& file);
  Status scan(LoadedSegment& segment, SegmentFile& file, std::uint64_t end, bool sealed);
  void take_frames(const ScannedCommit& commit, const Footer* footer, std::uint32_t ordinal);
  void take_lost(const LoadedSegment& segment, std::uint32_t ordinal);
  void take_lists(const LoadedSegment& segment, std::uint32_t ordinal);
  void compare_with_inventory(const LoadedSegment& segment);

  // Images (verify_images.cc).
  Status check_images();
  Result<ImageState> check_image(const std::string& chain, const Catalogue::Image& image,
                                 const std::map<std::uint64_t, ImageState>& others, bool& good);
  RegionState check_region(const Manifest& manifest, const RegionRecord& region, const ImageState* parent, bool& good);
  void report_lost(const Manifest& manifest, const RegionRecord& region, const Catalogue::Image& image,
                   const RegionState& state);
  void check_newest();

  void found(VerifyFinding finding);

  Io& io_;
  const VerifyOptions& options_;
  const StoreIdentity& identity_;
  VerifyReport report_;
  std::optional<Inventory> inventory_;
  std::uint64_t generation_ = 0;
  std::map<SegmentName, SealedElsewhere> seals_;
  std::vector<SegmentLine> segments_;  // by ordinal, from 1
  ChunkIndex good_;
  ChunkIndex lost_;  // where chunks of damaged frames should be
  Catalogue catalogue_;
};

}  // namespace varve::storage
