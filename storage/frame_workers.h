// SPDX-License-Identifier: Apache-2.0
//
// Frames on several threads: scratch memory that is handed around, and encoding in the background.
//
// Threads: ScratchPool any; FrameEncoder one, besides its own workers.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "storage/frame.h"
#include "storage/io_threads.h"

namespace varve::storage {

class ScratchPool {
 public:
  std::unique_ptr<FrameScratch> take();
  void give(std::unique_ptr<FrameScratch> scratch);

 private:
  Mutex mutex_;
  std::vector<std::unique_ptr<FrameScratch>> free_ VARVE_GUARDED_BY(mutex_);
};

/// A frame between its first chunk and its place in the segment.
struct FrameJob {
  FrameJob();

  std::unique_ptr<std::byte[]> memory;  ///< kFrameRawBytes
  std::byte* raw = nullptr;             ///< where its chunks are gathered: `memory`, or in place
  std::size_t raw_bytes = 0;
  std::size_t most_chunks = kFrameChunks;
  /// What will be stored raw is gathered where it is written from: the record in the segment's buffer, whose header and
  /// table of `most_chunks` are filled in last. Empty: it is not.
  std::span<std::byte> in_place;
  std::uint32_t element_bytes = 0;
  std::vector<FrameChunk> chunks;
  std::vector<ChunkName> previous;  ///< what each chunk replaces; of a moved difference its base
  bool replaces = false;            ///< its first chunk does: taken for all of them
  bool moved_difference = false;    ///< a difference before, with these bases
  FrameChoice choice;
  // Of a difference.
  bool asked_for_difference = false;
  std::unique_ptr<std::byte[]> difference_memory;  ///< kFrameRawBytes, when first needed
  std::vector<ChunkName> bases;                    ///< empty: there is no difference
  std::uint64_t base_ns = 0;
  // Out.
  std::unique_ptr<std::byte[]> payload;  // when encoded in the background
  std::size_t payload_bytes = 0;
  bool compressed = false;
  std::uint64_t encode_ns = 0;
  bool running = false;  // guarded by the encoder's mutex_

  std::span<const std::byte> content() const { return {raw, raw_bytes}; }
  FrameDifference difference() const {
    if (bases.empty()) return {};
    return {{difference_memory.get(), raw_bytes}, bases};
  }
  bool stored_as_difference() const { return compressed && choice.filter == Filter::difference; }
  void clear();
};

class FrameEncoder {
 public:
  /// `niceness`: as of IoThreads.
  FrameEncoder(unsigned threads, std::optional<int> niceness);
  ~FrameEncoder();

  /// Encodes in the background. REQUIRES: the job stays where it is until wait().
  void start(FrameJob& job);
  void wait(FrameJob& job);

 private:
  static void run(void* encoder, std::uint64_t job);

  ScratchPool scratches_;
  std::shared_ptr<IoThreads> threads_;
  Mutex mutex_;
  Condition changed_;
};

}  // namespace varve::storage
