// SPDX-License-Identifier: Apache-2.0
//
// StoredFrames: single chunks read back, for comparison (verify_on_dedup) and as what differences are to
// (docs/formats/segment.md, frame), with the frames and files used last at hand.
//
//     chunk in a difference --> its frame: XOR with its base  ^  base, in a frame that is none
//                                                             any of its places that is good
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "storage/chunk_index.h"
#include "storage/frame.h"
#include "storage/io.h"
#include "storage/segment_writer.h"

namespace varve::storage {

/// What reading needs to know of a segment; a copy.
struct SegmentView {
  std::string file;  ///< empty: it was collected
  std::uint64_t key = 0;
  std::uint64_t end = 0;
};

/// Where frames lie: a store, or what is known of one that is being verified.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  virtual Io& io() = 0;
  virtual std::uint32_t chunk_bytes() const = 0;
  virtual const HashSecret& secret() const = 0;
  virtual SegmentView view(std::uint32_t ordinal) = 0;
  /// A place of this chunk in a frame that is no difference, not among `tried`.
  virtual std::optional<ChunkPlace> find_base(const ChunkName& name, std::span<const ChunkPlace> tried) = 0;
};

/// The open segment of who reads: what is not flushed yet is in its writer.
struct OwnSegment {
  std::uint32_t ordinal = 0;
  std::uint64_t flushed_end = 0;  ///< what lies before it is read from the file like any other
  SegmentWriter* writer = nullptr;
};

class StoredFrames {
 public:
  static constexpr std::size_t kMostFrames = 16;

  struct Frame {
    std::uint32_t segment = 0;
    std::uint64_t offset = 0;
    std::vector<FrameChunk> chunks;
    std::vector<ChunkName> bases;  ///< of a difference
    std::vector<std::byte> raw;    ///< as stored: of a difference not yet XORed
  };

  explicit StoredFrames(FrameSource& source, std::size_t most_frames = kMostFrames)
      : source_(source), most_frames_(most_frames) {}

  /// The content of the chunk at this place, of a difference together with its base; valid until the next call. Only
  /// bases are compared with their names.
  Result<std::span<const std::byte>> chunk(const ChunkName& name, const ChunkPlace& place, const OwnSegment& own);
  /// The base of the chunk at this place, or kNoBase.
  Result<ChunkName> base_of(const ChunkName& name, const ChunkPlace& place, const OwnSegment& own);
  /// The content of a base, from the first of its places that is good, compared with its name; valid likewise.
  Result<std::span<const std::byte>> base(const ChunkName& name, std::size_t bytes, const OwnSegment& own);
  /// The frame at this place, whatever its slot; valid likewise.
  Result<const Frame*> frame(const ChunkPlace& place, const OwnSegment& own);
  /// So that a file that is collected gives its space back.
  void close_files() { files_.clear(); }
  /// Forgets everything: places may mean something else from now on.
  void clear();
  std::uint64_t memory_bytes() const;

 private:
  struct Found {
    std::span<const std::byte> raw;
    ChunkName base;
  };
  struct OpenSegment {
    std::uint32_t segment = 0;
    std::unique_ptr<File> file;
  };
  /// What is stored of the chunk.
  Result<Found> find(const ChunkName& name, const ChunkPlace& place, const OwnSegment& own);
  Result<std::span<const std::byte>> base_at(const ChunkName& name, std::size_t bytes, const ChunkPlace& place,
                                             const OwnSegment& own);
  Status load(const ChunkPlace& place, SegmentWriter* own, Frame& frame);
  Result<File*> file_of(std::uint32_t segment, const std::string& name);
  Error wrong(const ChunkPlace& place, std::string cause);

  FrameSource& source_;
  const std::size_t most_frames_;
  std::list<Frame> frames_;       // most recently used first
  std::list<OpenSegment> files_;  // likewise; bounded
  std::unique_ptr<FrameScratch> scratch_;
  std::vector<std::byte> record_;
  std::vector<std::byte> content_;  // of the chunk given last, where it was made of two
};

}  // namespace varve::storage
