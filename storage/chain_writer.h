// SPDX-License-Identifier: Apache-2.0
//
// The ChainWriter of a store: chunks into frames, frames and a manifest into the open segment, one flush an image.
//
//     begin   add add add ...            commit                      the next image
//        |     |  64 KiB of chunks: choose a filter, compress into   |
//        |     |  the segment's buffer, index the places             |
//        v     v                                                     v
//     [image's frames, written as buffers fill][manifest][0]  flush
//     ^ committed end: on abandon() the segment goes back to it; after a failed write or flush the segment is never
//       written again and ends there by a note in the next one
//
// Threads: one at a time.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/chain_lock.h"
#include "storage/frame.h"
#include "storage/frame_workers.h"
#include "storage/known_bases.h"
#include "storage/segment_writer.h"
#include "storage/store_implementation.h"
#include "storage/stored_frames.h"

namespace varve::storage {

Result<std::unique_ptr<ChainWriter>> make_chain_writer(StoreImplementation& store, std::string chain,
                                                       std::shared_ptr<ChainLock> lock);

class ChainWriterImplementation final : public ChainWriter {
 public:
  ChainWriterImplementation(StoreImplementation& store, std::string chain, std::shared_ptr<ChainLock> lock,
                            std::unique_ptr<WriteBuffers> buffers);
  ~ChainWriterImplementation() override;

  std::uint64_t next_number() const override { return next_number_; }
  Status begin() override;
  Status add(const ChunkName& name, std::span<const std::byte> content, std::uint32_t element_bytes,
             const ChunkName& previous) override;
  void look_up(std::span<const ChunkName> names) override;
  bool warm_up() override;
  void expect(std::uint64_t chunks) override;
  Status confirm(const ChunkName& name, std::span<const std::byte> content) override;
  Result<Committed> commit(const Manifest& manifest) override;
  void abandon() override;
  Status retire(std::span<const std::uint64_t> numbers) override;
  Status set_label(std::uint64_t number, std::string_view label) override;
  Status pin(std::uint64_t number, bool pinned) override;
  Status seal() override;
  Status close() override;

  // For garbage collection (chain_writer_move.cc): what is moved forms commits of its own, begun by begin().
  StoreImplementation& store() { return store_; }
  const std::string& chain() const { return chain_; }
  /// The first half of its segments' names.
  std::uint64_t id() const { return writer_; }
  /// Another writer of the same chain under the same lock, with segments of its own.
  Result<std::unique_ptr<ChainWriterImplementation>> make_sibling();
  /// A frame as it is stored. REQUIRES: payload and names were checked.
  Status move_frame(std::span<const std::byte> payload, std::span<const ChunkName> names, bool difference);
  /// A chunk of a frame that is not moved whole; not looked up in the store. REQUIRES: the name was checked.
  /// `difference`: it was in one, with this base (or kNoBase), and will be, where that still pays.
  Status move_chunk(const ChunkName& name, std::span<const std::byte> content, std::uint32_t element_bytes,
                    bool difference, const ChunkName& base);
  /// Ends a commit of moved frames; durable when it returns.
  Status commit_moved(std::span<const SegmentName> sources);
  /// Writes a listed image once more, as it is. Begins and ends a commit.
  Status move_image(const Manifest& manifest);
  /// Writes a note once more. Likewise.
  Status move_note(Note note) { return write_note(std::move(note)); }
  std::uint64_t offset() const { return segment_ == nullptr ? 0 : segment_->offset(); }

 private:
  // Segments.
  Status ensure_segment();
  Status create_segment();
  Status seal_segment();
  /// After a failed write or flush: nothing behind the committed end counts any more.
  void fail_segment();
  void leave_failed_segments();
  std::vector<std::byte> seal_notes(const SegmentHeader& header, std::vector<FooterNote>& notes) const;

  // Records.
  Status append_chunk(const ChunkName& name, std::span<const std::byte> content, std::uint32_t element_bytes,
                      const ChunkName& previous, bool moved_difference);
  /// Ends the frame being filled: encodes it here, or has it encoded in the background.
  Status flush_frame();
  /// Where the next frame is gathered. REQUIRES: it is empty.
  Status begin_frame(FrameJob& job, std::uint32_t element_bytes);
  void encode_in_place(FrameJob& job);
  Status encode_here(FrameJob& job);
  void measure_fill(const FrameJob& job);
  /// Appends the oldest frame that is encoded in the background.
  Status append_oldest();
  Status append_all();
  /// The payload lies in `record` behind room for the header.
  void finish_frame(FrameJob& job, std::span<std::byte> record);
  /// Puts the header before a payload, and enters the frame everywhere. REQUIRES: its chunks are the last of the names.
  void enter_frame(std::span<std::byte> record, std::size_t payload_bytes, std::size_t chunks, bool difference);
  Status check_room() const;
  /// Closing record, padding, flush. `end`: of the commit, `offset`: of the record.
  Status write_closing(RecordType type, Parts content, CommitBlock& block, std::uint64_t& offset);
  void start_commit();
  Status write_note(Note note);
  Status commit_note(Note note);
  void accept_commit();
  Status check_listed(std::span<const std::uint64_t> numbers, std::string_view action);
  Status check_number(const Manifest& manifest);
  /// Refuses what depends on the list of images while a segment that can't be read may hide some.
  Status check_nothing_hidden(std::string_view action) const;
  Result<Committed> finish_commit(const Manifest& manifest);

