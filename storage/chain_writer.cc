// SPDX-License-Identifier: Apache-2.0
//
// Images: chunks, frames, manifests and notes. Segments are in chain_writer_segments.cc.
#include "storage/chain_writer.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr unsigned kMaxThreads = 32;
/// Of the chunks that are expected: when so many have come, the index grows for the others.
constexpr std::uint64_t kPartSeen = 16;

}  // namespace

Result<std::unique_ptr<ChainWriter>> make_chain_writer(StoreImplementation& store, std::string chain,
                                                       std::shared_ptr<ChainLock> lock) {
  VARVE_TRY_ASSIGN(std::unique_ptr<WriteBuffers> buffers, WriteBuffers::create());
  return std::unique_ptr<ChainWriter>(
      new ChainWriterImplementation(store, std::move(chain), std::move(lock), std::move(buffers)));
}

ChainWriterImplementation::ChainWriterImplementation(StoreImplementation& store, std::string chain,
                                                     std::shared_ptr<ChainLock> lock,
                                                     std::unique_ptr<WriteBuffers> buffers)
    : store_(store),
      chain_(std::move(chain)),
      lock_(std::move(lock)),
      buffers_(std::move(buffers)),
      writer_(store.io().random_number()),
      next_number_(store.next_number(chain_)),
      chooser_({.compress = store.options().compress,
                .favour_size = store.options().favour_size,
                .threads = std::clamp(store.options().threads, 1U, kMaxThreads)}),
      stored_(store) {
  const unsigned threads = std::min(store.options().threads, kMaxThreads);
  if (threads > 1) encoder_ = std::make_unique<FrameEncoder>(threads, store.options().niceness);
  ring_ = std::vector<FrameJob>(threads > 1 ? threads + 2 : 1);
  count_memory();
}

ChainWriterImplementation::~ChainWriterImplementation() {
  // Without close() nothing is sealed: the next writer of this chain recovers the segment.
  if (begun_) abandon();
  leave_failed_segments();
  if (segment_ != nullptr) store_.left_open(ordinal_);
  segment_.reset();
  store_.count_writer_bytes(-static_cast<std::int64_t>(counted_memory_));
}

void ChainWriterImplementation::count_memory() {
  const std::uint64_t frames = (ring_.size() * (encoder_ == nullptr ? 1 : 2) + 2) * kFrameRawBytes;
  std::uint64_t now = WriteBuffers::kMemoryBytes + frames + content_.memory_bytes();
  now += stored_.memory_bytes() + roots_.memory_bytes();
  for (const FrameJob& job : ring_) now += job.difference_memory == nullptr ? 0 : kFrameRawBytes;
  store_.count_writer_bytes(static_cast<std::int64_t>(now) - static_cast<std::int64_t>(counted_memory_));
  counted_memory_ = now;
}

Status ChainWriterImplementation::begin() {
  VARVE_CHECK(!begun_);
  if (lock_ == nullptr)
    return fail(ErrorCode::invalid_argument, {fmt::format("beginning an image of chain '{}' refused", chain_),
                                              "the chain's writer was closed", "open the chain again"});
  VARVE_TRY_ASSIGN(store_lock_, store_.hold());
  const auto ready = [&]() -> Status {
    VARVE_TRY(store_.refresh_if_collected());
    // Files that were collected are not kept open here: that would keep their space.
    if (const std::uint64_t now = store_.collections(); now != seen_collections_) {
      stored_.clear();
      seen_collections_ = now;
    }
    return ensure_segment();
  }();
  if (!ready) {
    store_lock_.reset();
    return ready;
  }
  start_commit();
  counts_ = {};
  begun_ = true;
  return {};
}

void ChainWriterImplementation::start_commit() {
  nonce_ = store_.io().random_number();
  records_ = 0;
  combined_ = 0;
}

std::span<const std::byte> ChainWriterImplementation::find_pending(const ChunkName& name) const {
  for (std::size_t i = 0; i <= background_; ++i) {
    const FrameJob& job = ring_[(oldest_ + i) % ring_.size()];
    std::size_t offset = 0;
    for (const FrameChunk& chunk : job.chunks) {
      if (chunk.name == name) return job.content().subspan(offset, chunk.bytes);
      offset += chunk.bytes;
    }
  }
  return {};
}

