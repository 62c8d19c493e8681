// SPDX-License-Identifier: Apache-2.0
//
// LiveReader: reads the memory of a forked cut where the program has it, while the program goes on.
//
//     end_stall()       the last step of the stall, after the fork: written pages become clean
//     read()            background: copies a block, then asks which of its pages changed
//     take_rest()       background: those, which the holder has
//
// A page that the program has not written since the fork is the one that the holder shares: copying it here gives the
// cut's content, and spares the holder the faults of its new page tables, the way through shared memory, and half of
// the processor's time. Soundness: the kernel notes a write in the page's entry before the store becomes visible, and
// the question is asked after the copy (Tracking::changed_since_fork). Until the stall ends nobody writes, and nothing
// is asked: the disk is busy from the fork on.
//
// Memory is read under the mutex under which unprotect() ends a region; which is why it must stay mapped until then.
//
// Threads: end_stall() by the thread that cuts, all else by one thread at a time (LiveReadAhead).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "engine/capture.h"
#include "engine/mapping.h"
#include "engine/region.h"
#include "tracker/tracker.h"

namespace varve {

class LiveReader {
 public:
  /// What is read together, kBlockBytes: the caller's memory, and the unchanged pieces in it, ascending within a
  /// region. They are named and written from the cache of the second level, which much more would leave.
  struct Block {
    std::byte* memory = nullptr;
    std::vector<CapturedPiece> pieces;
  };
  static constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

  /// Who reads while end_stall() goes on. A reader has the disk at work earlier, and makes the stall longer by a tenth:
  /// its processor is to be told of each change.
  enum class Beside : std::uint8_t { nobody, reader };

  /// `touching`: held while memory of regions is read. Regions as the spans number them.
  LiveReader(Mutex& touching, std::uint64_t epoch, std::uint32_t chunk_bytes, Beside beside)
      : touching_(touching), epoch_(epoch), chunk_bytes_(chunk_bytes), beside_(beside) {}
  Beside beside() const { return beside_; }
  void add(std::shared_ptr<Region> region) { regions_.push_back({std::move(region), {}, {}, {}}); }

  /// Whose changes end_stall() will have to tell. Before read(), by the thread that cuts.
  void watch(std::span<const MemorySpan> held);
  /// After it the program may write. REQUIRES: watch(), of regions that were cut for this epoch, and fork(2), within
  /// the same stall. Until a reader beside it has come to its first block, there are pauses in which its thread can
  /// change mappings (for its stack, or larger tables).
  void end_stall();
  /// What read() reads. Once.
  void begin(std::vector<MemorySpan> held);
  /// Replaces what is in the block by the next pieces, one at least. False at the end.
  bool read(Block& block);
  /// After the end: what the holder has to give; ascending within a region.
  std::vector<MemorySpan> take_rest();

 private:
  struct Watched {
    std::shared_ptr<Region> region;
    bool watched = false;
    bool readable = false;  // here
    bool told = false;      // whether changes can be told; end_stall()'s until the stall has ended
  };
  /// Whole chunks of the current span, cut to the region.
  using Part = AddressRange;

  /// Divides the next 2 MiB into what is unchanged (window_) and the rest; false at the end.
  bool open_window();
  /// Copies the next of the window's parts, and keeps those that are unchanged afterwards.
  void read_block(Block& block);
  /// Looks for changes in the chunks that these addresses cover.
  void look_at(const Part& cover) VARVE_REQUIRES(touching_);
  /// Whether nobody can have written what was read before the call.
  bool within_stall() const;
  /// False: changes of it can't be told. `begin_ns`: when marking began.
  bool watch_region(tracker::Tracking& tracking, std::uint64_t begin_ns);
  void mark(std::uintptr_t begin, std::uintptr_t end);
  /// Splits a part into runs of chunks that changed, which are left to the holder, and others.
  template <class Unchanged>
  void divide(const Part& part, Unchanged unchanged);
  void leave_to_holder(const Part& part);

  struct Copied {
    std::uintptr_t begin = 0;
    std::span<const std::byte> content;
  };

  Mutex& touching_;
  const std::uint64_t epoch_;
  const std::uint32_t chunk_bytes_;
  const Beside beside_;
  std::vector<Watched> regions_;
  mutable std::atomic<bool> stalled_{true};
  std::atomic<bool> reading_{false};  // a block was read

  std::vector<MemorySpan> spans_;
  std::size_t span_ = 0;  // the current one
  std::size_t done_ = 0;  // bytes of it that were divided
  MemorySpan current_;    // that of window_
  std::vector<Part> window_;
  std::size_t window_at_ = 0;
  std::vector<MemorySpan> rest_;

  // Kept, so that no block allocates.
  std::vector<Copied> copied_;
  tracker::PageRuns changes_;
  std::uint64_t first_chunk_ = 0;  // of chunk_changed_
  std::vector<bool> chunk_changed_;
};

}  // namespace varve
