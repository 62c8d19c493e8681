// SPDX-License-Identifier: Apache-2.0
//
// The inside of a Store: its segments, index and catalogue in memory, kept in step with the directory.
//
//     inventory, segments/*.seg  --load, refresh-->  segments_  --frames-->  index_       chunk name -> place
//                                                              --manifests, notes-->  catalogue_   images
//
// A segment has a number (ordinal) within the process, never used twice; it stays in the table, marked gone, when its
// file has been collected.
//
// Threads: any. mutex_ guards what is in memory and is held for short times; refresh_mutex_ serialises reading the
// directory and is taken first. share_mutex_ is taken alone.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "storage/catalogue.h"
#include "storage/chunk_index.h"
#include "storage/inventory.h"
#include "storage/segment_load.h"
#include "storage/store.h"
#include "storage/store_file.h"
#include "storage/stored_frames.h"

namespace varve::storage {

/// A segment in memory, without its frames and names: those are in the index.
struct Segment {
  std::uint32_t ordinal = 0;
  SegmentName name;
  SegmentHeader header;
  std::uint64_t key = 0;
  SegmentState state = SegmentState::open;
  bool ours = false;  ///< a ChainWriter of this Store writes it
  bool gone = false;  ///< collected
  bool unreadable = false;
  bool unopened = false;
  int read_errno = 0;      ///< LoadedSegment::read_errno
  bool unscanned = false;  ///< somebody else's open one, which may not be flushed here: nothing of it is listed
  bool unindexed = false;  ///< the index had no room for another place of a chunk in it
  bool leaving = false;    ///< being collected: no new image may name what is in it
  /// Its seal is known to be durable: it was flushed by this process, or is in the inventory. A footer that is merely
  /// seen may be in the page cache only, after its writer's flush failed.
  bool recorded = false;
  std::uint64_t end = 0;          ///< of what was accepted
  std::uint64_t durable_end = 0;  ///< chunks below may be named by any new image
  std::uint64_t file_bytes = 0;
  std::uint64_t footer_checksum = 0;
  std::uint64_t chunks = 0;  ///< in its frames
  std::vector<FooterImage> images;
  std::vector<FooterNote> notes;
  std::vector<std::string> damage;
};

/// A listed image and where its manifest lies.
struct ListedImage {
  std::string chain;
  FooterImage summary;
  std::uint32_t segment = 0;
};

/// A segment as garbage collection sees it.
struct CollectableSegment {
  std::uint32_t ordinal = 0;
  SegmentName name;
  std::uint64_t bytes = 0;   ///< of the file
  std::uint64_t chunks = 0;  ///< in its frames
  std::vector<FooterImage> images;
  std::string why_not;  ///< why it can't be collected now; else empty
};

class StoreImplementation final : public Store, public FrameSource {
 public:
  StoreImplementation(std::unique_ptr<Io> io, const StoreOptions& options, const StoreIdentity& identity);

  Io& io() override { return *io_; }
  std::string id() const override;
  std::uint32_t chunk_bytes() const override { return identity_.chunk_bytes; }
  const HashSecret& secret() const override { return identity_.secret; }
  std::vector<ImageSummary> images() override;
  Result<ImageSummary> newest_image(std::string_view chain) override;
  std::vector<std::string> damage() override;
  std::string hiding_segment(std::string_view chain) override;
  Status refresh() override;
  Result<std::shared_ptr<Lock>> hold() override;
  Result<Manifest> read_manifest(std::string_view chain, std::uint64_t number) override;
  Status read_chunks(RequestSource& source, unsigned threads, const DeliverChunk& deliver) override;
  Result<std::unique_ptr<ChainWriter>> open_chain(std::string_view chain) override;
  std::vector<std::string> chains() override;
  StoreStatistics statistics() override;
  std::uint64_t stored_bytes(std::string_view chain) override;