void ChainWriterImplementation::look_up(std::span<const ChunkName> names) {
  ahead_ = std::min(names.size(), kLookUpMost);
  ahead_next_ = 0;
  ahead_since_ = content_.names.size();
  std::ranges::copy(names.first(ahead_), ahead_names_.begin());
  store_.find_reusable(std::span(ahead_names_).first(ahead_), ordinal_, ahead_places_);
}

std::optional<ChunkPlace> ChainWriterImplementation::find_stored(const ChunkName& name) {
  while (ahead_next_ != ahead_ && ahead_names_[ahead_next_] != name) ++ahead_next_;  // those that were pending
  if (ahead_next_ == ahead_) return store_.find_reusable(name, ordinal_);
  const auto& place = ahead_places_[ahead_next_++];
  // Not there: unless it is in a frame that was entered since.
  if (!place && std::ranges::find(content_.names.begin() + static_cast<std::ptrdiff_t>(ahead_since_),
                                  content_.names.end(), name) != content_.names.end())
    return store_.find_reusable(name, ordinal_);
  return place;
}

bool ChainWriterImplementation::warm_up() {
  VARVE_CHECK(!begun_);
  return buffers_->warm_up();
}

void ChainWriterImplementation::expect(std::uint64_t chunks) {
  VARVE_CHECK(begun_);
  expected_chunks_ = chunks;
  // While there is nothing to write yet; memory that is not used then was never there.
  store_.reserve(chunks / kPartSeen);
  content_.names.reserve(committed_names_ + chunks);
  content_.frames.reserve(committed_frames_ + chunks / (kFrameRawBytes / store_.chunk_bytes()));
  segment_->expect(chunks * store_.chunk_bytes());
}

void ChainWriterImplementation::grow_index() {
  const std::uint64_t seen = counts_.new_chunks + counts_.reused_chunks;
  if (expected_chunks_ == 0 || seen < expected_chunks_ / kPartSeen) return;
  const std::uint64_t left = expected_chunks_ - std::min(expected_chunks_, seen);
  // In steps, it would be built anew several times. But for chunks that turn out to be stored already it is not to
  // grow.
  if (counts_.new_chunks >= seen - seen / kPartSeen) store_.expect(left);
  expected_chunks_ = 0;
}

Status ChainWriterImplementation::add(const ChunkName& name, std::span<const std::byte> content,
                                      std::uint32_t element_bytes, const ChunkName& previous) {
  VARVE_CHECK(begun_ && !content.empty() && content.size() <= store_.chunk_bytes());
  VARVE_AUDIT(store_.options().verify_on_dedup || name == store_.name_of(content));
  if (broken_) return *broken_;
  if (const auto pending = find_pending(name); !pending.empty()) {
    const bool same = std::ranges::equal(pending, content);
    VARVE_CHECK(same ||
                store_.options().verify_on_dedup);  // free to look, here: equal names of other content are a bug
    if (!same)
      return fail(ErrorCode::corruption,
                  {fmt::format("adding chunk {} to an image of chain '{}' refused", to_string(name), chain_),
                   "another chunk of this image has the same name and other content",
                   "the memory was shaped to deceive its hash: leave it out of the checkpoint"});
    ++counts_.reused_chunks;
    return {};
  }
  const auto place = find_stored(name);
  if (place && base_stays(name, *place)) {
    if (store_.options().verify_on_dedup) VARVE_TRY(compare(name, *place, content));
    ++counts_.reused_chunks;
    return {};
  }
  // Where it is stored as a difference of no use any more, what is written now needs nothing.
  auto appended = append_chunk(name, content, element_bytes, place ? kNoBase : previous, false);
  if (!appended) broken_ = appended.error();
  return appended;
}

Status ChainWriterImplementation::compare(const ChunkName& name, const ChunkPlace& place,
                                          std::span<const std::byte> content) {
  VARVE_TRY_ASSIGN(const std::span<const std::byte> stored, stored_.chunk(name, place, own()));
  if (std::ranges::equal(stored, content)) return {};
  return fail(
      ErrorCode::corruption,
      {fmt::format("comparing chunk {} with the one that is stored under its name failed", to_string(name)),
       fmt::format("the bytes in {} differ", to_string(StoredAt{store_.view(place.segment).file, place.offset})),
       "the memory was shaped to deceive its hash, or the store is damaged: run `varve verify`"});
}

