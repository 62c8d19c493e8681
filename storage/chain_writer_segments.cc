// SPDX-License-Identifier: Apache-2.0
//
// The segments of a ChainWriter: making, sealing, giving up.
#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"
#include "storage/chain_writer.h"

namespace varve::storage {
namespace {

/// Removes what killed processes left of segments being made. REQUIRES: byte 0 of the lock file is held.
void remove_leftovers(Io& io) {
  auto files = io.list(kSegmentFolder);
  if (!files) return;
  for (const std::string& file : *files)
    if (file.ends_with(".new")) static_cast<void>(io.remove(fmt::format("{}/{}", kSegmentFolder, file)).has_value());
}

/// One note as a commit of its own at `offset`.
std::vector<std::byte> encode_note_commit(const std::vector<std::byte>& note, const SegmentHeader& header,
                                          std::uint64_t nonce, std::uint64_t offset) {
  CommitBlock block;
  block.begin = offset;
  block.written_bytes = round_up(kRecordHeaderBytes + kCommitBlockBytes + note.size(), kBlockBytes);
  std::vector<std::byte> commit(kRecordHeaderBytes + kCommitBlockBytes);
  encode_commit_block(block,
                      std::span<std::byte, kCommitBlockBytes>(commit.data() + kRecordHeaderBytes, kCommitBlockBytes));
  commit.insert(commit.end(), note.begin(), note.end());
  RecordHeader record;
  record.type = RecordType::note;
  record.nonce = nonce;
  record.offset = offset;
  encode_record_header(record, std::span<const std::byte>(commit).subspan(kRecordHeaderBytes),
                       record_key(header.store, header.incarnation),
                       std::span<std::byte, kRecordHeaderBytes>(commit.data(), kRecordHeaderBytes));
  commit.resize(static_cast<std::size_t>(block.written_bytes));
  return commit;
}

}  // namespace

Status ChainWriterImplementation::ensure_segment() {
  if (segment_ != nullptr && content_.end >= store_.options().segment_bytes) {
    VARVE_TRY(seal_segment());
    if (auto recorded = store_.record_inventory(chain_); !recorded)  // the segments themselves tell the same
      log::info("storage", "the inventory was not renewed: {}", recorded.error().message());
  }
  if (segment_ != nullptr) return {};
  auto created = create_segment();
  if (!created) segment_.reset();
  return created;
}

std::vector<std::byte> ChainWriterImplementation::seal_notes(const SegmentHeader& header,
                                                             std::vector<FooterNote>& notes) const {
  std::vector<std::byte> bytes;
  std::uint64_t sequence = store_.next_sequence(chain_);
  for (const SealedElsewhere& failed : failed_segments_) {
    const std::uint64_t offset = kSegmentHeaderBytes + bytes.size();
    notes.push_back({offset, encode_note({NoteKind::seal, sequence++, chain_, {}, {}, failed})});
    const std::vector<std::byte> commit =
        encode_note_commit(notes.back().content, header, store_.io().random_number(), offset);
    bytes.insert(bytes.end(), commit.begin(), commit.end());
  }
  return bytes;
}

Status ChainWriterImplementation::create_segment() {
  VARVE_TRY_ASSIGN(const std::unique_ptr<Lock> table, lock_table(store_.io()));
  remove_leftovers(store_.io());
  header_ = {};
  header_.store = store_.identity().id;
  store_.io().fill_random(header_.incarnation);
  header_.name = {writer_, next_segment_};
  header_.generation = store_.inventory_generation();
  header_.time_ns = wall_clock_ns();
  header_.chain = chain_;
  std::vector<FooterNote> notes;
  const std::vector<std::byte> bytes = seal_notes(header_, notes);
  ++next_segment_;  // a name is never used twice, not even that of a file whose making failed
  VARVE_TRY_ASSIGN(segment_,
                   SegmentWriter::create(store_.io(), *buffers_, header_, bytes, {store_.options().preallocate_bytes}));
  if (!failed_segments_.empty()) VARVE_FAULT_POINT(failed_segment_sealed);
  failed_segments_.clear();
  key_ = record_key(header_.store, header_.incarnation);
  content_ = {};
  content_.chain = chain_;
  content_.end = segment_->offset();
  content_.notes = notes;
  committed_frames_ = committed_names_ = 0;
  ordinal_ = store_.add_own_segment(header_, std::move(notes), content_.end);
  return {};
}

Status ChainWriterImplementation::seal_segment() {
  content_.generation = store_.inventory_generation();
  Trailer trailer;
  const std::vector<std::byte> seal = encode_seal(content_, header_, store_.io().random_number(), trailer);
  auto written = [&]() -> Status {
    VARVE_TRY(segment_->append(seal));
    VARVE_TRY(segment_->submit());
    VARVE_FAULT_POINT(segment_footer_written);
    VARVE_TRY(segment_->truncate());
    return segment_->sync();
  }();
  if (!written) {
    fail_segment();
    return written;
  }
  VARVE_FAULT_POINT(segment_sealed);
  store_.sealed(ordinal_, trailer.file_bytes, trailer.footer_checksum);
  segment_.reset();
  content_ = {};
  committed_frames_ = committed_names_ = 0;
  ordinal_ = 0;
  return {};
}

void ChainWriterImplementation::fail_segment() {
  VARVE_CHECK(segment_ != nullptr);
  // Gives the space back, and keeps what a failed flush left in the page cache from looking like an image. Where it
  // fails the note below says the same.
  if (segment_->rewind(content_.end)) static_cast<void>(segment_->truncate().has_value());
  SealedElsewhere failed;
  failed.name = header_.name;
  failed.incarnation = header_.incarnation;
  failed.end = content_.end;
  content_.generation = store_.inventory_generation();
  failed.footer = encode_footer(content_);
  failed_segments_.push_back(std::move(failed));
  store_.sealed(ordinal_, content_.end, 0);
  log::info("storage", "{} is given up behind offset {}", segment_->name(), content_.end);
  segment_.reset();
  content_ = {};
  committed_frames_ = committed_names_ = 0;
  ordinal_ = 0;
}

Status ChainWriterImplementation::seal() {
  VARVE_CHECK(!begun_);
  const bool empty = segment_ == nullptr || (content_.images.empty() && content_.notes.empty());
  if (empty) return {};
  VARVE_TRY(seal_segment());
  return store_.record_inventory(chain_);
}

Status ChainWriterImplementation::close() {
  if (begun_) abandon();
  if (lock_ == nullptr) return {};
  auto closed = [&]() -> Status {
    if (segment_ == nullptr && !failed_segments_.empty()) VARVE_TRY(ensure_segment());
    VARVE_FAULT_POINT(failed_segment_sealed);
    if (segment_ == nullptr) return {};
    const bool empty = content_.images.empty() && content_.notes.empty();
    if (!empty) {
      VARVE_TRY(seal_segment());
      return store_.record_inventory(chain_);
    }
    const std::string name = segment_->name();
    segment_.reset();
    store_.forget(ordinal_);
    ordinal_ = 0;
    VARVE_TRY(store_.io().remove(name));
    return store_.io().sync_directory(kSegmentFolder);
  }();
  leave_failed_segments();
  if (segment_ != nullptr) store_.left_open(ordinal_);
  segment_.reset();
  lock_.reset();
  return closed;
}

void ChainWriterImplementation::leave_failed_segments() {
  // No note says where they end, so that they may turn out to end elsewhere: the next writer has to look.
  for (const SealedElsewhere& failed : failed_segments_) store_.left_open(failed.name);
  failed_segments_.clear();
}

}  // namespace varve::storage
