// SPDX-License-Identifier: Apache-2.0
//
// ChunkReader: one call of Store::read_chunks().
//
//     a part's requests --look up, sort by place--> windows of up to 1 MiB --read--> frames: check, unpack,
//                                                    in the order of the disk         check names --> deliver
//          this thread                                    a few readers                 this thread, and others
//
// Those who read do nothing else, so that the disk always has as many requests as it likes, and not more. The next part
// is planned while one is being read, so that none of them waits. What is worth several threads is read past the page
// cache where the file system can, as it was written: nothing of it is read twice, and a program's memory is not
// evicted for it. A few windows are done by one thread alone. Memory is bounded by the windows and a few parts, and is
// used again. A chunk whose frame turns out damaged is looked for at another place before the call fails.
//
// What is stored as a difference needs another chunk: each thread reads those through a few frames of its own. They lie
// in much the same order, so that most frames are read once.
//
// Threads: run() by one, which starts the others where there is enough to do.
#pragma once

#include <deque>
#include <memory>
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
  ChunkReader(StoreImplementation& store, RequestSource& source, unsigned threads, const DeliverChunk& deliver);
  ~ChunkReader();
  Status run();

 private:
  struct Wanted {
    ChunkPlace place;
    std::uint32_t request = 0;
  };
  struct Part;
  struct Window;
  class ReadBuffer;
  class WindowReader;
  struct Unpacking;
  struct Failure {
    Part* part = nullptr;
    Wanted wanted;
    Error error;
    bool of_base = false;  ///< what is stored there is good, and what it is a difference to is not
  };

  enum class Step { plan_again, plan_part, read, unpack, finish_part, end };
  enum class Role : std::uint64_t { read, unpack };

  // The thread that runs.
  Status read_parts();
  /// What is to be done next; waits where others have to do something first.
  Step next_step(Window& window) VARVE_EXCLUDES(mutex_);
  Status plan_part();
  Status look_up(Part& part);
  void finish_part();
  /// Other places for what failed; the error when there is none. REQUIRES: stopped_, and nothing is under way.
  Status plan_again();
  Result<ChunkPlace> other_place(const Failure& failure) const;
  /// How many threads of a kind are worth while, this part included.
  unsigned helpers_for(Part& part);
  void start_helpers(unsigned wanted) VARVE_EXCLUDES(mutex_);
  bool start_helper(Role role) VARVE_EXCLUDES(mutex_);
  bool is_under_way() const VARVE_REQUIRES(mutex_);
  bool wants_part() const VARVE_REQUIRES(mutex_);

  // Those that help, and this one.
  static void help(void* reader, std::uint64_t role);
  void help_read() VARVE_EXCLUDES(mutex_);
  void help_unpack() VARVE_EXCLUDES(mutex_);
  /// The next window for this role. False: there are no more.
  bool wait_for(Role role, Window& window) VARVE_EXCLUDES(mutex_);
  /// The next window to be read. False: there is none at the moment, or no memory for it.
  bool take(Window& window) VARVE_REQUIRES(mutex_);
  /// The next one that was read. False: there is none at the moment.
  bool take_read(Window& window) VARVE_REQUIRES(mutex_);
  void done(const Window& window) VARVE_EXCLUDES(mutex_);
  Window plan_window(Part& part, std::size_t first) const;
  void unpack(const Window& window, Unpacking& unpacking);
  void deliver_frame(const Window& window, std::span<const Wanted> items, const UnpackedFrame& unpacked,
                     const StoredAt& at, StoredFrames& bases);
  /// The content of a chunk in a difference, from what is stored of it and its base.
  Result<std::span<const std::byte>> undo(const FrameView& frame, std::uint32_t slot, std::span<const std::byte> raw,
                                          const StoredAt& at, StoredFrames& bases, std::span<std::byte> into) const;
  void failed(const Window& window, std::span<const Wanted> items, const Error& error, bool of_base = false);
  Error not_stored(const ChunkRequest& request) const;

  StoreImplementation& store_;
  RequestSource& source_;
  const unsigned readers_most_;
  const unsigned unpackers_most_;  // this thread included
  const DeliverChunk& deliver_;
  std::vector<std::unique_ptr<Part>> spare_parts_;
  std::size_t windows_planned_ = 0;  // counted as far as it matters for who helps
  unsigned readers_started_ = 0;
  unsigned unpackers_started_ = 1;  // this thread
  std::unique_ptr<ReadBuffer> window_memory_;
  std::shared_ptr<IoThreads> threads_;

  Mutex mutex_;
  Condition changed_;                                                 // for the thread that runs
  Condition to_read_;                                                 // there may be a window, and memory
  Condition to_unpack_;                                               // there is a window that was read
  std::deque<std::unique_ptr<Part>> parts_ VARVE_GUARDED_BY(mutex_);  // in the order of the source, until all is done
  bool exhausted_ VARVE_GUARDED_BY(mutex_) = false;                   // the source
  bool stopped_ VARVE_GUARDED_BY(mutex_) = false;                     // something failed: nothing more is begun
  bool ending_ VARVE_GUARDED_BY(mutex_) = false;
  std::vector<Failure> failures_ VARVE_GUARDED_BY(mutex_);
  std::size_t helpers_ VARVE_GUARDED_BY(mutex_) = 0;  // that are at work, or wait for some
  std::size_t readers_ VARVE_GUARDED_BY(mutex_) = 0;  // of these; 0: the thread that runs reads itself
  std::vector<std::span<std::byte>> free_memory_ VARVE_GUARDED_BY(mutex_);  // for a window each
  std::vector<Window> read_ VARVE_GUARDED_BY(mutex_);  // to be unpacked: a few, first come first served
};

}  // namespace varve::storage