Status ChainWriterImplementation::confirm(const ChunkName& name, std::span<const std::byte> content) {
  if (!store_.options().verify_on_dedup) return {};
  if (const auto pending = find_pending(name); !pending.empty()) {
    if (std::ranges::equal(pending, content)) return {};
  }
  Error error =
      fail(ErrorCode::corruption,
           {fmt::format("comparing chunk {} with the one that is stored under its name failed", to_string(name)),
            "there is none with these bytes", "take a full image, and run `varve verify` on the store"});
  std::vector<ChunkPlace> tried;
  while (const auto place = store_.find_chunk(name, tried)) {
    auto same = compare(name, *place, content);
    if (same || !place->difference) return same;
    // A difference that no image needs may have lost its base; another place counts then.
    error = same.error();
    tried.push_back(*place);
  }
  return error;
}

Status ChainWriterImplementation::append_chunk(const ChunkName& name, std::span<const std::byte> content,
                                               std::uint32_t element_bytes, const ChunkName& previous,
                                               bool moved_difference) {
  const FrameJob& last = filling();
  const bool full = last.raw_bytes + content.size() > kFrameRawBytes || last.chunks.size() == last.most_chunks;
  const bool other = element_bytes != last.element_bytes || moved_difference != last.moved_difference;
  if (full || (!last.chunks.empty() && other)) VARVE_TRY(flush_frame());
  FrameJob& job = filling();
  if (job.chunks.empty()) {
    job.moved_difference = moved_difference;
    job.replaces = previous != kNoBase && store_.options().differences;
    VARVE_TRY(begin_frame(job, element_bytes));
  }
  std::memcpy(job.raw + job.raw_bytes, content.data(), content.size());
  job.raw_bytes += content.size();
  job.chunks.push_back({name, static_cast<std::uint32_t>(content.size())});
  job.previous.push_back(previous);
  ++counts_.new_chunks;
  counts_.raw_bytes += content.size();
  grow_index();
  return {};
}

Status ChainWriterImplementation::begin_frame(FrameJob& job, std::uint32_t element_bytes) {
  fill_begin_ns_ = monotonic_ns();
  job.element_bytes = element_bytes;
  if (job.moved_difference || !chooser_.choose_raw(element_bytes, job.replaces)) return {};
  // Frames keep their order. Mostly more raw ones follow, so that this is done once for many.
  while (background_ != 0) VARVE_TRY(append_oldest());
  VARVE_TRY(check_room());
  const std::size_t most_chunks = kFrameRawBytes / store_.chunk_bytes();
  const std::size_t payload = max_frame_payload(most_chunks, kFrameRawBytes);
  VARVE_TRY_ASSIGN(job.in_place, segment_->room(round_up(kRecordHeaderBytes + payload, kRecordAlignment)));
  job.most_chunks = most_chunks;
  job.raw = job.in_place.data() + kRecordHeaderBytes + max_frame_payload(most_chunks, 0);
  return {};
}

void ChainWriterImplementation::encode_in_place(FrameJob& job) {
  const std::span<std::byte> payload = job.in_place.subspan(kRecordHeaderBytes);
  std::byte* const content = payload.data() + max_frame_payload(job.chunks.size(), 0);
  if (content != job.raw) std::memmove(content, job.raw, job.raw_bytes);  // fewer chunks than there was room for
  job.payload_bytes = encode_raw_frame(job.chunks, job.raw_bytes, payload);
  job.compressed = false;
  job.encode_ns = 0;
  job.choice = {};
  finish_frame(job, job.in_place);
}

Status ChainWriterImplementation::flush_frame() {
  FrameJob& job = filling();
  if (job.chunks.empty()) return {};
  if (encoder_ == nullptr) measure_fill(job);
  if (!job.in_place.empty()) {
    encode_in_place(job);
    return {};
  }
  chooser_.set_disk_speed(segment_->disk_bytes_per_second(), fill_ns_);
  MakeDifference make;
  if (job.replaces) make = [&] { return make_difference(job); };
  if (!choose_moved(job)) job.choice = chooser_.choose(job.content(), job.element_bytes, scratch_, make);
  if (encoder_ == nullptr) return encode_here(job);
  encoder_->start(job);
  ++background_;
  return background_ == ring_.size() ? append_oldest() : Status();
}

