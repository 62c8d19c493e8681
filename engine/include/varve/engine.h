// SPDX-License-Identifier: Apache-2.0
//
// The engine: keeps named regions of a running program's memory as a chain of full and delta images in a store.
//
//     varve::Options options;
//     options.store = "ckpt";
//     auto engine = varve::Engine::open(options);
//     engine->protect("grid", grid.data(), grid.size() * sizeof(double));
//     engine->restore_if_any();                  // false: no image yet
//     ... engine->checkpoint(); ...              // returns at once; written in the background
//     engine->close();                           // waits for the last image
//
// Every call returns a Result; examples/ and README.md show the errors handled.
//
// Words: a *region* is a named address range of any alignment and length. A *cut* is the instant that an image shows.
// The *stall* is the time for which checkpoint() keeps the program. An image is *durable* when it survives a loss of
// power (on tmpfs: *written* only); before that its *ticket* is not ready.
//
// Threads: an Engine may be called from any thread; calls that change or cut regions wait for each other. During
// checkpoint() and restore() no thread may write protected memory (call it between steps, or under your own lock);
// at all other times all may. Engine threads block sent signals. In a child that the program forks itself every call
// returns `unsupported` and nothing of the parent's is disturbed.
//
// Memory: staging (Options::staging_bytes) and, besides it, under 1.5 % of the protected memory plus the store's index
// (at most 40 bytes per stored chunk).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "varve/result.h"

namespace varve {

enum class Tracker : std::uint8_t { automatic, uffd, soft_dirty, mprotect, hash };
enum class Capture : std::uint8_t { automatic, copy, fork };
enum class IoBackEnd : std::uint8_t { automatic, uring, posix };

/// What checkpoint() does when the writer is behind and staging is full or too many images are in flight.
enum class WhenBehind : std::uint8_t {
  wait,  ///< the program waits until there is room (the stall grows)
  skip,  ///< no image; the ticket's result says `skipped`; the next image holds those pages
  fail,  ///< checkpoint() returns `busy`; the next image holds those pages
};

struct Options {
  /// Directory of the store; made (mode 0700) when missing, its parent must exist.
  std::string store = {};
  /// The chain this engine writes. One writer per chain: a second one gets `busy`, naming the holder's pid.
  std::string chain = "main";

  /// `automatic` obeys VARVE_TRACKER, VARVE_CAPTURE, VARVE_IO when set; a value here wins over them.
  Tracker tracker = Tracker::automatic;
  Capture capture = Capture::automatic;
  IoBackEnd io = IoBackEnd::automatic;

  /// Every how many images one is full. 0: only the first of a chain; 1: all.
  std::uint32_t full_every = 0;
  /// Retention: the last so many images of the chain stay, those with a label or a pin, and what the next image builds
  /// on. Others are dropped in the background and their space is given back: in batches, so that some more are there
  /// until close(). 0: all stay. What goes wrong with it fails no image: see Engine::maintenance().
  std::uint32_t keep = 0;
  /// Of the images before those, one of every so many stays, too. 0: none. Needs `keep`.
  std::uint32_t keep_every = 0;
  /// Bound of staging memory in bytes. 0: an eighth of the memory that this process may use (cgroup limits counted).
  std::size_t staging_bytes = 0;
  /// Images captured and not yet durable, at most. At least 1.
  std::uint32_t images_in_flight = 2;
  WhenBehind when_behind = WhenBehind::wait;

