// SPDX-License-Identifier: Apache-2.0
#include "storage/stored_frames.h"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include <fmt/format.h>

#include "base/os_error.h"
#include "base/try.h"
#include "storage/chunk_reader.h"

namespace varve::storage {
namespace {

constexpr std::size_t kMaxFiles = 8;
constexpr std::size_t kDifferenceBytes = 8192;  // that most of them take: those that pay are small

/// A frame record into `record`, which begins with it, and mostly holds some of what follows; but where the medium
/// can't give that, no more than the record. `room`: from the frame to the segment's end; `first_bytes`: read at once.
Status read_record(File& file, std::uint64_t key, const StoredAt& at, std::uint64_t room, std::size_t first_bytes,
                   std::vector<std::byte>& record) {
  record.resize(static_cast<std::size_t>(std::min<std::uint64_t>(first_bytes, room)));
  auto got = file.read(at.offset, record);
  if (!got && medium_failed(got.error())) {
    record.resize(std::min(record.size(), kRecordHeaderBytes));
    got = file.read(at.offset, record);
  }
  if (!got) return got.error();
  record.resize(*got);
  if (record.size() < kRecordHeaderBytes) return damaged("the frame", at, "the file ends before it");
  VARVE_TRY_ASSIGN(const RecordHeader header, decode_record_header(std::span<const std::byte, kRecordHeaderBytes>(
                                                                       record.data(), kRecordHeaderBytes),
                                                                   key, at, room - kRecordHeaderBytes));
  const std::uint64_t needed = kRecordHeaderBytes + header.payload_bytes;
  const std::size_t have = record.size();
  if (have >= needed || needed > kMaxFrameRecord) return {};
  record.resize(static_cast<std::size_t>(needed));
  VARVE_TRY_ASSIGN(const std::size_t rest, file.read(at.offset + have, std::span(record).subspan(have)));
  record.resize(have + rest);
  return {};
}

}  // namespace

void StoredFrames::clear() {
  frames_.clear();
  files_.clear();
}

std::uint64_t StoredFrames::memory_bytes() const {
  std::uint64_t bytes = record_.capacity() + content_.capacity() + (scratch_ == nullptr ? 0 : 2 * kFrameRawBytes);
  for (const Frame& frame : frames_)
    bytes += frame.raw.capacity() + frame.chunks.capacity() * sizeof(FrameChunk) +
             frame.bases.capacity() * sizeof(ChunkName);
  return bytes;
}

Result<std::span<const std::byte>> StoredFrames::chunk(const ChunkName& name, const ChunkPlace& place,
                                                       const OwnSegment& own) {
  VARVE_TRY_ASSIGN(const Found found, find(name, place, own));
  if (found.base == kNoBase) return found.raw;
  content_.assign(found.raw.begin(), found.raw.end());
  auto base_content = base(found.base, content_.size(), own);
  if (!base_content) {
    const Error& error = base_content.error();
    const std::string file = source_.view(place.segment).file;
    return fail(
        error.code(),
        {fmt::format("reading chunk {} in {} failed", to_string(name), to_string(StoredAt{file, place.offset})),
         fmt::format("it is stored as a difference to another: {}: {}", error.what(), error.cause()), error.remedy()},
        error.os_errno());
  }
  xor_bytes(content_, *base_content, content_);
  return std::span<const std::byte>(content_);
}

Result<ChunkName> StoredFrames::base_of(const ChunkName& name, const ChunkPlace& place, const OwnSegment& own) {
  VARVE_TRY_ASSIGN(const Found found, find(name, place, own));
  return found.base;
}

Result<std::span<const std::byte>> StoredFrames::base(const ChunkName& name, std::size_t bytes, const OwnSegment& own) {
  std::vector<ChunkPlace> tried;
  std::optional<Error> first;
  while (const auto place = source_.find_base(name, tried)) {
    auto content = base_at(name, bytes, *place, own);
    if (content) return content;
    if (!first) first = content.error();
    tried.push_back(*place);
  }
  const std::string what = fmt::format("reading chunk {}, to which others are differences, failed", to_string(name));
  if (!first)
    return fail(ErrorCode::corruption,
                {what, "no readable segment holds it but in a difference, or none at all",
                 "run `varve verify` on the store to see which images are still good, and restore one of those"});
  return fail(first->code(), {what, fmt::format("{}: {}", first->what(), first->cause()), first->remedy()},
              first->os_errno());
}

Result<std::span<const std::byte>> StoredFrames::base_at(const ChunkName& name, std::size_t bytes,
                                                         const ChunkPlace& place, const OwnSegment& own) {
  VARVE_TRY_ASSIGN(const Found found, find(name, place, own));
  if (found.raw.size() != bytes)
    return wrong(place, fmt::format("chunk {} has {} bytes, and one of {} is a difference to it", to_string(name),
                                    found.raw.size(), bytes));
  if (name_chunk(found.raw, source_.secret()) != name)
    return wrong(place, fmt::format("the content of chunk {} of it has another name", place.slot));
  return found.raw;
}

Result<const StoredFrames::Frame*> StoredFrames::frame(const ChunkPlace& place, const OwnSegment& own) {
  const auto known = std::ranges::find_if(
      frames_, [&](const Frame& one) { return one.segment == place.segment && one.offset == place.offset; });
  if (known != frames_.end()) {
    frames_.splice(frames_.begin(), frames_, known);
  } else {
    const bool buffered = place.segment == own.ordinal && place.offset >= own.flushed_end;
    // The memory of the one that goes serves again.
    std::list<Frame> loaded;
    if (frames_.size() < most_frames_)
      loaded.emplace_back();
    else
      loaded.splice(loaded.begin(), frames_, std::prev(frames_.end()));
    VARVE_TRY(load(place, buffered ? own.writer : nullptr, loaded.front()));
    frames_.splice(frames_.begin(), loaded);
  }
  const Frame& front = frames_.front();
  if (place.difference == front.bases.empty())
    return wrong(place, "whether it is a difference is not what the footer says");
  return &front;
}

Result<StoredFrames::Found> StoredFrames::find(const ChunkName& name, const ChunkPlace& place, const OwnSegment& own) {
  VARVE_TRY_ASSIGN(const Frame* const held, frame(place, own));
  std::size_t offset = 0;
  for (std::uint32_t slot = 0; slot < held->chunks.size(); ++slot) {
    if (slot == place.slot && held->chunks[slot].name == name)
      return Found{std::span<const std::byte>(held->raw).subspan(offset, held->chunks[slot].bytes),
                   held->bases.empty() ? kNoBase : held->bases[slot]};
    offset += held->chunks[slot].bytes;
  }
  return wrong(place, "it does not hold the chunk that it should");
}

Error StoredFrames::wrong(const ChunkPlace& place, std::string cause) {
  const std::string file = source_.view(place.segment).file;
  return damaged("the frame", {file, place.offset}, std::move(cause));
}

Result<File*> StoredFrames::file_of(std::uint32_t segment, const std::string& name) {
  const auto known = std::ranges::find(files_, segment, &OpenSegment::segment);
  if (known != files_.end()) {
    files_.splice(files_.begin(), files_, known);
  } else {
    if (name.empty()) return os_error("reading a collected segment failed", ENOENT);
    VARVE_TRY_ASSIGN(std::unique_ptr<File> file, source_.io().open(name, OpenMode::read));
    files_.push_front({segment, std::move(file)});
    if (files_.size() > kMaxFiles) files_.pop_back();
  }
  return files_.front().file.get();
}

Status StoredFrames::load(const ChunkPlace& place, SegmentWriter* own, Frame& frame) {
  const SegmentView view = source_.view(place.segment);
  const std::uint64_t end = own != nullptr ? own->offset() : view.end;
  const StoredAt here{view.file, place.offset};
  if (view.file.empty()) return os_error("reading a collected segment failed", ENOENT);
  if (place.offset >= end) return damaged("the frame", here, "the file ends before it");
  const std::uint64_t room = end - place.offset;
  if (own != nullptr) {
    record_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kMaxFrameRecord, room)));
    VARVE_TRY(own->read_back(place.offset, record_));
  } else {
    VARVE_TRY_ASSIGN(File* const file, file_of(place.segment, view.file));
    VARVE_TRY(read_record(*file, view.key, here, room, place.difference ? kDifferenceBytes : kMaxFrameRecord, record_));
  }
  if (scratch_ == nullptr) scratch_ = std::make_unique<FrameScratch>();
  VARVE_TRY_ASSIGN(const UnpackedFrame unpacked,
                   unpack_frame_record(record_, view.key, here, source_.chunk_bytes(), *scratch_));
  frame.chunks.clear();
  frame.bases.clear();
  frame.segment = place.segment;
  frame.offset = place.offset;
  for (std::uint32_t slot = 0; slot < unpacked.frame.chunks; ++slot) {
    frame.chunks.push_back(unpacked.frame.chunk(slot));
    if (unpacked.frame.is_difference()) frame.bases.push_back(unpacked.frame.base(slot));
  }
  frame.raw.assign(unpacked.raw.begin(), unpacked.raw.end());
  return {};
}

}  // namespace varve::storage