// Naming, looking up and copying is done by this thread as well, where it compresses. Only frames that were filled
// without a pause tell: between the others there were chunks that did not change.
void ChainWriterImplementation::measure_fill(const FrameJob& job) {
  constexpr double kMostNs = 0.5;
  const double ns = static_cast<double>(monotonic_ns() - fill_begin_ns_) / static_cast<double>(job.raw_bytes);
  if (job.raw_bytes == kFrameRawBytes && ns < kMostNs) fill_ns_ = fill_ns_ == 0 ? ns : (7 * fill_ns_ + ns) / 8;
}

Status ChainWriterImplementation::check_room() const {
  if (segment_->offset() <= kMaxSegmentBytes - SegmentWriter::kMaxRoom) return {};
  return fail(ErrorCode::unsupported,
              {fmt::format("writing an image of chain '{}' refused", chain_),
               fmt::format("{} would exceed its largest length", segment_->name()), "checkpoint fewer bytes at once"});
}

Status ChainWriterImplementation::encode_here(FrameJob& job) {
  VARVE_TRY(check_room());
  const std::size_t payload = max_frame_payload(job.chunks.size(), job.raw_bytes);
  VARVE_TRY_ASSIGN(const std::span<std::byte> room,
                   segment_->room(round_up(kRecordHeaderBytes + payload, kRecordAlignment)));
  const std::uint64_t begin_ns = monotonic_ns();
  job.payload_bytes = encode_frame(job.content(), job.chunks, job.choice, scratch_, room.subspan(kRecordHeaderBytes),
                                   job.compressed, job.difference());
  job.encode_ns = monotonic_ns() - begin_ns;
  finish_frame(job, room);
  return {};
}

Status ChainWriterImplementation::append_oldest() {
  FrameJob& job = ring_[oldest_];
  encoder_->wait(job);
  VARVE_TRY(check_room());
  VARVE_TRY_ASSIGN(const std::span<std::byte> room,
                   segment_->room(round_up(kRecordHeaderBytes + job.payload_bytes, kRecordAlignment)));
  std::memcpy(room.data() + kRecordHeaderBytes, job.payload.get(), job.payload_bytes);
  finish_frame(job, room);
  oldest_ = (oldest_ + 1) % ring_.size();
  --background_;
  return {};
}

Status ChainWriterImplementation::append_all() {
  VARVE_TRY(flush_frame());
  while (background_ != 0) VARVE_TRY(append_oldest());
  return {};
}

void ChainWriterImplementation::finish_frame(FrameJob& job, std::span<std::byte> record) {
  chooser_.learn(job.element_bytes, job.choice,
                 {.raw_bytes = job.raw_bytes,
                  .stored_bytes = job.payload_bytes - max_frame_payload(job.chunks.size(), 0),
                  .compressed = job.compressed,
                  .encode_ns = job.encode_ns,
                  .base_ns = job.choice.filter == Filter::difference ? job.base_ns : 0,
                  .replaces = job.replaces});
  for (const FrameChunk& chunk : job.chunks) content_.names.push_back(chunk.name);
  if (job.stored_as_difference()) remember_bases(job);
  enter_frame(record, job.payload_bytes, job.chunks.size(), job.stored_as_difference());
  job.clear();
}

void ChainWriterImplementation::enter_frame(std::span<std::byte> record, std::size_t payload_bytes, std::size_t chunks,
                                            bool difference) {
  RecordHeader header;
  header.type = RecordType::frame;
  header.nonce = nonce_;
  header.ordinal = records_++;
  header.offset = segment_->offset();
  encode_record_header(header, record.subspan(kRecordHeaderBytes, payload_bytes), key_,
                       record.first<kRecordHeaderBytes>());
  combined_ = combine_checksums(combined_, header.header_checksum, key_);
  const std::size_t bytes = round_up(kRecordHeaderBytes + payload_bytes, kRecordAlignment);
  std::memset(record.data() + kRecordHeaderBytes + payload_bytes, 0, bytes - kRecordHeaderBytes - payload_bytes);
  segment_->advance(bytes);
  content_.frames.push_back(
      {header.offset, static_cast<std::uint32_t>(bytes), static_cast<std::uint32_t>(chunks), difference});
  store_.index_frame(ordinal_, content_.frames.back(), std::span(content_.names).last(chunks));
  VARVE_FAULT_POINT(frame_written);
}

void ChainWriterImplementation::clear_frames() {
  for (FrameJob& job : ring_) {
    if (encoder_ != nullptr) encoder_->wait(job);
    job.clear();
  }
  oldest_ = background_ = 0;
}

