// SPDX-License-Identifier: Apache-2.0
//
// One run of verify(): first all segments, byte by byte, into an index of the chunks that are good; then all images
// against it. Only of damaged images more is kept than a line.
//
// Writers go on meanwhile, are killed and recovered. What that may change while it is read, and what is done about it:
//
//   a segment that is not in the inventory as it was before the segment was opened may grow, be truncated and sealed,
//   be sealed again by a recovery, be removed. Findings in such a segment count once they were seen twice in a row, the
//   inventory read anew in between; in a listed one, which never changes, they count at once.
//
//   images that were read may name chunks that were sealed, in other segments, after those had been read. Where an
//   image lacks chunks, all segments that may have changed, and new ones, are read once more, for their chunks only;
//   everything that the images name was stored by then.
//
// Differences are looked at when all segments were read: each needs its base in a frame that is none. One that lacks it
// is no damage by itself, since nobody may need it any more; it is for those images that name it.
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
#include "storage/stored_frames.h"
#include "storage/verify.h"

namespace varve::storage {

class VerifyRun final : private FrameSource {
 public:
  VerifyRun(Io& io, const VerifyOptions& options, const StoreIdentity& identity)
      : io_(io), options_(options), identity_(identity) {}

  /// What there is to report, also when the pace was stopped.
  Result<VerifyReport> run();

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

  /// A segment as one look at it found it. What is wrong is in report_.
  struct Look {
    LoadedSegment segment;
    std::uint32_t ordinal = 0;  // 0: nothing of it could be scanned
    bool listed = false;        // in the inventory before it was opened
    bool there = false;
  };

  Status check_all();
  void expect(const std::vector<SegmentName>& names);

  // Segments (verify.cc).
  Status check_inventory();
  Status renew_inventory();
  Status check_segment(const SegmentName& name);
  Status look_until_it_counts(const SegmentName& name);
  Status look_at(const SegmentName& name, Look& look);
  Status check_content(Look& look, SegmentFile& file);
  Status check_seal_padding(const LoadedSegment& segment, SegmentFile& file);
  Status scan(Look& look, SegmentFile& file, std::uint64_t end, bool sealed);
  void take_frames(const ScannedCommit& commit, const Footer* footer, std::uint32_t ordinal);
  void take_lost(const LoadedSegment& segment, std::uint32_t ordinal);
  void take_lists(const LoadedSegment& segment, std::uint32_t ordinal);
  void compare_with_inventory(const LoadedSegment& segment);
  /// Reads for their chunks what is new and what may have changed; false when there is nothing of that kind.
  Result<bool> catch_up();

  // Differences (verify_images.cc).
  Io& io() override { return io_; }
  std::uint32_t chunk_bytes() const override { return identity_.chunk_bytes; }
  const HashSecret& secret() const override { return identity_.secret; }
  SegmentView view(std::uint32_t ordinal) override;
  std::optional<ChunkPlace> find_base(const ChunkName& name, std::span<const ChunkPlace> tried) override;
  Status check_differences();
  Status check_difference(const ChunkPlace& place, StoredFrames& frames);
  /// Whether something holds this chunk, and its base where it needs one.
  bool restorable(const ChunkName& name) const;

  // Images (verify_images.cc).
  Status judge_images();
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
  std::optional<Inventory> first_inventory_;  // from before anything was read: all that it names has to be there
  std::optional<Inventory> inventory_;        // the newest that was read
  std::map<SegmentName, bool> seen_;          // segments that were read; whether they can't change any more
  bool chunks_only_ = false;
  std::map<SegmentName, SealedElsewhere> seals_;
  std::vector<SegmentLine> segments_;  // by ordinal, from 1
  ChunkIndex good_;
  ChunkIndex lost_;                           // where chunks of damaged frames should be
  std::vector<ChunkPlace> differences_;       // good frames of that kind
  std::map<ChunkPlace, ChunkName> orphaned_;  // chunks in them that can't be made of their bases; the base
  Catalogue catalogue_;
};

}  // namespace varve::storage