  // Differences (chain_writer_difference.cc).
  /// What new chunks may be stored as a difference to instead of a chunk: itself, or its own base, so that none is ever
  /// to a difference. kNoBase: none that is as safe as what an image may name.
  ChunkName root_of(const ChunkName& previous);
  /// Whether an image may name the chunk at this place: one in a difference needs its base.
  bool base_stays(const ChunkName& name, const ChunkPlace& place);
  /// A frame's content XOR that of its bases; empty where too little has one. Done once for each frame.
  std::span<const std::byte> make_difference(FrameJob& job);
  /// Reads the job's bases; those that can't be read are none any more.
  void read_bases(FrameJob& job);
  /// For chunks that garbage collection takes out of a difference. False: it is no such frame, or has no base left.
  bool choose_moved(FrameJob& job);
  void remember_bases(const FrameJob& job);

  // Images.
  /// A place that this image may name.
  std::optional<ChunkPlace> find_stored(const ChunkName& name);
  /// Once, after a part of what is expected.
  void grow_index();
  void drop_image();
  void end_image();
  /// The content of a chunk whose frame has no place yet; empty when there is none of that name.
  std::span<const std::byte> find_pending(const ChunkName& name) const;
  FrameJob& filling() { return ring_[(oldest_ + background_) % ring_.size()]; }
  void clear_frames();
  /// Whether the stored chunk has these bytes.
  Status compare(const ChunkName& name, const ChunkPlace& place, std::span<const std::byte> content);
  OwnSegment own() const { return {ordinal_, content_.end, segment_.get()}; }
  void count_memory();

  StoreImplementation& store_;
  const std::string chain_;
  std::shared_ptr<ChainLock> lock_;
  std::unique_ptr<WriteBuffers> buffers_;
  const std::uint64_t writer_;
  std::uint64_t next_segment_ = 1;
  std::uint64_t next_number_;

  std::unique_ptr<SegmentWriter> segment_;
  SegmentHeader header_;
  std::uint64_t key_ = 0;
  std::uint32_t ordinal_ = 0;
  Footer content_;  // of the open segment, the image being written included
  std::size_t committed_frames_ = 0;
  std::size_t committed_names_ = 0;
  std::vector<SealedElsewhere> failed_segments_;  // to be sealed by notes in the next one

  // The image.
  bool begun_ = false;
  std::shared_ptr<Lock> store_lock_;
  std::optional<Error> broken_;        // a write failed: commit() says so
  std::uint64_t expected_chunks_ = 0;  // until the index has grown for them
  // What look_up() found, for the add()s that follow.
  std::array<ChunkName, kLookUpMost> ahead_names_;
  std::array<std::optional<ChunkPlace>, kLookUpMost> ahead_places_;
  std::size_t ahead_ = 0;
  std::size_t ahead_next_ = 0;
  std::size_t ahead_since_ = 0;  // so many chunks were in the segment then
  Committed counts_;
  std::uint64_t nonce_ = 0;
  std::uint32_t records_ = 0;
  std::uint64_t combined_ = 0;

  // Frames without a place: from `oldest_` on `background_` ones that are being encoded, then the one being filled.
  FilterChooser chooser_;
  std::uint64_t fill_begin_ns_ = 0;  // of the frame being filled
  double fill_ns_ = 0;               // for each raw byte: what this thread takes besides compressing
  FrameScratch scratch_;
  std::vector<FrameJob> ring_;
  std::size_t oldest_ = 0;
  std::size_t background_ = 0;
  std::unique_ptr<FrameEncoder> encoder_;  // null: one thread, all is done here

  StoredFrames stored_;  // for verify_on_dedup, and for bases
  KnownBases roots_;
  std::uint64_t seen_collections_ = 0;
  std::uint64_t counted_memory_ = 0;
};

}  // namespace varve::storage
