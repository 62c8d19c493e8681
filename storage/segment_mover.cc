// SPDX-License-Identifier: Apache-2.0
#include "storage/segment_mover.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "base/fault_point.h"
#include "base/try.h"

namespace varve::storage {
namespace {

constexpr std::uint64_t kCommitBytes = std::uint64_t{64} << 20;  // a flush each

}  // namespace

Result<std::unique_ptr<SegmentMover>> SegmentMover::open(const Liveness& liveness, ChainWriterImplementation& writer,
                                                         std::uint32_t ordinal, const SegmentName& name) {
  StoreImplementation& store = writer.store();
  std::unique_ptr<SegmentMover> mover(new SegmentMover(liveness, writer, ordinal));
  VARVE_TRY_ASSIGN(const Inventory inventory, read_inventory(store.io(), store.identity().id));
  VARVE_TRY_ASSIGN(std::vector<LoadedSegment> loaded, load_segments(store.io(), store.identity(), &inventory, {name}));
  const std::string file = to_string(name);
  if (loaded.empty()) return damaged("the segment", {file, 0}, "the file is missing");
  mover->segment_ = std::move(loaded.front());
  if (!mover->segment_.damage.empty()) return damaged("the segment", {file, 0}, mover->segment_.damage.front());
  VARVE_CHECK(mover->segment_.state != SegmentState::open);
  VARVE_TRY_ASSIGN(mover->file_, store.io().open(file, OpenMode::read));
  mover->reader_.emplace(*mover->file_, std::min(mover->segment_.file_bytes, mover->segment_.content.end));
  mover->key_ = record_key(store.identity().id, mover->segment_.header.incarnation);
  return mover;
}

SegmentMover::~SegmentMover() {
  if (begun_) writer_.abandon();
}

Result<bool> SegmentMover::move(const Pause& pause) {
  auto moved = move_frames(pause);
  if (!moved && begun_) {
    begun_ = false;
    writer_.abandon();
  }
  if (!moved || !*moved) return moved;
  VARVE_CHECK(moved_chunks_ == liveness_.in(ordinal_).chunks);
  VARVE_TRY(move_rest());
  return true;
}

Result<bool> SegmentMover::move_frames(const Pause& pause) {
  const Footer& content = segment_.content;
  std::vector<bool> alive;
  for (; next_frame_ < content.frames.size(); ++next_frame_) {
    const FooterFrame& frame = content.frames[next_frame_];
    const std::span<const ChunkName> names = std::span(content.names).subspan(next_name_, frame.chunks);
    alive.assign(frame.chunks, false);
    for (std::uint32_t slot = 0; slot < frame.chunks; ++slot)
      alive[slot] = liveness_.alive(names[slot], {ordinal_, frame.offset, slot, frame.difference});
    if (std::ranges::find(alive, true) != alive.end()) {
      if (pause && pause()) {
        VARVE_TRY(end_commit());
        return false;
      }
      VARVE_TRY(move_frame(frame, names, alive));
    }
    next_name_ += frame.chunks;
    if (begun_ && writer_.offset() - commit_begin_ >= kCommitBytes) VARVE_TRY(end_commit());
  }
  VARVE_TRY(end_commit());
  return true;
}

Status SegmentMover::move_frame(const FooterFrame& frame, std::span<const ChunkName> names,
                                const std::vector<bool>& alive) {
  const std::string& file = file_->name();
  const StoredAt at{file, frame.offset};
  VARVE_TRY_ASSIGN(const std::span<const std::byte> bytes, reader_->at(frame.offset, frame.bytes));
  VARVE_TRY_ASSIGN(const RecordHeader header, decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(
                                                                       bytes.data(), kRecordHeaderBytes),
                                                                   key_, at, bytes.size() - kRecordHeaderBytes));
  const auto payload = bytes.subspan(kRecordHeaderBytes, static_cast<std::size_t>(header.payload_bytes));
  if (header.type != RecordType::frame || !payload_matches(header, payload, key_))
    return damaged("the frame", at, "its checksum is wrong");
  VARVE_TRY_ASSIGN(const FrameView view, parse_frame(payload, writer_.store().chunk_bytes(), at));
  bool same = view.chunks == names.size() && view.is_difference() == frame.difference;
  for (std::uint32_t slot = 0; same && slot < view.chunks; ++slot) same = view.chunk(slot).name == names[slot];
  if (!same) return damaged("the frame", at, "it holds other chunks than the footer says");
  if (!begun_) {
    VARVE_TRY(writer_.begin());
    begun_ = true;
    commit_begin_ = writer_.offset();
  }
  if (std::ranges::find(alive, false) == alive.end()) {
    moved_chunks_ += names.size();
    return writer_.move_frame(payload, names, view.is_difference());
  }
  return move_chunks(view, alive, at);
}

Status SegmentMover::move_chunks(const FrameView& view, const std::vector<bool>& alive, const StoredAt& at) {
  VARVE_TRY_ASSIGN(std::span<const std::byte> raw, unpack_frame(view, scratch_, at));
  std::vector<std::byte> undone;
  for (std::uint32_t slot = 0; slot < view.chunks; ++slot) {
    const FrameChunk chunk = view.chunk(slot);
    std::span<const std::byte> content = raw.first(chunk.bytes);
    raw = raw.subspan(chunk.bytes);
    if (!alive[slot]) continue;
    const ChunkName base = view.base(slot);
    if (base != kNoBase) {
      VARVE_TRY_ASSIGN(const std::span<const std::byte> base_content, bases_.base(base, content.size(), {}));
      undone.resize(content.size());
      xor_bytes(content, base_content, undone);
      content = undone;
    }
    if (writer_.store().name_of(content) != chunk.name)
      return damaged("the frame", at, fmt::format("the content of chunk {} of it has another name", slot));
    VARVE_TRY(writer_.move_chunk(chunk.name, content, view.choice.element_bytes, view.is_difference(), base));
    ++moved_chunks_;
  }
  return {};
}

Status SegmentMover::end_commit() {
  if (!begun_) return {};
  VARVE_FAULT_POINT(collection_copied);
  begun_ = false;
  const SegmentName source = segment_.name;
  return writer_.commit_moved(std::span(&source, 1));
}

Status SegmentMover::move_rest() {
  StoreImplementation& store = writer_.store();
  for (const ListedImage& image : store.listed_images()) {
    if (image.segment != ordinal_) continue;
    VARVE_TRY_ASSIGN(const Manifest manifest, store.read_listed(image));
    VARVE_TRY(writer_.move_image(manifest));
  }
  for (Note& note : store.notes_to_keep(ordinal_)) VARVE_TRY(writer_.move_note(std::move(note)));
  VARVE_FAULT_POINT(collection_moved);
  return {};
}

}  // namespace varve::storage
