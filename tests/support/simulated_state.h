// SPDX-License-Identifier: Apache-2.0
//
// The inside of SimulatedDisk (simulated_io.h): files, names, what of them is durable, and the faults. Everything is
// under one mutex.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "storage/write_prefix.h"
#include "tests/support/random.h"
#include "tests/support/simulated_io.h"

namespace varve::test {

inline constexpr std::size_t kSectorBytes = 512;

/// Content of a file: sparse, blocks shared between copies until they are written.
class SimulatedBytes {
 public:
  std::uint64_t size() const { return size_; }
  /// Cuts or adds zeros.
  void resize(std::uint64_t size);
  std::size_t read(std::uint64_t offset, std::span<std::byte> into) const;
  /// Does not change the size; what lies beyond it is cut by the next resize().
  void put(std::uint64_t offset, std::span<const std::byte> bytes);

 private:
  static constexpr std::size_t kBlockBytes = 4096;
  using Block = std::array<std::byte, kBlockBytes>;
  std::uint64_t size_ = 0;
  std::map<std::uint64_t, std::shared_ptr<const Block>> blocks_;
};

/// What was done to a file and is not durable.
struct SimulatedChange {
  std::uint64_t offset = 0;
  std::vector<std::byte> bytes;           // a write
  std::optional<std::uint64_t> new_size;  // it changed the size (before or with the write)
};

struct SimulatedNode {
  bool folder = false;
  SimulatedBytes seen;
  SimulatedBytes durable;
  std::vector<SimulatedChange> pending;  // in order
};
using SimulatedNodePointer = std::shared_ptr<SimulatedNode>;

/// Names that changed at once, each to a node, or to nothing when removed.
struct SimulatedNameChange {
  std::vector<std::pair<std::string, SimulatedNodePointer>> entries;
};
using SimulatedNames = std::map<std::string, SimulatedNodePointer, std::less<>>;

/// A write between submission and its end.
struct SimulatedFlight {
  std::uint64_t index = 0;
  std::uint64_t offset = 0;
  std::span<const std::byte> bytes;
  std::uint64_t checksum = 0;
  int os_errno = 0;  // how it will end
};

/// An open file.
struct SimulatedHandle {
  SimulatedHandle(std::string file, SimulatedNodePointer file_node, bool for_writing, std::size_t depth)
      : name(std::move(file)), node(std::move(file_node)), writable(for_writing), prefix(depth) {}
  const std::string name;
  const SimulatedNodePointer node;
  const bool writable;
  storage::WritePrefix prefix;
  std::vector<SimulatedFlight> flights;
};

/// How much a crash loses.
enum class SimulatedLoss : std::uint8_t { all_lost, all_kept, prefix_kept, whole_writes, torn_sectors };

class SimulatedState {
 public:
  explicit SimulatedState(const SimulatedOptions& disk_options) : options(disk_options), random(disk_options.seed) {}

  /// Counts an operation; 0, or the errno with which it fails. `epoch`: of the handle.
  int begin(SimulatedOperation operation, std::string_view name, std::uint64_t handle_epoch) VARVE_REQUIRES(mutex);
  /// Whether handles of this epoch still work.
  bool alive(std::uint64_t handle_epoch) const VARVE_REQUIRES(mutex) { return !power_off && handle_epoch == epoch; }

  /// Ends one write in flight of the handle, any.
  void land_one(SimulatedHandle& handle) VARVE_REQUIRES(mutex);
  /// Sets the size, as seen; ENOSPC or 0.
  int resize(SimulatedNode& node, std::uint64_t size) VARVE_REQUIRES(mutex);
  void sync(SimulatedNode& node) VARVE_REQUIRES(mutex);
  void fail_sync(SimulatedNode& node) VARVE_REQUIRES(mutex);
  void change_names(SimulatedNameChange change) VARVE_REQUIRES(mutex);
  void sync_directory(std::string_view folder) VARVE_REQUIRES(mutex);
  /// 0 when the store itself ("") or a folder in it, else ENOENT or ENOTDIR.
  int check_folder(std::string_view folder) const VARVE_REQUIRES(mutex);
  /// A file by its name; its errno is 0, ENOENT, EISDIR or that of its folder.
  struct Found {
    SimulatedNodePointer node;
    int os_errno = 0;
  };
  Found find_file(std::string_view name) const VARVE_REQUIRES(mutex);
  std::uint64_t used_bytes() const VARVE_REQUIRES(mutex);
  void crash(std::uint64_t seed) VARVE_REQUIRES(mutex);
  /// Everything in flight ends now, failed for its handle: a write may have reached the disk or not, by the seed.
  void end_flights(Random& chance) VARVE_REQUIRES(mutex);
  std::shared_ptr<SimulatedState> copy(std::uint64_t seed) VARVE_REQUIRES(mutex);
  void clear_faults() VARVE_REQUIRES(mutex);

  Mutex mutex;
  const SimulatedOptions options;
  Random random VARVE_GUARDED_BY(mutex);
  Random ids VARVE_GUARDED_BY(mutex) = Random(~options.seed);  // fill_random(): never the same twice
  SimulatedNames names VARVE_GUARDED_BY(mutex);
  SimulatedNames durable_names VARVE_GUARDED_BY(mutex);
  std::vector<SimulatedNameChange> pending_names VARVE_GUARDED_BY(mutex);
  std::set<SimulatedHandle*> handles VARVE_GUARDED_BY(mutex);
  std::uint64_t epoch VARVE_GUARDED_BY(mutex) = 1;
  std::uint64_t capacity_bytes VARVE_GUARDED_BY(mutex) = options.capacity_bytes;

  struct LockHolders {
    bool exclusive = false;
    unsigned count = 0;
  };
  std::map<std::uint64_t, LockHolders> locks VARVE_GUARDED_BY(mutex);

  std::vector<SimulatedFault> faults VARVE_GUARDED_BY(mutex);
  struct RandomFaults {
    std::uint64_t one_in = 0;
    int os_errno = 0;
  };
  std::array<RandomFaults, kSimulatedOperations> random_faults VARVE_GUARDED_BY(mutex);
  std::array<std::uint64_t, kSimulatedOperations> counts VARVE_GUARDED_BY(mutex) = {};
  std::uint64_t operations VARVE_GUARDED_BY(mutex) = 0;
  std::uint64_t power_limit VARVE_GUARDED_BY(mutex) = std::numeric_limits<std::uint64_t>::max();
  bool power_off VARVE_GUARDED_BY(mutex) = false;

 private:
  void write(SimulatedNode& node, std::uint64_t offset, std::span<const std::byte> bytes) VARVE_REQUIRES(mutex);
  void settle(SimulatedNode& node, SimulatedLoss loss, Random& chance) VARVE_REQUIRES(mutex);
  void settle_names(SimulatedLoss loss, Random& chance) VARVE_REQUIRES(mutex);
  int injected_fault(SimulatedOperation operation, std::string_view name) VARVE_REQUIRES(mutex);
};

}  // namespace varve::test
