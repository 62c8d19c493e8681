// SPDX-License-Identifier: Apache-2.0
//
// SegmentWriter: the open end of one segment. Bytes go into a ring of aligned buffers; full ones are written while the
// next is being filled, so that hashing and compressing overlap with the disk.
//
//     file     ... | written | in flight ... | held ...  | buffer being filled |        preallocated        |
//                            ^ ring of buffers           ^ buffer_begin_       ^ offset()
//
// Part of the ring is in flight at most, and the rest may wait, filled, for its turn: some disks tell the end of writes
// only when their queue has run empty (virtio does, for one), and would stand still until the next buffer is full. Here
// they get several at once.
//
// Every write ends at a multiple of the buffers' length in the file, but for the last before a flush: a part of what a
// write costs the disk does not depend on its length. A buffer has room beyond its length, and what a frame takes of it
// moves to the next one. What was not synced may be taken back by rewind(). After any error the object may only be
// destroyed.
//
// Threads: one at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>

#include "storage/compression_level.h"
#include "storage/io.h"
#include "storage/record.h"

namespace varve::storage {

/// The ring's memory: in huge pages, faulted in as it is first used, not inherited by forks (pinned pages would be
/// copied within the fork). Outlives the SegmentWriters that use it, so that it stays warm.
class WriteBuffers {
 public:
  static constexpr std::size_t kBytes = std::size_t{2} << 20;
  static constexpr std::size_t kCount = 6;
  static constexpr std::size_t kInFlight = 4;
  /// What may be begun in a buffer that is nearly full.
  static constexpr std::size_t kMoreBytes = std::size_t{128} << 10;
  static constexpr std::size_t kMemoryBytes = std::size_t{14} << 20;

  static Result<std::unique_ptr<WriteBuffers>> create();
  ~WriteBuffers();
  WriteBuffers(const WriteBuffers&) = delete;
  WriteBuffers& operator=(const WriteBuffers&) = delete;

  std::span<std::byte> at(std::size_t index) { return {memory_ + index * (kBytes + kMoreBytes), kBytes + kMoreBytes}; }
  /// Faults in a part of it, in some ms at most. False when all of it is, or can't be. REQUIRES: nothing is in it.
  bool warm_up();
  /// Of the disk that they are written to.
  DiskSpeed& disk_speed() { return disk_speed_; }

 private:
  explicit WriteBuffers(std::byte* memory) : memory_(memory) {}
  std::byte* memory_;
  std::size_t warm_bytes_ = 0;
  DiskSpeed disk_speed_;
};

struct SegmentWriterOptions {
  std::uint64_t preallocate_bytes = 0;  ///< largest step; 0: none. An eighth of it stays behind what was synced
};

class SegmentWriter {
 public:
  /// Makes the file: header and `notes` (whole commits that follow it) under a temporary name, flushed, then named.
  /// REQUIRES: byte 0 of the lock file is held; notes are a multiple of kBlockBytes.
  static Result<std::unique_ptr<SegmentWriter>> create(Io& io, WriteBuffers& buffers, const SegmentHeader& header,
                                                       std::span<const std::byte> notes,
                                                       const SegmentWriterOptions& options);
  ~SegmentWriter();
  SegmentWriter(const SegmentWriter&) = delete;
  SegmentWriter& operator=(const SegmentWriter&) = delete;

  /// Largest span that room() gives.
  static constexpr std::size_t kMaxRoom = WriteBuffers::kMoreBytes;

  const std::string& name() const { return name_; }
  /// At most about so many bytes come until the next sync().
  void expect(std::uint64_t bytes);
  /// Where the next byte goes.
  std::uint64_t offset() const { return buffer_begin_ + fill_; }
  /// Memory at the current offset for `bytes` that are written in place, then advance()d over.
  Result<std::span<std::byte>> room(std::size_t bytes);
  void advance(std::size_t bytes);
  Status append(std::span<const std::byte> bytes);
  /// Zeros up to a multiple of `alignment`, at most kBlockBytes.
  Status pad(std::size_t alignment);
  /// Writes what is buffered. REQUIRES: offset() is a multiple of kBlockBytes.
  Status submit();
  /// Submits, waits, and makes all of it durable.
  Status sync();
  /// Forgets what lies behind `offset` once its writes have ended. REQUIRES: a multiple of kBlockBytes, synced.
  Status rewind(std::uint64_t offset);
  /// Cuts the file at offset(); sync() makes it durable.
  Status truncate();
  /// As measured while writes were under way, in this segment and those before it; 0: not known yet.
  double disk_bytes_per_second() const { return buffers_.disk_speed().bytes_per_second(); }
  /// Reads bytes that were appended, also those not written yet.
  Status read_back(std::uint64_t offset, std::span<std::byte> into);

 private:
  SegmentWriter(Io& io, WriteBuffers& buffers, std::string name, const SegmentWriterOptions& options);
  Status next_buffer();
  Status submit_up_to(std::size_t bytes);
  /// Submits what is held while fewer than `in_flight` writes are under way.
  Status submit_held(std::uint64_t in_flight);
  Status submit_all_held();
  void preallocate(std::uint64_t until);
  /// What was reserved for a large image is not kept for small ones.
  void give_back();
  void restart_buffer(std::uint64_t offset);
  /// Looks whether writes are under way, and counts the time in which some are.
  void watch_disk();
  void count_disk();
  void forget_disk();

  Io& io_;
  std::string name_;
  SegmentWriterOptions options_;
  std::unique_ptr<File> file_;
  WriteBuffers& buffers_;
  std::array<std::uint64_t, WriteBuffers::kCount> last_write_{};  // of each buffer: how many writes must have ended
  std::size_t current_ = 0;
  std::uint64_t buffer_begin_ = 0;  // file offset of the current buffer's first byte
  std::size_t fill_ = 0;
  std::size_t full_ = 0;       // at which it is written
  std::size_t submitted_ = 0;  // bytes of the current buffer that were submitted or held already
  struct Held {
    std::uint64_t offset = 0;
    std::span<const std::byte> bytes;
  };
  std::deque<Held> held_;
  std::uint64_t writes_ = 0;         // submitted or held so far
  std::uint64_t busy_since_ns_ = 0;  // a write is under way since then; 0: none
  std::uint64_t busy_ns_ = 0;        // before that, not counted in the disk's speed yet
  std::uint64_t busy_bytes_ = 0;     // submitted in that time
  std::uint64_t allocated_ = 0;      // end of the preallocated part
  static constexpr std::uint64_t kFirstStep = std::uint64_t{4} << 20;
  std::uint64_t next_step_ = kFirstStep;
};

}  // namespace varve::storage