  /// For a new store: a power of two from 4 KiB to 64 KiB. An existing store keeps its own. 0: 4 KiB.
  std::uint32_t chunk_bytes = 0;
  /// LZ4 frames, raw where that does not pay: where the bytes do not get fewer, or where the disk takes the raw ones
  /// sooner than they could be compressed, even by LZ4's fastest ways (docs/tuning.md). false: always raw.
  bool compress = true;
  /// Makes images as small as LZ4 can, also where the disk would take the raw bytes sooner, and stores chunks as
  /// differences to those that they replace wherever that is smaller (docs/tuning.md).
  bool favour_size = false;
  /// Compare stored bytes before trusting a chunk's name. For programs whose memory an enemy may shape. Slower.
  bool verify_on_dedup = false;
  /// Threads that reduce and compress in the background, and that unpack for a lazy restore. 0: one. One more reads
  /// memory while a large image is captured by fork, and the thread that opened the engine had a second processor. An
  /// eager restore, which the program waits for, takes all processors that the calling thread may use.
  std::uint32_t threads = 0;
  /// Niceness of these threads and of those that write, added to that of the thread that opens the engine: 0 (as the
  /// program) to 19. What the program itself does for a checkpoint, and what it waits for in restore(), is not in it.
  int nice = 0;
  /// Bound of what is written to the store in a second: images, compaction, everything; at least 64 KiB. 0: none. After
  /// a pause a twentieth of it (64 KiB to 4 MiB) goes at once. A checkpoint with `sync`, wait() and close() keep to it
  /// too, and so take as long as it says; what the destructor drops does not.
  std::uint64_t bytes_per_second = 0;
  /// Accept a store that belongs to another user or is writable by others.
  bool allow_foreign_store = false;
};

struct RegionOptions {
  /// Size of one array element in bytes (8 for double); 0: unknown. A hint for compression, recorded in the image.
  std::uint32_t element_bytes = 0;
};

struct CheckpointOptions {
  bool full = false;       ///< a full image whatever the policy says
  bool sync = false;       ///< return only when the image is durable (or has failed: then its error is returned)
  std::string label = {};  ///< a name for the image, unique in its chain: letters, digits, '-', '_', '.'; no number
};

enum class ImageKind : std::uint8_t { full, delta };

/// What became of one checkpoint. Sizes in bytes, times in nanoseconds, pages of the system's size.
struct ImageResult {
  std::uint64_t image = 0;  ///< its number in the chain; 0 when skipped
  ImageKind kind = ImageKind::delta;
  std::uint64_t parent = 0;  ///< 0: none
  bool skipped = false;      ///< WhenBehind::skip
  bool durable = false;      ///< false: only written, since the file system promises nothing (tmpfs)

  std::uint64_t protected_bytes = 0;
  std::uint64_t suspect_pages = 0;   ///< named by the tracker
  std::uint64_t cooled_pages = 0;    ///< protected since the cut before: they had not been written for long enough
  std::uint64_t mistaken_pages = 0;  ///< protected earlier, and written again so soon that it did not pay
  std::uint64_t unlisted_bytes = 0;  ///< of regions that are so hot that nobody asked: all of them is suspect
  std::uint64_t captured_bytes = 0;  ///< suspects' content, whole chunks
  std::uint64_t live_bytes = 0;      ///< of these: held by a fork, and read in place, since nobody had written them yet
  std::uint64_t unchanged_chunks = 0;
  std::uint64_t changed_chunks = 0;  ///< = zero + deduplicated + new
  std::uint64_t zero_chunks = 0;
  std::uint64_t deduplicated_chunks = 0;
  std::uint64_t new_chunks = 0;
  std::uint64_t raw_bytes = 0;      ///< of new chunks
  std::uint64_t written_bytes = 0;  ///< to disk for this image: frames, manifest, padding

  std::uint64_t stall_ns = 0;       ///< all of checkpoint() up to its return (without the wait of `sync`)
  std::uint64_t scan_ns = 0;        ///< of it: listing the suspects
  std::uint64_t capture_ns = 0;     ///< of it: copy or fork
  std::uint64_t reduce_ns = 0;      ///< background: hash, deduplicate, compress, hand to io
  std::uint64_t commit_ns = 0;      ///< background: manifest and flush
  std::uint64_t durable_ns = 0;     ///< from the begin of checkpoint() to durable
  std::uint64_t paced_ns = 0;       ///< background: of it, waited for Options::bytes_per_second
  Capture capture = Capture::copy;  ///< which one served the most bytes
  std::string capture_why = {};     ///< and why, with the figures that decided
};

/// The handle of an image under way. Copies share it; it may outlive the engine.
class Ticket {
 public:
  /// Whether the image has become durable, was skipped, or failed.
  bool ready() const;
  /// Waits for that; the error of a failed image. Its pages are in the next image.
  Result<ImageResult> wait() const;
  /// The number that the image has or will have; 0 when skipped.
  std::uint64_t image() const;

