// SPDX-License-Identifier: Apache-2.0
//
// ChunkReader: one call of Store::read_chunks().
//
//     requests --sort by place--> windows of up to 1 MiB --> read --> frames: check, unpack, check names --> deliver
//                                 each taken by the next thread that is free, in the order of the disk
//
// There are more threads than processors, so that the disk has its queue while others unpack. What is worth several
// threads is read past the page cache where the file system can, as it was written: nothing of it is read twice, and a
// program's memory is not evicted for it. Memory is bounded by a window for each and the sorted list. A chunk whose
// frame turns out damaged is looked for at another place before the call fails.
//
// What is stored as a difference needs another chunk: each thread reads those through a few frames of its own. They lie
// in much the same order, so that most frames are read once.
//
// Threads: run() by one; it starts workers of its own where there is enough to do.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "storage/frame.h"
#include "storage/io_threads.h"
#include "storage/store_implementation.h"
#include "storage/stored_frames.h"

namespace varve::storage {

/// A frame record at `at.offset`, checked and unpacked. `bytes` begins with its header and may go on behind its end.
struct UnpackedFrame {
  FrameView frame;
  std::span<const std::byte> raw;
};
Result<UnpackedFrame> unpack_frame_record(std::span<const std::byte> bytes, std::uint64_t key, const StoredAt& at,
                                          std::uint32_t chunk_bytes, FrameScratch& scratch);

/// Largest frame record, padding included.
inline constexpr std::size_t kMaxFrameRecord =
    round_up(kRecordHeaderBytes + max_frame_payload(kFrameChunks, kFrameRawBytes), kRecordAlignment);

class ChunkReader {
 public:
  /// See Store::read_chunks().
  ChunkReader(StoreImplementation& store, std::span<const ChunkRequest> requests, unsigned threads,
              const DeliverChunk& deliver, const ReadProgress& progress);
  ~ChunkReader();
  Status run();

 private:
  struct Wanted {
    ChunkPlace place;
    std::uint32_t request = 0;
  };
  struct Window;
  class ReadBuffer;
  class Worker;
  struct Failure {
    Wanted wanted;
    Error error;
    bool of_base = false;  ///< what is stored there is good, and what it is a difference to is not
  };

  Status first_plan();
  /// `rest`, and other places for what failed; the error when there is none.
  Status next_plan(std::vector<Wanted> rest);
  /// How much of the plan was done: it ends early after a failure, which is most likely for good.
  std::size_t run_plan();
  void start_helpers();
  /// The next window of the plan. False: there is none, or something failed.
  bool take(Window& window);
  Window plan_window(std::size_t first) const;
  void work();
  void decode(const Window& window, FrameScratch& scratch, StoredFrames& bases);
  void deliver_frame(std::span<const Wanted> items, const UnpackedFrame& unpacked, const StoredAt& at,
                     StoredFrames& bases);
  /// The content of a chunk in a difference, from what is stored of it and its base.
  Result<std::span<const std::byte>> undo(const FrameView& frame, std::uint32_t slot, std::span<const std::byte> raw,
                                          const StoredAt& at, StoredFrames& bases, std::span<std::byte> into) const;
  void failed(std::span<const Wanted> items, const Error& error, bool of_base = false);
  static void help(void* reader, std::uint64_t);
  Error not_stored(const ChunkRequest& request) const;

  StoreImplementation& store_;
  std::span<const ChunkRequest> requests_;
  const unsigned threads_max_;
  const DeliverChunk& deliver_;
  const ReadProgress& progress_;
  std::vector<Wanted> plan_;
  std::map<std::uint32_t, std::vector<ChunkPlace>> tried_;  // by request
  std::set<std::uint32_t> looked_again_;                    // requests whose base had been collected
  std::shared_ptr<IoThreads> threads_;
  OpenMode mode_ = OpenMode::read;
  std::unique_ptr<ReadBuffer> windows_;  // one for each worker, where there are several

  Mutex mutex_;
  Condition changed_;
  bool told_last_begun_ VARVE_GUARDED_BY(mutex_) = false;
  std::size_t workers_ VARVE_GUARDED_BY(mutex_) = 0;  // that have begun on this plan
  std::size_t next_ VARVE_GUARDED_BY(mutex_) = 0;     // of plan_
  std::size_t helpers_ VARVE_GUARDED_BY(mutex_) = 0;  // that are at work
  std::vector<Failure> failures_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::storage
