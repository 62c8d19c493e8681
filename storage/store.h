// SPDX-License-Identifier: Apache-2.0
//
// The store: chunks, images and chains at rest in one directory (formats: docs/formats/).
//
// Store reads: images, manifests, chunks. ChainWriter writes one chain: chunks into frames, then a manifest, then one
// flush. An image exists when commit() has returned without an error, and only then.
//
// Locks: a ChainWriter holds its chain's byte of the file `lock` exclusively and, from begin() to commit(), the store's
// byte shared; readers hold the store's byte shared while they read; garbage collection (collect.h) takes it
// exclusively to unlink.
//
// Threads: Store may be used from any thread, also beside its ChainWriters; a ChainWriter by one thread at a time.
// A Store must outlive its ChainWriters. In a child that the process forks nothing of it may be called but destructors:
// the index is not inherited (base/unforked_array.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "storage/chunk_name.h"
#include "storage/io.h"
#include "storage/manifest.h"
#include "varve/result.h"

namespace varve::storage {

struct StoreOptions {
  bool create = true;             ///< make a store when the directory holds none; false: `not_found`
  std::uint32_t chunk_bytes = 0;  ///< of a new store; 0: 4 KiB
  bool compress = true;
  bool favour_size = false;  ///< compress also where the disk would take the raw bytes sooner
  /// Chunks may be stored as differences to those that they replace. Off: to measure what that is worth, and nothing
  /// else.
  bool differences = true;
  bool verify_on_dedup = false;
  std::uint32_t threads = 1;         ///< for compression
  std::optional<int> niceness = {};  ///< the least of the threads that compress; empty: that of who writes first
  std::uint64_t segment_bytes = std::uint64_t{1} << 30;  ///< a segment is sealed at the first image end beyond this
  /// Space reserved ahead of the writes, at most; 0: none. All but an eighth is given back after each image, the rest
  /// when the segment is sealed.
  std::uint64_t preallocate_bytes = std::uint64_t{512} << 20;
};

/// One line of the list of images, without the chunks.
struct ImageSummary {
  std::string chain;
  std::uint64_t number = 0;
  std::uint64_t parent = 0;
  std::uint64_t revision = 0;
  ImageKind kind = ImageKind::full;
  std::uint64_t time_ns = 0;
  std::string label;
  std::uint64_t region_bytes = 0;   ///< sum of its regions' lengths
  std::uint64_t written_bytes = 0;  ///< frames, manifest and padding of this image
  std::string segment;              ///< file that holds its manifest
  std::uint64_t offset = 0;         ///< of the manifest record in it
  bool pinned = false;              ///< retention leaves it alone
};

/// One chunk to read. `tag` is the caller's own.
struct ChunkRequest {
  ChunkName name;
  std::uint32_t bytes = 0;  ///< the length it must have
  std::uint64_t tag = 0;
};

/// Called once per request, from several threads at once, with content that was checked against its name.
using DeliverChunk = std::function<void(std::uint64_t tag, std::span<const std::byte> content)>;

inline constexpr unsigned kAllProcessors = 0;

struct StoreStatistics {
  std::uint64_t indexed_chunks = 0;
  std::uint64_t index_bytes = 0;  ///< memory of the index; at most 40 per chunk once it has grown past a page
  std::uint64_t segments = 0;
  std::uint64_t stored_bytes = 0;  ///< on disk
  std::uint64_t writer_bytes = 0;  ///< memory of open ChainWriters: io buffers, content of the open segment
};

/// What commit() did.
struct Committed {
  std::uint64_t raw_bytes = 0;      ///< of the new chunks
  std::uint64_t written_bytes = 0;  ///< frames, manifest, padding
  std::uint64_t new_chunks = 0;
  std::uint64_t reused_chunks = 0;
  std::uint64_t flush_ns = 0;
  bool durable = false;  ///< false: the file system promises nothing (FileSystemTraits::durable)
};

class ChainWriter {
 public:
  virtual ~ChainWriter() = default;

  /// The number that the next image of this chain gets when none is in between. Never used before, also by images that
  /// were dropped since.
  virtual std::uint64_t next_number() const = 0;

  /// Between images, while nothing waits: faults in a part of the memory that is written from. False when there is
  /// nothing more to do.
  virtual bool warm_up() = 0;
  /// Starts an image.
  virtual Status begin() = 0;
  /// Makes sure that the image can name this chunk: reuses a durable one of that name (or one of this image), else
  /// appends it. The bytes are copied or compressed before it returns. `element_bytes`: hint for the filter, or 0.
  /// `previous`: the chunk that it replaces, which a difference may be stored to; all zero: none.
  /// REQUIRES: name == store.name_of(content); begin() called.
  virtual Status add(const ChunkName& name, std::span<const std::byte> content, std::uint32_t element_bytes,
                     const ChunkName& previous) = 0;
  /// Looks these up for the add()s that follow, in their order: the look-ups of several wait for memory at once. Of no
  /// effect but on speed; names beyond kLookUpMost are left to add().
  virtual void look_up(std::span<const ChunkName> names) = 0;
  static constexpr std::size_t kLookUpMost = 32;
  /// How many chunks this image may add, about: space is reserved in larger steps, and the index grows in one step,
  /// where most turn out to be new. REQUIRES: begin() called.
  virtual void expect(std::uint64_t chunks) = 0;
  /// With verify_on_dedup: compares the stored chunk of that name with these bytes; `corruption` when they differ.
  /// Otherwise does nothing.
  virtual Status confirm(const ChunkName& name, std::span<const std::byte> content) = 0;
  /// Writes the manifest and flushes. After an error the image does not exist, earlier ones are intact, and begin()
  /// may be called again. REQUIRES: every chunk that the manifest names was added, or is named by the parent's line.
  virtual Result<Committed> commit(const Manifest& manifest) = 0;
  /// Drops the image that was begun; nothing of it is kept.
  virtual void abandon() = 0;

