// SPDX-License-Identifier: Apache-2.0
//
// ImageWriter: reduces what a cut captured, writes it, commits it, and keeps what is committed.
//
// The invariant that forgets no dirty page: a region's committed names and the line change at a commit only, and only
// then does the tracker hear committed(). An image that fails leaves everything as it was, so that the next one,
// whether cut before or after the failure, is reduced against the last committed image, and its suspects include those
// of the failed one.
//
// Threads: used by one background thread; by others only while that one is idle.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/image_job.h"
#include "storage/pace.h"
#include "storage/store.h"
#include "varve/engine.h"

namespace varve {

/// Where the chain stands: what the next image builds on.
struct Line {
  std::uint64_t parent = 0;  ///< the last committed or restored image; 0: the next one is full
  std::uint64_t deltas_since_full = 0;
};

struct ImageWriterOptions {
  std::string chain;
  std::uint32_t full_every = 0;
  bool verify_on_dedup = false;
  std::shared_ptr<const storage::Pace> pace = {};  ///< of what is written; null: unbounded
};

/// What the reduction of one region found, in the order of the job's regions.
struct ReducedRegion {
  storage::RegionRecord changed;      ///< runs and names of the chunks that changed; its header is not filled in
  std::vector<ChunkRange> unchanged;  ///< ascending, disjoint
};

class ImageWriter {
 public:
  ImageWriter(storage::Store& store, storage::ChainWriter& chain, ImageWriterOptions options)
      : store_(store), chain_(chain), options_(std::move(options)) {}

  /// Reads the job's stream to its end, writes and commits. On success the committed state is that of this image, and
  /// `reduced` says what changed. `dropping` set: gives up soon, with an error.
  Result<ImageResult> write(ImageJob& job, std::vector<ReducedRegion>& reduced, const std::atomic<bool>& dropping);

  /// Between images: faults in a part of what they need. False when there is nothing more to do.
  bool warm_up() { return chain_.warm_up(); }

  const Line& line() const { return line_; }
  void set_line(const Line& line) { line_ = line; }

 private:
  struct Counts {
    std::uint64_t unchanged = 0;
    std::uint64_t zero = 0;
    std::uint64_t named = 0;
  };

  std::uint64_t paced_ns() const { return options_.pace == nullptr ? 0 : options_.pace->waited_ns(); }
  Status check_dropping(const ImageJob& job, const std::atomic<bool>& dropping) const;
  /// Before regions that are written whole: another chain may have stored the same content since. A refresh costs too
  /// much for every delta, and gains nothing there; when it fails, chunks are stored twice.
  void see_other_chains(const ImageJob& job);
  Status reduce(ImageJob& job, std::vector<ReducedRegion>& reduced, Counts& counts, const std::atomic<bool>& dropping);
  Status reduce_piece(const RegionCut& cut, const CapturedPiece& piece, ReducedRegion& reduced, Counts& counts);
  /// Chunks that are looked at together.
  static constexpr std::size_t kBatch = storage::ChainWriter::kLookUpMost;
  struct Chunk {
    enum class Found : std::uint8_t { unchanged, zero, changed };
    std::span<const std::byte> content;
    storage::ChunkName name;
    Found found = Found::changed;
  };
  Chunk look_at(const RegionCut& cut, std::uint64_t index, std::span<const std::byte> content, std::size_t slot);
  Status take(const RegionCut& cut, std::uint64_t index, const Chunk& chunk, ReducedRegion& reduced, Counts& counts);
  storage::Manifest make_manifest(const ImageJob& job, std::vector<ReducedRegion>& reduced) const;
  void adopt(const ImageJob& job, const storage::Manifest& manifest);

  storage::Store& store_;
  storage::ChainWriter& chain_;
  const ImageWriterOptions options_;
  Line line_;
  std::array<std::vector<std::byte>, kBatch> masked_;  ///< chunks with their excluded bytes set to zero
};

/// The architecture that images of this machine record.
std::string_view architecture();

}  // namespace varve
