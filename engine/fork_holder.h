// SPDX-License-Identifier: Apache-2.0
//
// Capture by fork, seen from the engine: a child process holds the memory as of the cut while the background reads it.
//
//     ForkHolders::start(spans)   within the stall: clone, wait until the child has closed its descriptors, look
//                                 whether its memory can be read; if not, clone once more with a shared ring
//     holder->next()              background: the next extent, by process_vm_readv into a buffer, or from the ring
//     ~ForkHolder                 kills and reaps the child; the program's own wait never sees it
//
// The child has exit signal 0: it sends no SIGCHLD, and only waits with __WALL or __WCLONE see it. A program that waits
// for any child with one of these (debuggers do) may reap it; the image then fails if it was not read yet.
//
// Threads: start() by one thread at a time; a ForkHolder by one thread at a time.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "engine/capture_extent.h"
#include "engine/fork_holder_child.h"
#include "varve/result.h"

namespace varve {

/// How the engine gets at the memory of the holder.
enum class HolderAccess : std::uint8_t {
  memory,  ///< process_vm_readv
  ring,    ///< the holder copies into shared memory
};

/// Buffers of 2 MiB in huge pages that are not inherited; kept and reused by ForkHolders.
class HolderBuffers {
 public:
  HolderBuffers();
  ~HolderBuffers();
  HolderBuffers(const HolderBuffers&) = delete;
  HolderBuffers& operator=(const HolderBuffers&) = delete;
  /// nullptr with errno when there is no memory.
  std::byte* take();
  void give_back(std::byte* buffer);
  /// Counts the rings of living holders in.
  void add_shared(std::uint64_t bytes) { shared_bytes_ += bytes; }
  void remove_shared(std::uint64_t bytes) { shared_bytes_ -= bytes; }
  std::uint64_t bytes() const;

 private:
  const pid_t owner_;
  std::atomic<std::uint64_t> shared_bytes_ = 0;
  mutable Mutex mutex_;
  std::vector<std::byte*> spare_ VARVE_GUARDED_BY(mutex_);
  std::uint32_t made_ VARVE_GUARDED_BY(mutex_) = 0;
};

class ForkHolder {
 public:
  ~ForkHolder();
  ForkHolder(const ForkHolder&) = delete;
  ForkHolder& operator=(const ForkHolder&) = delete;

  /// The next extent, valid until the next call; empty at the end. `io` when the holder is gone or can't be read,
  /// `unsupported` when the memory is, other than its span says, of a kind that it does not hold.
  Result<std::optional<Extent>> next();
  pid_t pid() const { return pid_; }
  HolderAccess access() const { return access_; }
  std::uint64_t clone_ns() const { return clone_ns_; }

 private:
  friend class ForkHolders;
  ForkHolder(std::vector<MemorySpan> spans, std::uint32_t chunk_bytes, std::shared_ptr<HolderBuffers> buffers);
  /// Makes the child. May be called again after end(), with another access.
  Status launch(HolderAccess access);
  Status map_shared();
  void wait_until_ready();
  bool memory_is_readable();
  /// Whether the holder's memory is what the spans were at the cut; what the program did to a mapping since protect()
  /// shows here.
  Status check_mappings();
  Result<std::optional<Extent>> next_from_memory();
  Status read_pieces(const Extent& extent);
  Result<std::optional<Extent>> next_from_ring();
  /// Why reading failed: the holder's end, or the errno.
  Error failed(int os_errno);
  /// The child's end in words, if it has ended.
  std::optional<std::string> how_it_ended();
  /// waitid(2) for the child; its return value.
  int wait_for_child(siginfo_t& ended, int options) const;
  /// Kills and reaps the child.
  void end();
  std::byte* slots() const { return shared_ + kSlotsOffset; }
  HolderControl* control() const { return reinterpret_cast<HolderControl*>(shared_); }

  static constexpr std::size_t kSlotsOffset = 4096;

  const pid_t owner_;
  const std::vector<MemorySpan> spans_;
  const std::size_t chunk_bytes_;
  const std::shared_ptr<HolderBuffers> buffers_;

  HolderAccess access_ = HolderAccess::memory;
  pid_t pid_ = -1;
  UniqueFd pidfd_;  // of the child; invalid before Linux 5.2
  UniqueFd pipe_;   // write end: the holder goes when it is closed
  std::byte* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;
  std::uint64_t clone_ns_ = 0;

  bool mappings_checked_ = false;
  std::byte* buffer_ = nullptr;  // memory
  std::size_t span_ = 0;         // memory: next to read
  std::size_t done_ = 0;         // of it
  std::uint32_t taken_ = 0;      // ring: slots handed out
  bool slot_in_use_ = false;
};

/// Starts holders, and remembers what works here.
class ForkHolders {
 public:
  /// `access` set: only that (for tests); else memory, or the ring where the system refuses it.
  explicit ForkHolders(std::uint32_t chunk_bytes, std::optional<HolderAccess> access = {});

  /// REQUIRES: all spans are private, inherited memory, and no thread writes it. `io` or `unsupported` when no process
  /// can be made: copy instead.
  Result<std::unique_ptr<ForkHolder>> start(std::vector<MemorySpan> spans);
  /// What is known: "works", "works by a shared ring: EPERM ...", "fails: ...", "not tried yet".
  std::string describe() const;
  std::uint64_t buffer_bytes() const { return buffers_->bytes(); }

 private:
  void remember(std::string finding);

  const std::uint32_t chunk_bytes_;
  const std::optional<HolderAccess> wanted_;
  const std::shared_ptr<HolderBuffers> buffers_;
  std::atomic<bool> memory_refused_ = false;
  mutable Mutex mutex_;
  std::string finding_ VARVE_GUARDED_BY(mutex_) = "not tried yet";
};

}  // namespace varve
