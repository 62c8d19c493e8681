// SPDX-License-Identifier: Apache-2.0
//
// The one door to bytes at rest. A store does every file operation through Io, so that the real back ends (`uring`,
// `posix`) and the simulated one of the tests (tests/support/simulated_io.h) pass the same contract suite.
//
// Names are relative to the store's directory ("segments/a1b2-3.seg"), have at most one '/', and are opened without
// following symbolic links. Files are made with mode 0600, directories with 0700, whatever the umask.
//
// Durability: bytes written are durable when sync() of their file has returned without an error; a name (create,
// rename, remove) when sync_directory() of its folder has. After a failed sync() nothing written to that file since its
// last good sync() is to be trusted, even if a later sync() succeeds: the page cache may have dropped the pages.
//
// Threads: Io may be used from any thread; a File by one thread at a time. Files and locks may outlive their Io. In a
// child that the program forks every call returns `unsupported`, and destruction touches nothing of the parent's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/result.h"

namespace varve::storage {

enum class IoKind : std::uint8_t { uring, posix };

std::string_view to_string(IoKind kind);
std::optional<IoKind> parse_io(std::string_view name);

/// Alignment of offsets, lengths and buffers that every direct write keeps; also the alignment of images in a segment.
inline constexpr std::size_t kIoAlignment = 4096;

class File {
 public:
  virtual ~File() = default;  // waits for submitted writes; closes

  virtual const std::string& name() const = 0;
  virtual Result<std::uint64_t> size_bytes() = 0;
  /// Whether writes go by O_DIRECT: then offset, length and address of each submitted write are kIoAlignment-aligned.
  virtual bool direct() const = 0;

  /// Reads until `into` is full or the file ends; returns the number of bytes. Sees writes that have ended.
  virtual Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) = 0;

  /// Starts a write. The bytes must stay as they are until drain() has returned, or until `completed_writes()` says
  /// so. Blocks while the queue (bounded) is full. Errors may come late: drain() returns the first one; until then
  /// further writes are refused with it, and not counted. Writes in flight must not overlap.
  virtual Status submit_write(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  /// How many submitted writes have ended, counted from the first, in order of submission (a prefix); polls.
  virtual std::uint64_t completed_writes() = 0;
  /// Waits until at least `count` writes (a prefix, in order of submission) have ended; the error that drain() will
  /// return, if there is one by then. REQUIRES: count submitted.
  virtual Status wait_writes(std::uint64_t count) = 0;
  /// Waits for every submitted write; the first error of any since the last drain().
  virtual Status drain() = 0;
  /// Makes everything written so far durable (fdatasync(2): the size too, when it grew). Drains first.
  virtual Status sync() = 0;

  /// Reserves space (fallocate(2), size grows to offset + bytes). `unsupported` where the file system can't; a store
  /// goes on without.
  virtual Status allocate(std::uint64_t offset, std::uint64_t bytes) = 0;
  virtual Status truncate(std::uint64_t size_bytes) = 0;
};

/// A held lock; released by destruction, and by the end of the process.
class Lock {
 public:
  virtual ~Lock() = default;
};

enum class OpenMode : std::uint8_t {
  read,           ///< must exist
  write,          ///< must exist; buffered
  create,         ///< must not exist; buffered
  create_direct,  ///< must not exist; O_DIRECT where the file system takes it (see File::direct())
  write_direct,   ///< must exist; O_DIRECT where possible
  read_direct,    ///< must exist; past the page cache where possible
};

/// What the file system of the store's directory promises.
struct FileSystemTraits {
  std::string type;              ///< "ext4", "xfs", "btrfs", "tmpfs", "overlayfs", "nfs", ... or "0x<magic>"
  bool durable = true;           ///< false on tmpfs and ramfs: sync() is accepted and means nothing
  bool direct = false;           ///< O_DIRECT was probed and works
  std::uint64_t free_bytes = 0;  ///< for an ordinary user, now
};

class Io {
 public:
  virtual ~Io() = default;

  virtual IoKind kind() const = 0;
  /// Why this kind: "io_uring refused by seccomp (EPERM)"; empty when it was the first choice.
  virtual const std::string& why() const = 0;
  /// The store's directory, for messages.
  virtual const std::string& directory() const = 0;
  virtual Result<FileSystemTraits> file_system() = 0;

  virtual Result<std::unique_ptr<File>> open(std::string_view name, OpenMode mode) = 0;
  /// Names in a folder of the store ("" is the store itself), sorted; without "." and "..".
  virtual Result<std::vector<std::string>> list(std::string_view folder) = 0;
  virtual Status make_directory(std::string_view name) = 0;               ///< an existing directory is fine
  virtual Status rename(std::string_view from, std::string_view to) = 0;  ///< replaces `to`
  virtual Status remove(std::string_view name) = 0;
  virtual Status sync_directory(std::string_view folder) = 0;

  /// Locks one byte of the store's file "lock" (made when missing), by open-file-description locks. Does not wait:
  /// `busy` when another open store (of this or another process) holds it in a conflicting way.
  virtual Result<std::unique_ptr<Lock>> lock(std::uint64_t byte, bool exclusive) = 0;

  /// Ids, nonces and secrets: getrandom(2). Here so that a simulated store repeats whole by its seed, file names too.
  virtual void fill_random(std::span<std::byte> into);
  std::uint64_t random_number();
};

struct IoOptions {
  std::optional<IoKind> kind;   ///< empty: VARVE_IO decides, else uring where probing finds it, else posix
  unsigned queue_depth = 16;    ///< writes in flight of each file, at most (1 to 256)
  bool allow_direct = true;     ///< false: always buffered
  bool create = true;           ///< make the directory when missing (its parent must exist)
  bool allow_foreign = false;   ///< accept a directory of another owner, or writable by others
  std::optional<int> niceness;  ///< the least that threads of its own have; empty: that of who uses it first
};

/// Opens the directory of a store. Errors: `not_found` (missing and create is false), `invalid_argument` (not a
/// directory; owned by another user or writable by others), `unsupported` (a kind was forced that is refused here).
Result<std::unique_ptr<Io>> open_io(const std::string& directory, const IoOptions& options);

struct IoReport {
  IoKind kind;
  bool available;
  std::string reason;  ///< why not
};
/// Probes by doing: sets up a ring and completes a no-op.
std::vector<IoReport> probe_io();

}  // namespace varve::storage