  /// Takes images off the list, for ever; their numbers are not used again. Durable when it returns. Images that build
  /// on one are not looked at: the caller sees to them. `not_found` when one is not listed. REQUIRES: no image begun.
  virtual Status retire(std::span<const std::uint64_t> numbers) = 0;
  /// Gives an image another label, or none (""). Likewise.
  virtual Status set_label(std::uint64_t number, std::string_view label) = 0;
  /// Marks an image for retention to leave alone, or no longer. Likewise.
  virtual Status pin(std::uint64_t number, bool pinned) = 0;

  /// Seals the open segment, if it holds anything, and records the inventory: garbage collection works on sealed ones.
  /// REQUIRES: no image begun.
  virtual Status seal() = 0;

  /// Seals the segment, gives preallocated space back, and records the inventory. The lock is released in any case.
  virtual Status close() = 0;
};

/// Where one read_chunks() gets what it reads, a part at a time: a list of all of it would take much memory.
class RequestSource {
 public:
  virtual ~RequestSource() = default;
  /// The next requests; none: there are no more. They stay as they are until finished() tells of them. `room`: empty,
  /// for those that have no other place; parts later get it again. Called by the thread that reads, while others read
  /// what lies before.
  virtual std::span<const ChunkRequest> next(std::vector<ChunkRequest>& room) = 0;
  /// All of these, which next() gave, are delivered, and so is what was given before. Called likewise.
  virtual void finished(std::span<const ChunkRequest> requests) = 0;
};

class Store {
 public:
  /// Opens a store, or makes one. Damage that touches single images does not stop it: see verify(). Errors:
  /// `not_found`, `corruption` (varve.store itself), `unsupported` (a newer format), `io`, `invalid_argument`.
  static Result<std::unique_ptr<Store>> open(std::unique_ptr<Io> io, const StoreOptions& options);
  virtual ~Store() = default;

  virtual Io& io() = 0;
  virtual std::string id() const = 0;  ///< 32 hexadecimal digits
  virtual std::uint32_t chunk_bytes() const = 0;
  virtual const HashSecret& secret() const = 0;
  ChunkName name_of(std::span<const std::byte> content) const { return name_chunk(content, secret()); }

  /// Sorted by chain and number; only images that were accepted whole.
  virtual std::vector<ImageSummary> images() = 0;
  /// The newest image of a chain. `not_found` when it has none; `corruption` when the inventory knows a newer one than
  /// can be found: a damaged store never looks like an older one.
  virtual Result<ImageSummary> newest_image(std::string_view chain) = 0;
  /// What was found damaged when the store was opened or refreshed, a sentence each. verify() looks at everything.
  virtual std::vector<std::string> damage() = 0;
  /// A segment file that can't be read now and may hold images or notes of this chain; empty: none. As long as there is
  /// one, nothing may depend on what is listed: a ChainWriter refuses deltas and notes.
  virtual std::string hiding_segment(std::string_view chain) = 0;
  /// Sees what other writers committed since, and what garbage collection moved.
  virtual Status refresh() = 0;
  /// While it is held, garbage collection removes nothing: for those who choose an image and read it in several calls.
  /// Not for long: it keeps space from being given back.
  virtual Result<std::shared_ptr<Lock>> hold() = 0;
  virtual Result<Manifest> read_manifest(std::string_view chain, std::uint64_t number) = 0;

  /// Reads chunks in the order in which they lie, many at once, one part after the other; each is checked. Stops at the
  /// first error; `corruption` names file and offset. What was delivered before is good. `threads` and one more
  /// unpack and check, and as many, at most eight, wait for the disk; kAllProcessors: as many as this thread may use,
  /// and eight.
  virtual Status read_chunks(RequestSource& source, unsigned threads, const DeliverChunk& deliver) = 0;
  Status read_chunks(std::span<const ChunkRequest> requests, unsigned threads, const DeliverChunk& deliver);

  /// Takes the chain's lock (`busy` names the holder's pid) and mends what a killed writer of this chain left: its
  /// last whole image is kept, its segment flushed and sealed there.
  virtual Result<std::unique_ptr<ChainWriter>> open_chain(std::string_view chain) = 0;

  /// Those that have a segment, also where no image is listed any more.
  virtual std::vector<std::string> chains() = 0;
  virtual StoreStatistics statistics() = 0;
  /// Of the segments of one chain, as they are on disk.
  virtual std::uint64_t stored_bytes(std::string_view chain) = 0;
};

/// A chain's name: 1 to 64 of letters, digits, '-', '_', '.'; not starting with '.'; not a number.
Status check_chain_name(std::string_view chain);
/// A label: likewise, and not "latest".
Status check_label(std::string_view label);

}  // namespace varve::storage