Status ChainWriterImplementation::write_closing(RecordType type, Parts content, CommitBlock& block,
                                                std::uint64_t& offset) {
  offset = segment_->offset();
  block.begin = content_.end;
  block.records = records_;
  block.combined = combined_;
  std::uint64_t content_bytes = 0;
  for (const auto& part : content) content_bytes += part.size();
  block.written_bytes =
      round_up(offset + kRecordHeaderBytes + kCommitBlockBytes + content_bytes, kBlockBytes) - block.begin;
  std::array<std::byte, kCommitBlockBytes> block_bytes;
  encode_commit_block(block, block_bytes);
  std::vector<std::span<const std::byte>> payload = {block_bytes};
  payload.insert(payload.end(), content.begin(), content.end());
  RecordHeader record;
  record.type = type;
  record.nonce = nonce_;
  record.ordinal = records_;
  record.offset = offset;
  std::array<std::byte, kRecordHeaderBytes> header;
  encode_record_header(record, Parts(payload), key_, header);
  VARVE_TRY(segment_->append(header));
  for (const auto& part : payload) VARVE_TRY(segment_->append(part));
  VARVE_TRY(segment_->pad(kBlockBytes));
  VARVE_TRY(segment_->submit());
  VARVE_FAULT_POINT(manifest_written);
  VARVE_FAULT_POINT(image_before_sync);
  VARVE_TRY(segment_->sync());
  VARVE_FAULT_POINT(image_synced);
  return {};
}

Status ChainWriterImplementation::check_number(const Manifest& manifest) {
  const auto refused = [&](std::string cause) {
    return fail(ErrorCode::invalid_argument,
                {fmt::format("committing image {} of chain '{}' refused", manifest.number, manifest.chain),
                 std::move(cause), fmt::format("use chain '{}' and number {} or above", chain_, next_number_)});
  };
  if (manifest.chain != chain_) return refused(fmt::format("this writer is of chain '{}'", chain_));
  if (manifest.chunk_bytes != store_.chunk_bytes())
    return refused(
        fmt::format("its chunks have {} bytes, and the store's {}", manifest.chunk_bytes, store_.chunk_bytes()));
  if (manifest.number >= next_number_) return {};
  bool listed = false;
  const std::uint64_t revision = store_.revision_of(chain_, manifest.number, listed);
  if (!listed) return refused("the number was used before");
  if (manifest.revision <= revision) return refused(fmt::format("its revision {} exists already", revision));
  return {};
}

Status ChainWriterImplementation::check_nothing_hidden(std::string_view action) const {
  const std::string hiding = store_.hiding_segment(chain_);
  if (hiding.empty()) return {};
  return fail(ErrorCode::corruption,
              {fmt::format("{} chain '{}' refused", action, chain_),
               hiding + " can't be read now, and may say what became of the images that are listed",
               "checkpoint a full image; if it stays so, run `varve verify`, and move the file out of the store"});
}

Result<Committed> ChainWriterImplementation::commit(const Manifest& manifest) {
  VARVE_CHECK(begun_);
  auto committed = [&]() -> Result<Committed> {
    if (broken_) return *broken_;
    VARVE_TRY(check_manifest(manifest));
    VARVE_TRY(check_number(manifest));
    if (manifest.kind == ImageKind::delta) VARVE_TRY(check_nothing_hidden("committing a delta to"));
    return finish_commit(manifest);
  }();
  if (!committed) drop_image();
  end_image();
  return committed;
}

Result<Committed> ChainWriterImplementation::finish_commit(const Manifest& manifest) {
  // From here on an error is one of the medium: the segment can't be trusted behind its last commit.
  broken_ = fail(ErrorCode::io, {"writing an image failed", "the manifest was not flushed", "try again"});
  VARVE_TRY(append_all());
  VARVE_FAULT_POINT(image_before_manifest);
  for ([[maybe_unused]] const RegionRecord& region : manifest.regions)
    VARVE_AUDIT(std::ranges::all_of(region.names,
                                    [&](const ChunkName& name) { return store_.find_chunk(name, {}).has_value(); }));
  next_number_ = std::max(next_number_, manifest.number + 1);  // used up from now on, whatever happens
  store_.raise_next_number(chain_, next_number_);
  CommitBlock block;
  block.raw_bytes = counts_.raw_bytes;
  block.new_chunks = counts_.new_chunks;
  std::uint64_t offset = 0;
  const std::uint64_t begin_ns = monotonic_ns();
  const EncodedManifest content = encode_manifest_in_parts(manifest);
  VARVE_TRY(write_closing(RecordType::manifest, content.parts(), block, offset));
  counts_.flush_ns = monotonic_ns() - begin_ns;
  broken_.reset();
  accept_commit();
  content_.images.push_back(summarize(manifest, block, offset));
  store_.committed_image(ordinal_, content_.images.back(), content_.end);
  counts_.written_bytes = block.written_bytes;
  counts_.durable = store_.file_system().durable;
  VARVE_FAULT_POINT(image_committed);
  return counts_;
}

