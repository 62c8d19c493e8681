// SPDX-License-Identifier: Apache-2.0
//
// SimulatedDisk: a disk in memory behind the Io interface, with the faults that a store has to survive. One seed
// decides everything; the same calls with the same seeds give the same disk.
//
// Every file and every folder has two states: what running programs see, and what is durable.
//
//     submit_write ──(ends in any order)──▶ seen ──(sync, or by chance at a crash)──▶ durable
//
// Faults that it plays:
//   - writes end in any order, and only prefixes are reported. A buffer that changes before its write has ended aborts
//     the test.
//   - crash(seed): of what was not synced, each write is lost, kept, or torn at 512-byte sectors, each in any mix with
//     the others; sectors of one place keep their order. Sizes are metadata of their own: a size may be kept without
//     its data (zeros then) and data without its size (cut off then), but changes of the size of one file keep their
//     order. The seed also picks how bad it is: all lost, all kept, a prefix kept, whole writes, torn sectors.
//   - names: create, rename, remove and make_directory that were not followed by sync_directory are kept or lost
//     independently of each other and of the data, but in order where they touch the same name; a rename is atomic.
//     Files in a folder whose own name was lost are lost.
//   - a sync that fails (add_fault): what was not durable becomes durable by chance or never will, also when a later
//   sync
//     succeeds; programs may go on seeing it until the crash, or see the old content at once, as on Linux.
//   - errors of any call: the n-th from now, or one in so many; a write that fails leaves any mix of its sectors.
//   - a full disk (set_capacity), and the power cut at any operation (cut_power_after).
//   - damage at rest: flip_bit, write, truncate, remove.
// Not played, since no file system is used that does so: misdirected writes, lost writes after a good sync.
//
// Handles of before a crash fail with EIO; locks go with it; the disk is opened anew.
//
// Threads: any; the order of events is then not repeatable.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/io.h"

namespace varve::test {

enum class SimulatedOperation : std::uint8_t {
  open,  ///< also creates
  write,
  read,  ///< each request of a batch
  sync,
  allocate,
  truncate,
  list,
  make_directory,
  rename,
  remove,
  sync_directory,
  lock,
};
inline constexpr std::size_t kSimulatedOperations = 12;
std::string_view to_string(SimulatedOperation operation);

struct SimulatedOptions {
  std::uint64_t seed = 1;  ///< order of endings, what failed syncs lose, random faults
  bool direct = false;     ///< files opened so are direct(): misaligned writes abort
  bool durable = true;     ///< FileSystemTraits::durable
  unsigned queue_depth = 16;
  std::uint64_t capacity_bytes = std::numeric_limits<std::uint64_t>::max();
};

/// The `nth` operation of this kind from now on (1: the next), and those after it up to `count` in all, fail.
struct SimulatedFault {
  SimulatedOperation operation = SimulatedOperation::write;
  std::uint64_t nth = 1;
  int os_errno = EIO;
  std::uint64_t count = 1;
  std::string file = {};  ///< only files whose name contains this; others are not counted
};

class SimulatedState;

class SimulatedDisk {
 public:
  explicit SimulatedDisk(const SimulatedOptions& options = {});
  SimulatedDisk(SimulatedDisk&&) noexcept;
  SimulatedDisk& operator=(SimulatedDisk&&) noexcept;
  ~SimulatedDisk();  // handles may live on

  /// As many as wanted; each is another "process" with its own locks.
  std::unique_ptr<storage::Io> open();
  /// A disk with the same content and the same unsynced changes (what is in flight has ended there, or not, by `seed`),
  /// no handles, no locks, no faults, power on: to try many crashes of one moment.
  SimulatedDisk copy(std::uint64_t seed = 1) const;

  /// The power fails and comes back. Faults, power cuts and random faults are cleared.
  void crash(std::uint64_t seed);

  void add_fault(const SimulatedFault& fault);
  /// One in `one_in` operations of this kind fails.
  void add_random_faults(SimulatedOperation operation, std::uint64_t one_in, int os_errno);
  void clear_faults();
  /// After `operations` more (of any kind) the power is off: nothing changes any more, everything fails with EIO, until
  /// crash().
  void cut_power_after(std::uint64_t operations);
  bool power_is_off() const;
  void set_capacity(std::uint64_t bytes);

  /// Operations so far, of every Io.
  std::uint64_t operations() const;
  std::uint64_t operations(SimulatedOperation operation) const;

  /// Bytes at rest, as a program sees them. Changes made here are durable at once, and do not count as operations.
  /// REQUIRES: the file exists, where one is named.
  std::vector<std::string> files() const;  ///< all of them, sorted: "lock", "segments/a-1.seg"
  bool exists(std::string_view name) const;
  std::uint64_t size_bytes(std::string_view name) const;
  std::uint64_t used_bytes() const;
  std::vector<std::byte> read(std::string_view name) const;
  void write(std::string_view name, std::uint64_t offset, std::span<const std::byte> bytes);  ///< makes it grow
  void flip_bit(std::string_view name, std::uint64_t offset, unsigned bit);
  void truncate(std::string_view name, std::uint64_t size_bytes);
  void remove(std::string_view name);
  /// Makes the file, with this content; replaces one that exists. The folder is made, too.
  void put(std::string_view name, std::span<const std::byte> content);

 private:
  explicit SimulatedDisk(std::shared_ptr<SimulatedState> state);
  std::shared_ptr<SimulatedState> state_;
};

}  // namespace varve::test
