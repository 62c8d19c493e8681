// SPDX-License-Identifier: Apache-2.0
#include "storage/stored_frames.h"

#include <algorithm>

#include "base/try.h"

namespace varve::storage {
namespace {

constexpr std::size_t kMaxFrames = 16;  // 1 MiB
constexpr std::size_t kMaxFiles = 8;

}  // namespace

void StoredFrames::clear() {
  frames_.clear();
  files_.clear();
}

Result<std::span<const std::byte>> StoredFrames::chunk(const ChunkName& name, const ChunkPlace& place,
                                                       SegmentWriter* own) {
  const auto at = std::ranges::find_if(
      frames_, [&](const Frame& frame) { return frame.segment == place.segment && frame.offset == place.offset; });
  if (at != frames_.end()) {
    frames_.splice(frames_.begin(), frames_, at);
  } else {
    VARVE_TRY_ASSIGN(Frame loaded, load(place, own));
    frames_.push_front(std::move(loaded));
    if (frames_.size() > kMaxFrames) frames_.pop_back();
  }
  const Frame& frame = frames_.front();
  std::size_t offset = 0;
  for (std::uint32_t slot = 0; slot < frame.chunks.size(); ++slot) {
    if (slot == place.slot && frame.chunks[slot].name == name)
      return std::span<const std::byte>(frame.raw).subspan(offset, frame.chunks[slot].bytes);
    offset += frame.chunks[slot].bytes;
  }
  return damaged("the frame", {store_.view(place.segment).file, place.offset},
                 "it does not hold the chunk that it should");
}

Result<File*> StoredFrames::file_of(std::uint32_t segment, const std::string& name) {
  const auto at = std::ranges::find(files_, segment, &OpenSegment::segment);
  if (at != files_.end()) {
    files_.splice(files_.begin(), files_, at);
  } else {
    VARVE_TRY_ASSIGN(std::unique_ptr<File> file, store_.io().open(name, OpenMode::read));
    files_.push_front({segment, std::move(file)});
    if (files_.size() > kMaxFiles) files_.pop_back();
  }
  return files_.front().file.get();
}

Result<StoredFrames::Frame> StoredFrames::load(const ChunkPlace& place, SegmentWriter* own) {
  const SegmentView view = store_.view(place.segment);
  const std::uint64_t end = own != nullptr ? own->offset() : view.end;
  const StoredAt at{view.file, place.offset};
  if (place.offset >= end) return damaged("the frame", at, "the file ends before it");
  record_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kMaxFrameRecord, end - place.offset)));
  if (own != nullptr) {
    VARVE_TRY(own->read_back(place.offset, record_));
  } else {
    VARVE_TRY_ASSIGN(File* const file, file_of(place.segment, view.file));
    VARVE_TRY_ASSIGN(const std::size_t got, file->read(place.offset, record_));
    record_.resize(got);
  }
  if (scratch_ == nullptr) scratch_ = std::make_unique<FrameScratch>();
  VARVE_TRY_ASSIGN(const UnpackedFrame unpacked,
                   unpack_frame_record(record_, view.key, at, store_.chunk_bytes(), *scratch_));
  Frame frame;
  frame.segment = place.segment;
  frame.offset = place.offset;
  for (std::uint32_t slot = 0; slot < unpacked.frame.chunks; ++slot) frame.chunks.push_back(unpacked.frame.chunk(slot));
  frame.raw.assign(unpacked.raw.begin(), unpacked.raw.end());
  return frame;
}

}  // namespace varve::storage