void ChainWriterImplementation::end_image() {
  begun_ = false;
  broken_.reset();
  expected_chunks_ = 0;
  ahead_ = ahead_next_ = 0;
  clear_frames();
  stored_.close_files();
  store_lock_.reset();
  // What was expected and is stored already.
  if (content_.names.capacity() / 2 > content_.names.size()) content_.names.shrink_to_fit();
  if (content_.frames.capacity() / 2 > content_.frames.size()) content_.frames.shrink_to_fit();
  count_memory();
}

void ChainWriterImplementation::drop_image() {
  clear_frames();
  stored_.clear();
  store_.unindex(ordinal_, std::span(content_.frames).subspan(committed_frames_),
                 std::span(content_.names).subspan(committed_names_));
  content_.frames.resize(committed_frames_);
  content_.names.resize(committed_names_);
  if (!broken_ && !segment_->rewind(content_.end))
    broken_ = fail(ErrorCode::io, {"dropping an image failed", "a write failed", "go on"});
  if (broken_) fail_segment();
}

void ChainWriterImplementation::abandon() {
  if (!begun_) return;
  drop_image();
  end_image();
}

Status ChainWriterImplementation::check_listed(std::span<const std::uint64_t> numbers, std::string_view action) {
  for (const std::uint64_t number : numbers) {
    bool listed = false;
    static_cast<void>(store_.revision_of(chain_, number, listed));
    if (!listed)
      return fail(ErrorCode::not_found, {fmt::format("{} image {} of chain '{}' refused", action, number, chain_),
                                         "there is no such image", "look at `varve list` for those that exist"});
  }
  return {};
}

Status ChainWriterImplementation::retire(std::span<const std::uint64_t> numbers) {
  VARVE_TRY(check_listed(numbers, "retiring"));
  if (numbers.empty()) return {};
  return write_note({NoteKind::retire, 0, chain_, {numbers.begin(), numbers.end()}, {}, {}});
}

Status ChainWriterImplementation::set_label(std::uint64_t number, std::string_view label) {
  if (!label.empty()) VARVE_TRY(check_label(label));
  VARVE_TRY(check_listed(std::span(&number, 1), "labelling"));
  return write_note({NoteKind::label, 0, chain_, {number}, std::string(label), {}});
}

Status ChainWriterImplementation::pin(std::uint64_t number, bool pinned) {
  VARVE_TRY(check_listed(std::span(&number, 1), pinned ? "pinning" : "unpinning"));
  return write_note({pinned ? NoteKind::pin : NoteKind::unpin, 0, chain_, {number}, {}, {}});
}

Status ChainWriterImplementation::write_note(Note note) {
  VARVE_TRY(check_nothing_hidden("changing the list of images of"));
  VARVE_TRY(begin());
  return commit_note(std::move(note));
}

Status ChainWriterImplementation::commit_note(Note note) {
  note.sequence = store_.next_sequence(chain_);
  const std::vector<std::byte> content = encode_note(note);
  CommitBlock block;
  std::uint64_t offset = 0;
  auto written = [&]() -> Status {
    if (broken_) return *broken_;
    VARVE_TRY(append_all());
    block.raw_bytes = counts_.raw_bytes;
    block.new_chunks = counts_.new_chunks;
    const std::span<const std::byte> whole = content;
    return write_closing(RecordType::note, std::span(&whole, 1), block, offset);
  }();
  if (!written) {
    broken_ = written.error();
    drop_image();
  } else {
    accept_commit();
    content_.notes.push_back({offset, content});
    store_.committed_note(ordinal_, note, content_.notes.back(), content_.end);
  }
  end_image();
  return written;
}

void ChainWriterImplementation::accept_commit() {
  content_.end = segment_->offset();
  committed_frames_ = content_.frames.size();
  committed_names_ = content_.names.size();
}

}  // namespace varve::storage