 private:
  friend class EngineImplementation;
  struct State;
  explicit Ticket(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

/// One image of the store, from its manifest.
struct ImageInfo {
  std::string chain;
  std::uint64_t image = 0;
  std::uint64_t parent = 0;  ///< 0: none
  ImageKind kind = ImageKind::full;
  std::string label;
  std::uint64_t time_ns = 0;        ///< of the cut, since 1970
  std::uint64_t region_bytes = 0;   ///< of all its regions
  std::uint64_t written_bytes = 0;  ///< on disk for this image
};

/// An image that a restore with `fallback` passed over.
struct SkippedImage {
  std::string image;   ///< "main/7"; empty: some that can't even be listed
  std::string reason;  ///< what is damaged, and where
};

struct RestoreOptions {
  /// Where the image is damaged or missing, take the newest older one of its chain that is good. What is passed over is
  /// logged, too. Anything but damage is an error as ever: a region of another size, an image that never was.
  bool fallback = false;
  std::vector<SkippedImage>* skipped = nullptr;  ///< out, newest first; null: not wanted
  /// Return at once: pages come when they are touched, the rest streams in meanwhile. See docs/restore.md for what it
  /// needs (a full userfaultfd, private anonymous memory) and what it changes. What can't be restored so is restored
  /// before the return; Engine::lazy_status() says why. Whole pages of the regions are missing at first: who touches
  /// one, a system call too, waits for it. Until all is in place checkpoint() waits for that (WhenBehind decides), and
  /// so do unprotect(), exclude(), touch(), close(), the destructor, and fork(2). Damage that the program meets by
  /// touching it stops the program with a message (abort(3)); what it has not touched shows in wait_restored(), and
  /// another restore mends it. Not together with `fallback`.
  bool lazy = false;
};

/// The last restore with RestoreOptions::lazy.
struct LazyStatus {
  std::string image;               ///< "main/7"; empty: there was none
  bool streaming = false;          ///< not all of it is in place
  std::uint64_t lazy_bytes = 0;    ///< that were left to come later; 0: restored eagerly
  std::uint64_t placed_bytes = 0;  ///< of these, in place by now
  std::uint64_t faults = 0;        ///< pages that the program had to wait for
  std::string eager_why = {};      ///< why regions, or all, were restored eagerly; empty: only edges and such
  std::string failure = {};        ///< what could not be read, when streaming has ended with that
};

/// Called around cuts; the context is the caller's own. Hooks run in the thread that called the engine, and must not
/// call the engine. Empty ones are skipped.
struct Hooks {
  std::function<void()> before_cut;  ///< last chance to write protected memory
  std::function<void()> after_cut;   ///< the content is safe; the program may write again
  std::function<void(const ImageInfo&)> after_restore;
};

/// What serves this engine and why, for people: "uffd", "soft-dirty: no WP_ASYNC in this kernel".
struct Choices {
  std::string tracker;
  std::string capture;
  std::string io;
  std::string file_system;
};

/// Memory that the engine holds now, in bytes.
struct MemoryUse {
  std::uint64_t staging_bytes = 0;   ///< captured content, pre-faulted
  std::uint64_t index_bytes = 0;     ///< the store's index
  std::uint64_t indexed_chunks = 0;  ///< chunks in it
  std::uint64_t other_bytes = 0;     ///< names, tracking, io buffers
};

/// Retention and garbage collection of this engine's chain (Options::keep), since it was opened.
struct MaintenanceStatus {
  std::uint64_t images_dropped = 0;
  std::uint64_t images_compacted = 0;  ///< made full, since they built on images that were dropped
  std::uint64_t collections = 0;       ///< that were finished
  bool collecting = false;             ///< one is under way; it goes on between images
  std::uint64_t segments_dropped = 0;
  std::uint64_t segments_rewritten = 0;
  std::uint64_t bytes_freed = 0;      ///< of the files that were removed
  std::uint64_t bytes_rewritten = 0;  ///< of the files that were written instead
  std::uint64_t stored_bytes = 0;     ///< of the chain's files, now
  std::uint64_t live_bytes = 0;       ///< what images need of them, as the last collection found; 0: there was none
  std::uint64_t failures = 0;
  std::string last_failure = {};
};

class Engine {
 public:
  /// Opens (or makes) the store and locks the chain. Errors: `busy` (another writer, with its pid), `corruption`,
  /// `unsupported` (newer format; a forced back end that does not work here), `invalid_argument`, `io`.
  static Result<Engine> open(const Options& options);

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  /// Drops what is in flight but not committed; call close() to wait for it. Waits for a lazy restore.
  ~Engine();

  /// Protects [address, address + bytes). The name is unique in this engine: 1 to 255 bytes of letters, digits and
  /// "-_./:". The memory must be readable and stay mapped until unprotect() or close(), also between checkpoints: the
  /// background reads it too, and a signal there would end the program. Ranges may share pages, but
  /// not bytes, with other regions of this engine. The memory belongs to the caller.
  Status protect(std::string_view name, void* address, std::size_t bytes, const RegionOptions& options = {});
  /// Ends it, once no checkpoint is being cut; images in flight keep what they have. Later images lack the region.
  Status unprotect(std::string_view name);
  /// Leaves bytes of a region out of all later images (recorded there); restore does not touch them.
  Status exclude(std::string_view name, std::size_t offset, std::size_t bytes);
  /// Declares a range written, for writes that the tracker can't see (docs/tracking.md).
  Status touch(const void* address, std::size_t bytes);

  /// Cuts, captures, returns. The first image of a chain, and of an engine that restored nothing, is full.
  /// Errors: `busy` (WhenBehind::fail), `invalid_argument` (no regions; a bad or taken label), `unsupported` (in a
  /// forked child), and, with `sync`, those of the image. An earlier image's failure is in its own ticket.
  Result<Ticket> checkpoint(const CheckpointOptions& options = {});
  /// Waits until no image is in flight; the first error of those that had not been asked for by Ticket::wait().
  Status wait();

  /// Restores the newest image of this chain into the protected regions. false: there is none yet. Everything else is
  /// an error: a damaged store never looks like a fresh start. Regions are matched by name and size before a byte is
  /// changed: `invalid_argument` names what is missing, extra or of another size.
  Result<bool> restore_if_any(const RestoreOptions& options = {});
  /// Restores one image: "7", "before-merge" (a label), "latest", or any of these behind "CHAIN/". In the running
  /// program this is a rollback: images in flight are finished first (if one fails, its error is returned and nothing
  /// is changed); the next image is a delta on the restored one; later images stay as a branch. When it fails half-way
  /// the error says so: the regions then hold neither state, and checkpoint() refuses until a restore succeeds.
  Result<ImageInfo> restore(std::string_view image, const RestoreOptions& options = {});
  /// Waits until all of a lazy restore is in place; at once where there is none. The error of what could not be read:
  /// the program runs on what came, is stopped where it touches the rest, and checkpoint() refuses until another
  /// restore.
  Status wait_restored();
  LazyStatus lazy_status() const;
  /// All images of the store, by chain and number.
  Result<std::vector<ImageInfo>> images();

  void set_hooks(Hooks hooks);
  Choices choices() const;
  MemoryUse memory_use() const;
  MaintenanceStatus maintenance() const;

  /// Waits for the images in flight, drops what Options::keep says, seals the store, releases the chain; the error of
  /// the last image that failed and was not asked for. The engine is closed even so. Calls after it return
  /// `invalid_argument`.
  Status close();

 private:
  explicit Engine(std::unique_ptr<class EngineImplementation> implementation);
  std::unique_ptr<class EngineImplementation> implementation_;
};

/// With the `mprotect` tracker, read(2) and other calls in which the kernel writes into protected memory fail with
/// EFAULT. Call this for the buffer first: it makes its pages writable and suspects of the next cut. A no-op for other
/// trackers and for memory that is not protected. Any thread.
Status writable(void* address, std::size_t bytes);

}  // namespace varve