  // For the chunk reader and the chain writers.
  const StoreOptions& options() const { return options_; }
  const StoreIdentity& identity() const { return identity_; }
  const FileSystemTraits& file_system() const { return file_system_; }
  Status load_file_system();
  /// refresh() by who has the store's byte.
  Status refresh_held();
  /// refresh(), when garbage collection has been at work since the last time. REQUIRES: the store's byte is held.
  Status refresh_if_collected();
  /// Why what is not found may be there all the same: a segment that can't be read because the medium failed.
  std::optional<Error> read_failure();
  /// A place of this chunk that is not among `tried`; a difference only where there is no other.
  std::optional<ChunkPlace> find_chunk(const ChunkName& name, std::span<const ChunkPlace> tried);
  /// Likewise of several, none tried yet; `places` has as many.
  void find_chunks(std::span<const ChunkRequest> requests, std::span<std::optional<ChunkPlace>> places);
  std::optional<ChunkPlace> find_base(const ChunkName& name, std::span<const ChunkPlace> tried) override;
  /// A place that an image in segment `own` may name: durable, or in `own`. A difference only where there is no other,
  /// and whoever names it makes sure of its base.
  std::optional<ChunkPlace> find_reusable(const ChunkName& name, std::uint32_t own);
  /// The same of one that is no difference.
  std::optional<ChunkPlace> find_reusable_base(const ChunkName& name, std::uint32_t own);
  /// All places, for garbage collection.
  std::vector<ChunkPlace> places(const ChunkName& name);
  /// Likewise of several; `places` has as many.
  void find_reusable(std::span<const ChunkName> names, std::uint32_t own, std::span<std::optional<ChunkPlace>> places);
  /// Makes room in the index for that many more chunks, at once, unless it is larger than that already.
  void reserve(std::uint64_t chunks);
  /// That many more chunks will come: the index makes room for them as they do.
  void expect(std::uint64_t chunks);
  SegmentView view(std::uint32_t ordinal) override;
  SegmentName name_of_segment(std::uint32_t ordinal);

  // For the chain writers; each keeps index, catalogue and table in step.
  std::uint32_t add_own_segment(const SegmentHeader& header, std::vector<FooterNote> notes, std::uint64_t end);
  std::uint64_t collections();
  void index_frame(std::uint32_t ordinal, const FooterFrame& frame, std::span<const ChunkName> names);
  /// A place that turned out to be of no use.
  void unindex(const ChunkName& name, const ChunkPlace& place);
  void unindex(std::uint32_t ordinal, std::span<const FooterFrame> frames, std::span<const ChunkName> names);
  void committed_image(std::uint32_t ordinal, const FooterImage& image, std::uint64_t end);
  void committed_note(std::uint32_t ordinal, const Note& note, const FooterNote& content, std::uint64_t end);
  /// A segment of ours was sealed, by its own footer or (footer_checksum 0) to be sealed by a note.
  void sealed(std::uint32_t ordinal, std::uint64_t file_bytes, std::uint64_t footer_checksum);
  void forget(std::uint32_t ordinal);     ///< its file was removed
  void left_open(std::uint32_t ordinal);  ///< its writer is gone without sealing it
  /// Likewise one that was given up, when its writer could not write down where it ends.
  void left_open(const SegmentName& name);
  std::uint64_t next_number(std::string_view chain);
  std::uint64_t next_sequence(std::string_view chain);
  std::uint64_t revision_of(std::string_view chain, std::uint64_t number, bool& listed);
  void raise_next_number(const std::string& chain, std::uint64_t next);
  /// Of an inventory that is known to be durable: what is written under a later one than survives looks like damage.
  std::uint64_t inventory_generation();
  /// Makes the inventory that was read durable: whoever renamed it may have been killed before the folder was flushed.
  void settle_inventory();
  /// Readers do without an inventory that can't be read; who recovers a chain without it would seal anew what it lists.
  Status check_inventory_was_read();
  /// Writes a new inventory: the old one merged with what this store knows of its segments and of this chain.
  /// REQUIRES: the chain's lock is held.
  Status record_inventory(const std::string& chain);
  /// Seals what killed writers of this chain left open. REQUIRES: the chain's lock is held.
  Status recover_chain(const std::string& chain);
  void count_writer_bytes(std::int64_t change);

