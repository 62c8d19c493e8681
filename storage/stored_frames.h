// SPDX-License-Identifier: Apache-2.0
//
// StoredFrames: single chunks read back for comparison (verify_on_dedup), with the frames and files used last at hand.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <vector>

#include "storage/chunk_reader.h"
#include "storage/segment_writer.h"

namespace varve::storage {

class StoredFrames {
 public:
  explicit StoredFrames(StoreImplementation& store) : store_(store) {}

  /// The content of the chunk at this place; valid until the next call. `own`: the open segment's writer when the place
  /// is in it, else null.
  Result<std::span<const std::byte>> chunk(const ChunkName& name, const ChunkPlace& place, SegmentWriter* own);
  /// Forgets everything: places may mean something else from now on.
  void clear();

 private:
  struct Frame {
    std::uint32_t segment = 0;
    std::uint64_t offset = 0;
    std::vector<FrameChunk> chunks;
    std::vector<std::byte> raw;
  };
  struct OpenSegment {
    std::uint32_t segment = 0;
    std::unique_ptr<File> file;
  };
  Result<Frame> load(const ChunkPlace& place, SegmentWriter* own);
  Result<File*> file_of(std::uint32_t segment, const std::string& name);

  StoreImplementation& store_;
  std::list<Frame> frames_;       // most recently used first; bounded
  std::list<OpenSegment> files_;  // likewise
  std::unique_ptr<FrameScratch> scratch_;
  std::vector<std::byte> record_;
};

}  // namespace varve::storage
