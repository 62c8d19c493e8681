// SPDX-License-Identifier: Apache-2.0
//
// LiveReadAhead: what a LiveReader reads, a few blocks ahead of the consumer on a thread of its own, where there is
// much to read and a second processor to do it on. So memory is read by one, named and written by the other, as with
// the holder, which reads in a process of its own. Where no thread can be had the consumer reads by itself.
//
//     blocks   | being used | read | read | ... | free | free |     the thread goes on when half of them are free:
//              ^ returned_                      ^ read_              one wake-up for many blocks
//
// Threads: one consumer; the thread ends with the object, in the middle of what there is to read if need be.
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "engine/live_reader.h"
#include "storage/aligned_buffer.h"

namespace varve {

class LiveReadAhead {
 public:
  enum class Ahead : std::uint8_t { automatic, always, never };

  static constexpr std::size_t kBlocks = 8;
  static constexpr std::size_t kMemoryBytes = kBlocks * LiveReader::kBlockBytes;

  /// Begins to read what is held, into kMemoryBytes of `memory`, which stays the caller's; null: into its own.
  LiveReadAhead(std::shared_ptr<LiveReader> reader, std::vector<MemorySpan> held, std::byte* memory,
                Ahead ahead = Ahead::automatic);
  ~LiveReadAhead();
  LiveReadAhead(const LiveReadAhead&) = delete;
  LiveReadAhead& operator=(const LiveReadAhead&) = delete;

  /// The next piece, ascending within a region, valid until the next call; empty at the end.
  std::optional<CapturedPiece> next();
  /// What the holder has to give. REQUIRES: next() was at the end.
  std::vector<MemorySpan> take_rest() { return reader_->take_rest(); }

 private:
  void start();
  void run();
  /// Makes the next block the one that is used; false at the end.
  bool take_block();

  const std::shared_ptr<LiveReader> reader_;  // the thread's, while there is one and it is not at the end
  storage::AlignedBuffer own_memory_;
  std::array<LiveReader::Block, kBlocks> blocks_;
  std::optional<pthread_t> thread_;

  // The consumer's own.
  LiveReader::Block* used_ = nullptr;
  std::size_t piece_ = 0;

  Mutex mutex_;
  Condition changed_;                                // for the consumer: read_ or at_end_
  Condition room_;                                   // for the thread: returned_ or stopping_
  std::uint64_t read_ VARVE_GUARDED_BY(mutex_) = 0;  // blocks, since the begin
  std::uint64_t returned_ VARVE_GUARDED_BY(mutex_) = 0;
  bool at_end_ VARVE_GUARDED_BY(mutex_) = false;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
};

}  // namespace varve