  // For garbage collection (store_collection.cc).
  /// `corruption` when something can't be read or is missing: nobody knows what it needs.
  Status check_collectable();
  std::vector<ListedImage> listed_images();
  /// As it is on disk, whatever was collected since. REQUIRES: the store's byte is held.
  Result<Manifest> read_listed(const ListedImage& image);
  /// All segments of a chain that are there; open ones with their reason.
  std::vector<CollectableSegment> segments_of(std::string_view chain);
  /// Of the places that may be trusted (durable ones) one that is no difference, and of those the one in the youngest
  /// segment; where none is durable, any. `base`: no difference at all.
  std::optional<ChunkPlace> find_keeper(const ChunkName& name, bool base);
  /// Segments among `leaving` that alone hold this chunk; empty when another durable place has it. `base`: differences
  /// do not count.
  std::vector<std::uint32_t> only_in(const ChunkName& name, const std::set<std::uint32_t>& leaving, bool base);
  /// Whether a durable place outside of `leaving` has it that is no difference.
  bool stays_plain(const ChunkName& name, const std::set<std::uint32_t>& leaving);
  void set_leaving(std::span<const std::uint32_t> ordinals, bool leaving);
  /// Notes of a segment of this chain that still mean something, in as few as possible. Sequences are not filled in.
  std::vector<Note> notes_to_keep(std::uint32_t ordinal);
  /// Takes segments of this chain off the inventory, and removes their files; gives the bytes of those that are gone.
  /// REQUIRES: the store's byte is held exclusively, the chain's lock is held, refresh_held() was called since.
  Result<std::uint64_t> remove_segments(const std::string& chain, std::span<const std::uint32_t> ordinals);

 private:
  Status refresh_locked() VARVE_REQUIRES(refresh_mutex_);
  /// Segments whose files are not what the table says: names to load, and numbers to drop.
  void compare_table(const std::vector<SegmentName>& names, std::vector<SegmentName>& load,
                     std::vector<std::uint32_t>& drop) VARVE_REQUIRES(mutex_);
  void take(LoadedSegment&& loaded) VARVE_REQUIRES(mutex_);
  void drop(std::uint32_t ordinal) VARVE_REQUIRES(mutex_);
  void rebuild_catalogue() VARVE_REQUIRES(mutex_);
  void add_to_catalogue(const Segment& segment) VARVE_REQUIRES(mutex_);
  void note_inventory(const Result<Inventory>& inventory, const std::vector<SegmentName>& names) VARVE_REQUIRES(mutex_);
  Inventory merged_inventory(const Result<Inventory>& current, const std::vector<SegmentName>& files,
                             const std::string& chain) VARVE_REQUIRES(mutex_);
  ImageSummary summary(const std::string& chain, const Catalogue::Image& image, const std::string& label, bool pinned)
      VARVE_REQUIRES(mutex_);
  Segment& segment(std::uint32_t ordinal) VARVE_REQUIRES(mutex_) { return segments_[ordinal - 1]; }
  bool reusable(const ChunkPlace& place, std::uint32_t own) VARVE_REQUIRES(mutex_);
  template <class Accept>
  std::optional<ChunkPlace> find_plain_first(const ChunkName& name, Accept&& accept) VARVE_REQUIRES(mutex_);
  Status recover_segment(std::uint32_t ordinal, const SegmentName& name);
  static bool may_hide(const Segment& known, std::string_view chain) {
    return (known.unreadable || known.unscanned) && !known.gone &&
           (known.header.chain.empty() || known.header.chain == chain);
  }
  /// Images that nobody can see have numbers: leaves those out.
  void skip_hidden_numbers(const std::string& chain) VARVE_REQUIRES(mutex_);

  const std::unique_ptr<Io> io_;
  const StoreOptions options_;
  const StoreIdentity identity_;
  FileSystemTraits file_system_;

  Mutex share_mutex_;
  std::weak_ptr<Lock> shared_ VARVE_GUARDED_BY(share_mutex_);  // the store's byte, while somebody here holds it
  Mutex refresh_mutex_;
  Mutex mutex_;
  std::vector<Segment> segments_ VARVE_GUARDED_BY(mutex_);  // by ordinal, from 1
  std::map<SegmentName, std::uint32_t> by_name_ VARVE_GUARDED_BY(mutex_);
  ChunkIndex index_ VARVE_GUARDED_BY(mutex_);
  Catalogue catalogue_ VARVE_GUARDED_BY(mutex_);
  Inventory inventory_ VARVE_GUARDED_BY(mutex_);
  std::optional<Error> inventory_failure_ VARVE_GUARDED_BY(mutex_);  // it could not be read the last time
  std::uint64_t durable_generation_ VARVE_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> damage_ VARVE_GUARDED_BY(mutex_);  // of no single segment
  std::uint64_t writer_bytes_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::storage
