// SPDX-License-Identifier: Apache-2.0
//
// SegmentMover: what is alive in one segment, written once more by another writer of the same chain.
//
//     frame, all chunks alive    -> copied as it is, its checksum compared before
//     frame, some chunks alive   -> unpacked, those chunks' content compared with their names, written anew: of a
//                                   difference as one to the same bases, which are alive as long as the chunks are
//     listed image, useful note  -> written once more
//
// Copying stops where pause() says so, with what was copied durable. Nothing of the segment is changed. Memory: its
// footer, one window to read and one to write.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "storage/chain_writer.h"
#include "storage/liveness.h"

namespace varve::storage {

class SegmentMover {
 public:
  /// `corruption` when the segment is damaged: then it is to be left alone.
  static Result<std::unique_ptr<SegmentMover>> open(const Liveness& liveness, ChainWriterImplementation& writer,
                                                    std::uint32_t ordinal, const SegmentName& name);
  ~SegmentMover();

  /// True when all of it is durable elsewhere; false: paused. `corruption` as above: what was copied does no harm.
  Result<bool> move(const Pause& pause);

 private:
  SegmentMover(const Liveness& liveness, ChainWriterImplementation& writer, std::uint32_t ordinal)
      : liveness_(liveness), writer_(writer), ordinal_(ordinal), bases_(writer.store()) {}

  Result<bool> move_frames(const Pause& pause);
  Status move_frame(const FooterFrame& frame, std::span<const ChunkName> names, const std::vector<bool>& alive);
  Status move_chunks(const FrameView& view, const std::vector<bool>& alive, const StoredAt& at);
  Status move_rest();
  Status end_commit();

  const Liveness& liveness_;
  ChainWriterImplementation& writer_;
  const std::uint32_t ordinal_;
  StoredFrames bases_;
  LoadedSegment segment_;
  std::unique_ptr<File> file_;
  std::optional<WindowReader> reader_;
  FrameScratch scratch_;
  std::uint64_t key_ = 0;
  std::size_t next_frame_ = 0;
  std::size_t next_name_ = 0;
  std::uint64_t moved_chunks_ = 0;
  bool begun_ = false;
  std::uint64_t commit_begin_ = 0;
};

}  // namespace varve::storage
